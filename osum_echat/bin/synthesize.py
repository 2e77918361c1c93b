"""osum-echat synthesize: speech tokens of a list -> wav files, with a trained flow and vocoder.

osum-echat synthesize --list exp/decode/hyp.list --flow exp/2_flow --vocoder exp/2_vocoder --out exp/speech

Writes <out>/wav/<key>.wav, <out>/data.list (the rows with that file as wav, task asr: `osum-echat decode --task asr` transcribes it) and
<out>/synthesize.json (counts, drops, real-time factor). Started again after an interruption it goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch
from rich.console import Console

from osum_echat.bin._cli import run_cli
from osum_echat.bin._progress import Progress
from osum_echat.config import SourceConfig
from osum_echat.errors import UserError
from osum_echat.generate.requests import count_rows, read_rows
from osum_echat.generate.synthesize import ListSynthesis
from osum_echat.train.assemble import load_token2wav


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    prog = "osum-echat synthesize"
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", required=True, help="rows with speech_token: hyp.list of a decode, or a list of recordings")
    parser.add_argument("--data_type", choices=("raw", "shard", "combine"), default="raw", help="form of the list (default: raw)")
    parser.add_argument("--flow", type=Path, required=True, help="run directory of the flow (train.yaml, final.pt)")
    parser.add_argument("--vocoder", type=Path, required=True, help="run directory of the vocoder (train.yaml, final.pt)")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--seed", type=int, default=777, help="of the noise (default: 777)")
    parser.add_argument("--batch_tokens", type=int, default=1500, help="speech tokens at once, padding included (default: 1500)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: a GPU when there is one")
    return parser


def _body() -> int:
    args = get_parser().parse_args()
    if args.batch_tokens < 1:
        raise UserError(f"--batch_tokens {args.batch_tokens} must be at least 1")
    source = SourceConfig(kind=args.data_type, list=args.list)
    total = count_rows(source)
    token2wav = load_token2wav(args.flow, args.vocoder, args.device)
    files = [run / name for run in (args.flow, args.vocoder) for name in ("train.yaml", "final.pt")]
    stamps = {str(path): [os.stat(path).st_size, os.stat(path).st_mtime_ns] for path in (*files, args.list)}
    facts = {"list": args.list, "data_type": args.data_type, "flow": str(args.flow), "vocoder": str(args.vocoder), "seed": args.seed}
    with Progress(Console(stderr=True), "synthesize", "utterances", total) as bar:

        def show(done: int, dropped: int) -> None:
            bar.show(done + dropped, total, f"{dropped} dropped")

        synthesis = ListSynthesis(token2wav, args.out, args.seed, args.batch_tokens, show)
        synthesis.run(read_rows(source), {"format": 1, **facts, "files": stamps})
    info = synthesis.write_outputs(facts)
    seconds = f"{info['audio_seconds']:.0f} s of speech in {info['wall_seconds']:.0f} s"
    print(f"{args.out}: {info['n']} utterances, {seconds}, RTF {info['rtf']:.3f} with {info['num_threads']} threads")
    for reason, count in info["drop_counts"].items():
        print(f"dropped {count}: {reason} (listed in {args.out / 'synthesize.json'})")
    return 0


def main() -> int:
    """Entry point."""
    return run_cli(_body)


if __name__ == "__main__":
    sys.exit(main())
