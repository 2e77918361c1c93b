"""The arguments of every command that lets a model answer: how ids are chosen, how long an answer may get, where it is computed."""

from __future__ import annotations

import argparse

import torch

from osum_echat.errors import UserError
from osum_echat.generate.requests import SPEECH_SAMPLER
from osum_echat.generate.sampling import Sampler


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Text is greedy by default, speech is drawn with the guard against repetition (docs/speech.md says why)."""
    speech = SPEECH_SAMPLER
    parser.add_argument("--max_new", type=int, help="longest text of an answer in tokens (default: the task's own)")
    parser.add_argument("--max_speech", type=int, help="longest speech of an answer in codes (default: the task's own)")
    parser.add_argument("--temperature", type=float, default=0.0, help="of text; 0 takes the likeliest token (default)")
    parser.add_argument("--top_k", type=int, default=0, help="text among the k likeliest; 0: all (default)")
    parser.add_argument("--top_p", type=float, default=1.0, help="text among the likeliest that hold this probability (default: 1)")
    parser.add_argument("--speech_temperature", type=float, default=speech.temperature, help="default: %(default)s; 0: likeliest code")
    parser.add_argument("--speech_top_k", type=int, default=speech.top_k, help="codes among the k likeliest (default: %(default)s)")
    parser.add_argument("--speech_top_p", type=float, default=speech.top_p, help="and that hold this probability (default: %(default)s)")
    parser.add_argument(
        "--repeat_window", type=int, default=speech.repeat_window, metavar="K",
        help="guard: a code drawn too often among the last K is drawn again from all; 0: no guard (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--repeat_share", type=float, default=speech.repeat_share, help="too often: above this share (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=777, help="of sampling; every utterance draws for itself (default: 777)")


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Where and in which precision the language model computes."""
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: a GPU when there is one")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights (default: float32)")


def samplers_of(args: argparse.Namespace) -> tuple[Sampler, Sampler]:
    """Of text and of speech; a nonsensical setting raises ConfigError."""
    for name in ("max_new", "max_speech"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value} must be at least 1")
    guard = args.repeat_window, args.repeat_share
    speech = Sampler(args.speech_temperature, args.speech_top_k, args.speech_top_p, *guard)
    return Sampler(args.temperature, args.top_k, args.top_p), speech
