#!/usr/bin/env python3
"""Kaldi files (or a raw list) to tar shards, a manifest and the list of shards; WeNet's arguments, and ours.

With --raw_list the utterances and labels come from that list and the first two arguments are left out:
  make_shard_list.py [options] wav.scp text shards_dir shards_list
  make_shard_list.py [options] --raw_list data.list shards_dir shards_list
"""

import argparse
import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from osum_echat.data.kaldi import read_kaldi
from osum_echat.data.shards import ShardOptions, make_shards
from osum_echat.data.source import read_raw_list
from osum_echat.errors import UserError
from osum_echat.utterance import Utterance


def main() -> int:
    args = parse_arguments()
    options = ShardOptions(args.prefix, args.num_utts_per_shard, args.num_threads, args.resample, args.format, args.max_drop)
    try:
        manifest = make_shards(read_input(args), args.output[-2], args.output[-1], options)
    except UserError as error:
        print(f"make_shard_list.py: {error}", file=sys.stderr)
        return 2
    dropped = sum(sum(tasks.values()) for tasks in manifest["dropped"].values())
    num, hours, num_shards = manifest["num_utterances"], manifest["hours"], len(manifest["shards"])
    print(f"{args.output[-1]}: {num} utterances, {hours:.2f} h, {num_shards} shards, {dropped} dropped")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_utts_per_shard", type=int, default=1000, help="utterances per tar (default 1000)")
    parser.add_argument("--num_threads", type=int, default=1, help="writer processes (default 1)")
    parser.add_argument("--prefix", default="shards", help="name of the tars before _000000000.tar (default shards)")
    parser.add_argument("--segments", help="Kaldi segments file")
    parser.add_argument("--resample", type=int, default=16000, help="rate in Hz, 0 keeps each recording's own (default 16000)")
    parser.add_argument("--format", default="wav", choices=("wav", "flac"), help="of audio that must be written anew (default wav)")
    parser.add_argument("--labels_dir", help="folder of utt2spk, utt2emotion, … (default: the folder of wav.scp; 'none' for no labels)")
    parser.add_argument("--raw_list", help="take utterances and labels from this raw list")
    parser.add_argument("--shuffle", action="store_true", help="shuffle before cutting into shards")
    parser.add_argument("--seed", type=int, default=777, help="of the shuffle (default 777)")
    parser.add_argument("--max_drop", type=float, default=0.02, help="largest share of unreadable audio (default 0.02)")
    parser.add_argument("output", nargs="+", metavar="argument", help="wav.scp text shards_dir shards_list")
    args = parser.parse_args()
    if len(args.output) != (2 if args.raw_list else 4):
        expected = "shards_dir shards_list" if args.raw_list else "wav.scp text shards_dir shards_list"
        parser.error(f"expected {expected}, got {' '.join(args.output)}")
    return args


def read_input(args: argparse.Namespace) -> Iterable[Utterance]:
    utterances: Iterator[Utterance]
    if args.raw_list:
        utterances = read_raw_list(args.raw_list)
    else:
        wav_file, text_file = args.output[:2]
        labels_dir = None if args.labels_dir == "none" else args.labels_dir or Path(wav_file).parent
        utterances = read_kaldi(wav_file, None if text_file == "-" else text_file, args.segments, labels_dir)
    if not args.shuffle:
        return utterances
    shuffled = list(utterances)
    random.Random(args.seed).shuffle(shuffled)
    return shuffled


if __name__ == "__main__":
    sys.exit(main())
