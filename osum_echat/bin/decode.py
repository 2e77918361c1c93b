"""osum-echat decode: answers of a trained model to every utterance of a list.

Writes text (the answer as written), transcript (its words), labels.jsonl and decode.json into --out; of a conversation also reply (without
think block and tags), of tasks that speak hyp.list, which osum-echat synthesize turns into sound. Started again after an interruption it
goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from osum_echat.bin._cli import run_cli
from osum_echat.bin._model import load_model
from osum_echat.bin._progress import Progress
from osum_echat.bin._sampling import add_device_arguments, add_sampling_arguments, samplers_of
from osum_echat.config import RunConfig, SourceConfig, load_config
from osum_echat.errors import UserError
from osum_echat.generate.outputs import CODE_RATE
from osum_echat.generate.requests import RequestEncoder, count_rows, read_rows
from osum_echat.generate.runner import DecodeSettings, decode_list, finish_decode, identity_of
from osum_echat.tasks.task import get_task
from osum_echat.utterance import AUDIO_FIELDS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="osum-echat decode", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="train.yaml of the run")
    parser.add_argument("--checkpoint", type=Path, required=True, help="weights: final.pt, avg_N.pt or step_N.pt")
    parser.add_argument("--list", required=True, help="what to decode")
    parser.add_argument("--data_type", choices=("raw", "shard", "combine"), default="raw", help="form of the list (default: raw)")
    parser.add_argument("--audio", choices=AUDIO_FIELDS, default="wav", help="which audio of a row is heard (default: wav)")
    parser.add_argument("--task", required=True, help="what to ask for, whatever the rows say: asr, asr_p, tts, s2s, s2s_interleaved, ...")
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--batch_size", type=int, default=32, help="utterances at once (default: 32)")
    parser.add_argument("--max_batch_seconds", type=float, default=480.0, help="audio seconds at once (default: 480)")
    parser.add_argument("--max_seconds", type=float, default=120.0, help="longer utterances are dropped and counted (default: 120)")
    parser.add_argument("--code_rate", type=float, default=CODE_RATE, help="speech codes a second, for the real-time factor (default: 25)")
    add_sampling_arguments(parser)
    add_device_arguments(parser)
    return parser


def _settings(args: argparse.Namespace, config: RunConfig) -> DecodeSettings:
    if args.batch_size < 1 or args.code_rate <= 0:
        raise UserError(f"--batch_size {args.batch_size} must be at least 1 and --code_rate {args.code_rate:g} positive")
    text, speech = samplers_of(args, config)
    bounds = {"max_new": args.max_new, "max_speech": args.max_speech, "max_think": args.max_think, "batch_size": args.batch_size}
    return DecodeSettings(text, speech, seed=args.seed, max_batch_seconds=args.max_batch_seconds, **bounds)


def _report(info: dict[str, Any], speaks: bool, out: Path) -> None:
    rtf = "" if info["rtf"] is None else f", RTF {info['rtf']:.3f}"
    heard = f"{info['audio_seconds']:.0f} s of audio" if info["audio_seconds"] else "no audio"
    spoken = f", {info['speech_seconds']:.0f} s of speech ({info['num_codes']} codes)" if speaks else ""
    print(f"{out}: {info['n']} utterances, {heard}{spoken} in {info['wall_seconds']:.0f} s{rtf}")
    if info["num_cut_off"]:
        print(f"{info['num_cut_off']} answers were cut off at the longest length (--max_new{', --max_speech' if speaks else ''})")
    if info["num_think_cut"]:
        print(f"{info['num_think_cut']} think blocks were closed at the longest length (--max_think)")
    if info["num_empty"]:
        print(f"{info['num_empty']} answers are empty (listed in {out / 'decode.json'})")
    for reason, count in info["drop_counts"].items():
        print(f"dropped {count}: {reason} (listed in {out / 'decode.json'})")


def _body() -> int:
    args = _parser().parse_args()
    console = Console(stderr=True)
    config, task = load_config(args.config), get_task(args.task)
    settings = _settings(args, config)
    source = SourceConfig(kind=args.data_type, list=args.list)
    total = count_rows(source)
    model = load_model(config, args.checkpoint, args.device, args.dtype)
    facts = {"list": args.list, "data_type": args.data_type, "audio": args.audio}
    identity = identity_of(args.config, args.checkpoint, facts, task, settings) | {"dtype": args.dtype}
    with Progress(console, "decode", "utterances", total) as bar:
        encoder = RequestEncoder(config, task, args.max_seconds)

        def show(done: int, dropped: int) -> None:
            bar.show(done + dropped, total, f"{dropped} dropped")

        record = decode_list(model, encoder, read_rows(source, args.audio), settings, args.out, identity, show)
    run = {"task": task.name, **facts, "config": str(args.config), "checkpoint": str(args.checkpoint)}
    run |= {"device": args.device, "dtype": args.dtype, "sampler": vars(settings.sampler)}
    if task.speaks:
        run |= {"speech_sampler": vars(settings.speech_sampler or encoder.speech_sampler), "seed": settings.seed}
    _report(finish_decode(record, task, args.out, run, args.code_rate), task.speaks, args.out)
    return 0


def main() -> int:
    """Entry point."""
    return run_cli(_body)


if __name__ == "__main__":
    sys.exit(main())
