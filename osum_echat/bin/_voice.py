"""The voice of a model: flow and vocoder from their run directories, and a file for what they say."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from osum_echat.audio.io import encode_pcm16
from osum_echat.errors import UserError
from osum_echat.files import write_atomic
from osum_echat.generate.voice import Hops
from osum_echat.token2wav.stream import Token2wav
from osum_echat.train.assemble import load_token2wav

FLOW, VOCODER = "2_flow", "2_vocoder"


def add_voice_arguments(parser: argparse.ArgumentParser) -> None:
    """Where token2wav is."""
    parser.add_argument("--flow", type=Path, help=f"run directory of the flow (default: {FLOW} beside --dir)")
    parser.add_argument("--vocoder", type=Path, help=f"run directory of the vocoder (default: {VOCODER} beside --dir)")


def load_voice(args: argparse.Namespace, codebook_size: int) -> tuple[Token2wav, Hops]:
    """The synthesiser, and the hops its flow works in."""
    folders = {"flow": args.flow or args.dir.parent / FLOW, "vocoder": args.vocoder or args.dir.parent / VOCODER}
    for name, folder in folders.items():
        if not (folder / "train.yaml").is_file() or not (folder / "final.pt").exists():
            raise UserError(f"--{name} {folder}: no finished training of a {name} there (train.yaml, final.pt); recipes make it in stage 2")
    voice = load_token2wav(folders["flow"], folders["vocoder"], args.device)
    theirs = voice.flow.cfg.codebook_size
    if theirs != codebook_size:
        raise UserError(f"--dir {args.dir} says codes of a codebook of {codebook_size}, --flow {folders['flow']} reads one of {theirs}")
    return voice, Hops(voice.sampling.first_hop_tokens, voice.sampling.hop_tokens)


def save_wav(path: Path, samples_S: np.ndarray, rate: int) -> None:
    """A 16-bit mono wav, whole or not at all."""
    content = encode_pcm16(samples_S, rate)
    write_atomic(path, lambda file: file.write(content))
