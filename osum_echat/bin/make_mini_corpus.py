"""Makes the mini corpus with espeak-ng voices: ``python -m osum_echat.bin.make_mini_corpus --out data/mini``.

Running it again finishes what was begun, or says that all is there. ``--preset smoke`` is the tiny one for CI; a size given by hand wins.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from osum_echat.bin._cli import run_cli
from osum_echat.datagen.grammar import SPLITS
from osum_echat.datagen.mini_corpus import MiniSettings
from osum_echat.datagen.mini_lists import make_mini_corpus

PARTS = tuple(field.name for field in fields(MiniSettings) if field.name.split("_")[0] in SPLITS)
PRESETS: dict[str, dict[str, int]] = {  # in place of the defaults of MiniSettings
    "default": {},
    "smoke": dict(zip(PARTS, (300, 20, 40, 60, 8, 8, 60, 8, 8, 60, 8, 16), strict=True)),
}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for wav files, Kaldi directories and lists")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="default", help="sizes")
    for part in PARTS:
        parser.add_argument(f"--{part}", type=int, default=None, help="number of utterances, in place of the preset's")
    parser.add_argument("--seed", type=int, default=777, help="the same seed gives the same files")
    parser.add_argument("--num_processes", type=int, default=os.cpu_count() or 1, help="parallel processes; does not change the result")
    parser.add_argument("--overwrite", action="store_true", help="remove a corpus with other settings that lies under --out")
    return parser


class _Progress:
    """One line that renews itself on a terminal, a line every ten percent elsewhere."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._first: int | None = None  # what an earlier run had finished tells nothing about the speed of this one
        self._shown = 0

    def __call__(self, done: int, total: int) -> None:
        if self._first is None:
            self._first = done
            return
        elapsed = time.monotonic() - self._start
        left = elapsed / (done - self._first) * (total - done)
        line = f"mini corpus: {done}/{total} utterances, {elapsed:.0f} s, {left:.0f} s left"
        if sys.stderr.isatty():
            print(f"\r{line} ", end="\n" if done == total else "", file=sys.stderr, flush=True)
        elif done * 10 // total > self._shown or done == total:
            self._shown = done * 10 // total
            print(line, file=sys.stderr, flush=True)


def _body(argv: Sequence[str] | None) -> int:
    args = get_parser().parse_args(argv)
    sizes = PRESETS[args.preset] | {part: count for part in PARTS if (count := getattr(args, part)) is not None}
    settings = MiniSettings(**sizes, seed=args.seed)
    start = time.monotonic()
    report = make_mini_corpus(args.out, settings, args.num_processes, args.overwrite, _Progress())
    for split, facts in report.items():
        print(f"{split}: " + ", ".join(f"{name} {value}" for name, value in facts.items()))
    print(f"mini corpus: {args.out} complete after {time.monotonic() - start:.1f} s")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_cli(lambda: _body(argv))


if __name__ == "__main__":
    sys.exit(main())
