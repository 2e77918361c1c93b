"""osum-echat prepare speech-tokens: the speech tokens of every utterance of a list, written as ``speech_token`` into a raw list.

osum-echat prepare speech-tokens --config exp/tok/train.yaml --checkpoint exp/tok/final.pt --list data/tts.list --out data/tts_codes.list

Started again after an interruption it goes on where it was. <out>.json holds the counts, the use of the codebook and the drops.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from osum_echat.bin._cli import run_cli
from osum_echat.bin._progress import Progress as Bar
from osum_echat.datagen.speech_tokens import ExtractSettings, Progress, extract
from osum_echat.errors import UserError
from osum_echat.utterance import AUDIO_FIELDS


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    prog = "osum-echat prepare speech-tokens"
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="", help="train.yaml of the speech tokenizer's run")
    parser.add_argument("--checkpoint", default="", help="its weights: final.pt, avg_N.pt or step_N.pt")
    parser.add_argument("--onnx", default="", help="in place of the two: speech_tokenizer_*.onnx of a public CosyVoice model")
    parser.add_argument("--codebook_size", type=int, default=4096, help="codes of the --onnx tokenizer (default: 4096)")
    parser.add_argument("--list", required=True, help="whose audio is tokenized")
    parser.add_argument("--data_type", choices=("raw", "shard", "combine"), default="raw", help="form of the list (default: raw)")
    parser.add_argument("--audio", choices=AUDIO_FIELDS, default="wav", help="which audio of a row (default: wav)")
    parser.add_argument("--out", type=Path, required=True, help="raw list to write")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: a GPU when there is one")
    parser.add_argument("--num_jobs", type=int, help="processes (default: all cores, one on a GPU); does not change the result")
    parser.add_argument("--max_seconds", type=float, default=120.0, help="longer audio is dropped and counted (default: 120)")
    parser.add_argument("--max_drop", type=float, default=0.02, help="a larger share of drops is an error (default: 0.02)")
    return parser


def _show(report: dict[str, Any], out: Path) -> None:
    codebook, drops = report["codebook"], report["drops"]
    print(f"{out}: {report['rows']} of {report['read']} rows, {report['tokens']} tokens of {report['audio_seconds']:.0f} s of audio")
    print(f"codebook: {codebook['used']:.1%} of {codebook['size']} codes used, perplexity {codebook['perplexity']:.1f}")
    print(f"speed: {report['tokens_per_second']:.0f} tokens/s")
    for reason, tasks in drops.items():
        print(f"dropped {sum(tasks.values())}: {reason}, such as {report['drop_examples'][reason][0]}")


def _body() -> int:
    args = get_parser().parse_args()
    num_jobs = args.num_jobs or (os.cpu_count() if args.device == "cpu" else 1) or 1
    if num_jobs < 1 or not 0 <= args.max_drop <= 1:
        raise UserError(f"--num_jobs {num_jobs} must be at least 1 and --max_drop {args.max_drop:g} a share between 0 and 1")
    if bool(args.onnx) == bool(args.config) or bool(args.config) != bool(args.checkpoint):
        raise UserError("give the tokenizer: --config and --checkpoint of its training, or --onnx of a published one")
    settings = ExtractSettings(
        args.config, args.checkpoint, args.list, args.data_type, args.audio, args.device,
        max_seconds=args.max_seconds, onnx=args.onnx, codebook_size=args.codebook_size,
    )  # fmt: skip
    with Bar(Console(stderr=True), "speech tokens", "parts") as bar:

        def show(at: Progress) -> None:
            speed = at.tokens / max(bar.seconds, 1e-9)
            bar.show(at.done, at.total, f"{at.rows} rows, {at.dropped} dropped, {speed:.0f} tokens/s")

        report = extract(settings, args.out, num_jobs, args.max_drop, show)
    _show(report, args.out)
    return 0


def main() -> int:
    """Entry point."""
    return run_cli(_body)


if __name__ == "__main__":
    sys.exit(main())
