#!/usr/bin/env python3
"""New labels for existing shards: the rows of a raw list are laid over the audio of tars, which are not written again."""

import argparse
import sys

from osum_echat.data.shards import make_combine
from osum_echat.data.source import read_raw_list
from osum_echat.errors import UserError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards_list", help="list of tars")
    parser.add_argument("raw_list", help="raw list with the rows to use; its keys must be in the tars, its audio paths are ignored")
    parser.add_argument("output_dir", help="folder for one .jsonl per tar")
    parser.add_argument("combine_list", help="the list of 'metadata|tar' lines to write")
    args = parser.parse_args()
    try:
        num = make_combine(args.shards_list, read_raw_list(args.raw_list), args.output_dir, args.combine_list)
    except UserError as error:
        print(f"make_combine_list.py: {error}", file=sys.stderr)
        return 2
    print(f"{args.combine_list}: {num} utterances")
    return 0


if __name__ == "__main__":
    sys.exit(main())
