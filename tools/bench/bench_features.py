#!/usr/bin/env python3
"""How fast one core turns wav files in a tar shard into log-mel: the median of several passes, in times real time.

The shard is written first (noise, or the recordings of --raw_list), so reading comes from the page cache, as in a second epoch.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from osum_echat.audio.features import SAMPLE_RATE, LogMel
from osum_echat.audio.io import encode_pcm16, read_audio
from osum_echat.data.shards import ShardOptions, make_shards
from osum_echat.data.source import ShardSource, read_raw_list
from osum_echat.utterance import Utterance


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw_list", help="use these recordings instead of noise")
    parser.add_argument("--num", type=int, default=300, help="utterances of noise, 2 to 8 s each (default 300)")
    parser.add_argument("--num_mels", type=int, default=80, help="mel bins (default 80)")
    parser.add_argument("--passes", type=int, default=5, help="passes over the shard (default 5)")
    parser.add_argument("--at_least", type=float, help="exit with status 1 below this many times real time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = read_raw_list(args.raw_list) if args.raw_list else make_noise(args.num)
        make_shards(rows, folder, f"{folder}/list", ShardOptions(num_per_shard=10**6))
        log_mel = LogMel(args.num_mels)
        results = [one_pass(f"{folder}/list", log_mel) for _ in range(args.passes + 1)][1:]  # the first one warms up
    names = ("read tar", "decode", "log-mel", "all")
    medians = [statistics.median(column) for column in zip(*results, strict=True)]
    print(
        f"one core, {args.num_mels} mels, median of {args.passes} passes, times real time: "
        + ", ".join(f"{name} {value:.0f}" for name, value in zip(names, medians, strict=True))
    )
    return int(args.at_least is not None and medians[-1] < args.at_least)


def make_noise(num: int) -> Iterator[Utterance]:
    rng = np.random.default_rng(0)
    for number in range(num):
        samples_S = rng.standard_normal(int(rng.uniform(2, 8) * SAMPLE_RATE)) * 0.1
        yield Utterance(f"noise{number}", txt="noise", audio=encode_pcm16(samples_S))


def one_pass(list_path: str | Path, log_mel: LogMel) -> tuple[float, float, float, float]:
    """Times real time of reading, decoding, the log-mel, and of all three."""
    source = ShardSource(list_path)
    spent = [0.0, 0.0, 0.0]
    num_samples = 0
    clock = time.perf_counter
    last = clock()
    for make in source.rows(0):
        row = make()
        now = clock()
        spent[0], last = spent[0] + now - last, now
        if not isinstance(row, Utterance) or row.audio is None:
            raise SystemExit(f"unexpected row {row}")
        samples_S = read_audio(row.audio)
        now = clock()
        spent[1], last = spent[1] + now - last, now
        log_mel(torch.from_numpy(samples_S))
        num_samples += len(samples_S)
        now = clock()
        spent[2], last = spent[2] + now - last, now
    seconds = num_samples / SAMPLE_RATE
    return seconds / spent[0], seconds / spent[1], seconds / spent[2], seconds / sum(spent)


if __name__ == "__main__":
    sys.exit(main())
