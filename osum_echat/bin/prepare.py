"""``osum-echat prepare``: a manifest.jsonl or a Kaldi directory -> raw lists for training and test, split by speaker.

osum-echat prepare --manifest m.jsonl --select set=digits --task asr --test_speakers jackson --out data
osum-echat prepare --kaldi data/all --folds 5 --fold 0 --out data
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from osum_echat.bin._cli import run_cli
from osum_echat.data.manifest import TEXT_STYLES, Split, describe, prepare, read_kaldi, read_manifest, select, to_json, write_list


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--manifest", metavar="FILE", help="JSON lines: key, wav, txt, speaker and labels; null is unknown")
    where.add_argument("--kaldi", metavar="DIR", help="wav.scp, text, utt2*")
    parser.add_argument("--out", type=Path, help="folder for train.list, test.list and prepare.json")
    conditions = "field=a|b, field!=a, field>=13, field<=12, field=* (known); all must hold"
    parser.add_argument("--select", nargs="+", action="extend", default=[], metavar="COND", help=conditions)
    parser.add_argument("--task", default="auto", help="task of every row, or auto: the richest its fields can answer (default)")
    parser.add_argument("--text", choices=sorted(TEXT_STYLES), default="keep", help="keep, lower, or plain: lower case without punctuation")
    parser.add_argument("--unknown_labels", choices=("error", "drop"), default="error", help="labels that text/tags.py does not know")
    parser.add_argument("--test_speakers", default="", metavar="A,B", help="speakers of the test list; without it a fold is taken")
    parser.add_argument("--folds", type=int, default=5, help="speakers are dealt into so many folds (default: %(default)s)")
    parser.add_argument("--fold", type=int, default=0, help="which of them is the test list (default: %(default)s)")
    parser.add_argument("--list_speakers", action="store_true", help="only print the speakers of the selected rows, one a line")
    return parser


def _body() -> int:
    parser = get_parser()
    args = parser.parse_args()
    rows = select(read_manifest(args.manifest) if args.manifest else read_kaldi(args.kaldi), args.select)
    if args.list_speakers:
        print("\n".join(sorted({row.speaker for row in rows if row.speaker})))
        return 0
    if args.out is None:
        parser.error("the following arguments are required: --out")
    split = Split(tuple(name for name in args.test_speakers.split(",") if name), args.folds, args.fold)
    prepared = prepare(rows, split, args.task, args.text, args.unknown_labels == "drop")
    for name, side in (("train", prepared.train), ("test", prepared.test)):
        write_list(args.out / f"{name}.list", side)
        print(f"{args.out / name}.list: {describe(side)}")
    (args.out / "prepare.json").write_text(to_json(prepared) + "\n", encoding="utf-8")
    for reason, num in prepared.skipped.items():
        print(f"skipped {num} rows: {reason}")
    return 0


def main() -> int:
    """Entry point."""
    return run_cli(_body)


if __name__ == "__main__":
    sys.exit(main())
