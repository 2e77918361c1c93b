#!/usr/bin/env python3
"""Word error rate of two Kaldi text files, with WeNet's arguments and layout.

    tools/compute-wer.py [--char=1] [--v=1] [--cs=0] [--ig=words.txt] ref hyp > wer

Unlike WeNet's script, a reference without a hypothesis counts as deletions and is listed, and an unknown switch is an error.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a checkout without installing

from osum_echat.errors import UserError
from osum_echat.evaluate.kaldi_text import read_kaldi_text
from osum_echat.evaluate.text import error_rate, render


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "", allow_abbrev=False)
    parser.add_argument("--char", type=int, choices=(0, 1), default=0, help="1: every CJK letter is a token; punctuation is dropped")
    parser.add_argument("--v", type=int, choices=(0, 1), default=1, help="1: print the alignment of every utterance and each script")
    parser.add_argument("--cs", type=int, choices=(0, 1), default=0, help="1: upper and lower case differ")
    parser.add_argument("--ig", metavar="FILE", help="one word a line that is not counted")
    parser.add_argument("ref", help="reference: key and transcript a line")
    parser.add_argument("hyp", help="hypothesis: the same form")
    return parser.parse_args()


def main() -> int:
    """Prints the comparison; status 2 when an input is wrong."""
    args = parse_args()
    try:
        ignore = frozenset(Path(args.ig).read_text(encoding="utf-8").split()) if args.ig else frozenset()
        references, hypotheses = read_kaldi_text(Path(args.ref)), read_kaldi_text(Path(args.hyp))
        result = error_rate(
            references,
            hypotheses,
            char=bool(args.char),
            case_sensitive=bool(args.cs),
            punctuation=not args.char,
            ignore=ignore,
        )
    except (UserError, OSError) as error:
        print(f"compute-wer.py: {error}", file=sys.stderr)
        return 2
    for line in render(result, bool(args.v)):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
