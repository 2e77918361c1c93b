"""The arguments of every command that lets a model answer: how ids are chosen, how long an answer may get, where it is computed."""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

from osum_echat.config import RunConfig
from osum_echat.errors import UserError
from osum_echat.generate.requests import speech_sampler
from osum_echat.generate.sampling import Sampler


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Text is greedy by default, speech is drawn as the run's YAML says (docs/speech.md)."""
    parser.add_argument("--max_new", type=int, help="longest text of an answer in tokens (default: the task's own)")
    parser.add_argument("--max_speech", type=int, help="longest speech of an answer in codes (default: the task's own)")
    parser.add_argument(
        "--max_think", type=int, help="longest think block in tokens, then it is closed (default: think.max_tokens of the run)"
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="of text; 0 takes the likeliest token (default)")
    parser.add_argument("--top_k", type=int, default=0, help="text among the k likeliest; 0: all (default)")
    parser.add_argument("--top_p", type=float, default=1.0, help="text among the likeliest that hold this probability (default: 1)")
    speech = parser.add_argument_group("how speech is drawn", "defaults: model.speech.sampling of the run's train.yaml")
    speech.add_argument("--speech_temperature", type=float, help="0: likeliest code")
    speech.add_argument("--speech_top_k", type=int, help="codes among the k likeliest; 0: all")
    speech.add_argument("--speech_top_p", type=float, help="and that hold this probability")
    speech.add_argument(
        "--repeat_window", type=int, metavar="K", help="guard: a code drawn too often among the last K is drawn again from all; 0: no guard"
    )
    speech.add_argument("--repeat_share", type=float, help="too often: above this share")
    parser.add_argument("--seed", type=int, default=777, help="of sampling; every utterance draws for itself (default: 777)")


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Where and in which precision the language model computes."""
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: a GPU when there is one")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights (default: float32)")


def samplers_of(args: argparse.Namespace, config: RunConfig) -> tuple[Sampler, Sampler]:
    """Of text and of speech; a nonsensical setting raises ConfigError."""
    for name in ("max_new", "max_speech", "max_think"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value} must be at least 1")
    asked = {
        "temperature": args.speech_temperature,
        "top_k": args.speech_top_k,
        "top_p": args.speech_top_p,
        "repeat_window": args.repeat_window,
        "repeat_share": args.repeat_share,
    }
    speech = replace(speech_sampler(config), **{name: value for name, value in asked.items() if value is not None})
    return Sampler(args.temperature, args.top_k, args.top_p), speech
