"""osum-echat decode: answers of a trained model to every utterance of a list.

Writes text (the answer as written), transcript (its words), labels.jsonl and decode.json into --out. Started again after an
interruption it goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console

from osum_echat.bin._cli import run_cli
from osum_echat.bin._progress import Progress
from osum_echat.config import RunConfig, SourceConfig, load_config
from osum_echat.errors import UserError
from osum_echat.generate.requests import RequestEncoder, count_rows, read_rows
from osum_echat.generate.runner import DecodeSettings, decode_list, identity_of, write_outputs
from osum_echat.generate.sampling import Sampler
from osum_echat.model.build import build_model
from osum_echat.model.echat import EChat
from osum_echat.tasks.task import get_task
from osum_echat.train.checkpoint import load_weights


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="osum-echat decode", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="train.yaml of the run")
    parser.add_argument("--checkpoint", type=Path, required=True, help="weights: final.pt, avg_N.pt or step_N.pt")
    parser.add_argument("--list", required=True, help="what to decode")
    parser.add_argument("--data_type", choices=("raw", "shard", "combine"), default="raw", help="form of the list (default: raw)")
    parser.add_argument("--task", required=True, help="what to ask for, whatever the rows say: asr, asr_p, only_p, ...")
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--batch_size", type=int, default=32, help="utterances at once (default: 32)")
    parser.add_argument("--max_batch_seconds", type=float, default=480.0, help="audio seconds at once (default: 480)")
    parser.add_argument("--max_seconds", type=float, default=120.0, help="longer utterances are dropped and counted (default: 120)")
    parser.add_argument("--max_new", type=int, help="longest answer in tokens (default: the task's own)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token (default)")
    parser.add_argument("--top_k", type=int, default=0, help="sample among the k likeliest; 0: all (default)")
    parser.add_argument("--top_p", type=float, default=1.0, help="sample among the likeliest that hold this probability (default: 1)")
    parser.add_argument("--seed", type=int, default=777, help="of sampling (default: 777)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: a GPU when there is one")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights (default: float32)")
    return parser


def _settings(args: argparse.Namespace) -> DecodeSettings:
    if args.batch_size < 1 or (args.max_new is not None and args.max_new < 1):
        raise UserError(f"--batch_size {args.batch_size} and --max_new {args.max_new} must be at least 1")
    sampler = Sampler(args.temperature, args.top_k, args.top_p)
    bounds = {"max_new": args.max_new, "batch_size": args.batch_size, "max_batch_seconds": args.max_batch_seconds}
    return DecodeSettings(sampler, seed=args.seed, **bounds)


def _load_model(config: RunConfig, checkpoint: Path, device: str, dtype: str) -> EChat:
    model = build_model(config.model)
    load_weights(model, checkpoint, ("ctc.",))  # decoding does not read the CTC branch
    return model.to(device=device, dtype=getattr(torch, dtype)).eval()


def _body() -> int:
    args = _parser().parse_args()
    console = Console(stderr=True)
    config, task, settings = load_config(args.config), get_task(args.task), _settings(args)
    source = SourceConfig(kind=args.data_type, list=args.list)
    total = count_rows(source)
    model = _load_model(config, args.checkpoint, args.device, args.dtype)
    facts = {"list": args.list, "data_type": args.data_type}
    identity = identity_of(args.config, args.checkpoint, facts, task, settings) | {"dtype": args.dtype}
    with Progress(console, "decode", "utterances", total) as bar:
        encoder = RequestEncoder(config, task, args.max_seconds)

        def show(done: int, dropped: int) -> None:
            bar.show(done + dropped, total, f"{dropped} dropped")

        record = decode_list(model, encoder, read_rows(source), settings, args.out, identity, show)
    run = {"task": task.name, **facts, "config": str(args.config), "checkpoint": str(args.checkpoint)}
    info = write_outputs(record, task, args.out, run | {"device": args.device, "dtype": args.dtype, "sampler": vars(settings.sampler)})
    rtf = "" if info["rtf"] is None else f", RTF {info['rtf']:.3f}"
    print(f"{args.out}: {info['n']} utterances, {info['audio_seconds']:.0f} s of audio in {info['wall_seconds']:.0f} s{rtf}")
    if info["num_cut_off"]:
        print(f"{info['num_cut_off']} answers were cut off at the longest length (--max_new)")
    for reason, count in info["drop_counts"].items():
        print(f"dropped {count}: {reason} (listed in {args.out / 'decode.json'})")
    return 0


def main() -> int:
    """Entry point."""
    return run_cli(_body)


if __name__ == "__main__":
    sys.exit(main())
