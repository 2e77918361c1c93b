#!/usr/bin/env python3
"""Kaldi files to a raw list (one JSON a line); WeNet's arguments, and the labels that lie beside wav.scp."""

import argparse
import sys
from pathlib import Path

from osum_echat.data.kaldi import read_kaldi
from osum_echat.data.shards import make_raw_list
from osum_echat.errors import UserError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", help="Kaldi segments file")
    parser.add_argument("--labels_dir", help="folder of utt2spk, utt2emotion, …, ctm (default: that of wav_file; 'none': no labels)")
    parser.add_argument("wav_file", help="wav.scp: path, ark:offset or command |")
    parser.add_argument("text_file", help="text; '-' when there is none")
    parser.add_argument("output_file", help="the raw list to write")
    args = parser.parse_args()
    labels_dir = args.labels_dir or Path(args.wav_file).parent
    try:
        utterances = read_kaldi(
            args.wav_file,
            None if args.text_file == "-" else args.text_file,
            args.segments,
            None if args.labels_dir == "none" else labels_dir,
        )
        num = make_raw_list(utterances, args.output_file)
    except UserError as error:
        print(f"make_raw_list.py: {error}", file=sys.stderr)
        return 2
    print(f"{args.output_file}: {num} utterances")
    return 0


if __name__ == "__main__":
    sys.exit(main())
