"""osum-echat own-replies: a list whose replies are those a thinking model gave, for training to give them without thinking.

    osum-echat decode --task s2s_think --list train_empathy.list --config 3a_think/train.yaml --checkpoint 3a_think/final.pt --out d
    osum-echat own-replies --list train_empathy.list --decoded d --out train_own.list

The rows have the task without a think block (s2s), the words that were said and their speech tokens; labels stay.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from osum_echat.bin._cli import run_cli
from osum_echat.config import SourceConfig
from osum_echat.datagen.own_replies import own_replies
from osum_echat.errors import UserError
from osum_echat.evaluate.score import read_references
from osum_echat.files import write_text


def _body() -> int:
    parser = argparse.ArgumentParser(
        prog="osum-echat own-replies", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", required=True, help="raw list that was decoded")
    parser.add_argument("--decoded", type=Path, required=True, help="decode directory of that list, task *_think")
    parser.add_argument("--out", type=Path, required=True, help="raw list to write")
    args = parser.parse_args()
    rows, unreadable = read_references(SourceConfig(kind="raw", list=args.list))
    found = own_replies(rows, args.decoded)
    for reason, keys in found.left_out.items():
        print(f"left out {len(keys)} rows: {reason} ({', '.join(keys[:3])}{' …' if len(keys) > 3 else ''})")
    if unreadable:
        print(f"left out {unreadable} rows that cannot be read")
    if not found.rows:
        raise UserError(f"no row of {args.list} got a reply; does {args.decoded} hold a decode of this list?")
    write_text(args.out, "".join(row.to_json() + "\n" for row in found.rows))
    print(f"{args.out}: {len(found.rows)} rows with replies of the model's own")
    return 0


def main() -> int:
    """Entry point."""
    return run_cli(_body)


if __name__ == "__main__":
    sys.exit(main())
