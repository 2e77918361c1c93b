#!/usr/bin/env python3
"""What streaming token2wav costs: tokens pushed one hop at a time against the whole answer at once, flow and vocoder apart and together.

The models of examples/mini/s0/conf with random weights (their work does not depend on them), or those of trained run directories; one
process, the same threads, medians over alternating repetitions.

    tools/bench/bench_token2wav.py [--seconds 10] [--hops 18 36] [--flow exp/default/2_flow --vocoder exp/default/2_vocoder]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from osum_echat.config import load_run
from osum_echat.token2wav import flow_stream
from osum_echat.token2wav.flow import Flow
from osum_echat.token2wav.stream import Token2wav
from osum_echat.token2wav.vocoder import Vocoder
from osum_echat.train.assemble import load_token2wav

CONF = Path(__file__).resolve().parents[2] / "examples/mini/s0/conf"
TARGET = 1.3


def build(args: argparse.Namespace) -> Token2wav:
    """The trained pair, or a random one of the mini recipe's sizes."""
    if args.flow and args.vocoder:
        return load_token2wav(args.flow, args.vocoder)
    flow_cfg, vocoder_cfg = load_run(CONF / "2_flow.yaml"), load_run(CONF / "2_vocoder.yaml")
    vocoder = Vocoder(vocoder_cfg.model, vocoder_cfg.mel).eval()  # type: ignore[arg-type, union-attr]
    vocoder.fold_weight_norm()
    return Token2wav(Flow(flow_cfg.model).eval(), vocoder)  # type: ignore[arg-type]


def hops_of(tokens_T: Tensor, first: int, later: int) -> list[Tensor]:
    """The pushes of generate/voice.py."""
    return [tokens_T[:first], *tokens_T[first:].split(later)]


def stream_flow(token2wav: Token2wav, pushes: list[Tensor]) -> list[Tensor]:
    """Mel of every push and of the end."""
    state = flow_stream.init_state(token2wav.flow, token2wav.voice, torch.Generator().manual_seed(0), token2wav.sampling)
    pieces = []
    for tokens_T in pushes:
        mel_FM, state = flow_stream.push(token2wav.flow, tokens_T, state)
        pieces.append(mel_FM)
    return [*pieces, flow_stream.flush(token2wav.flow, state)]


def stream_vocoder(token2wav: Token2wav, mels: list[Tensor]) -> None:
    """All pieces of mel, then the end."""
    state = token2wav.vocoder.init_state([torch.Generator().manual_seed(0)])
    for mel_FM in mels:
        _, state = token2wav.vocoder.push(mel_FM.unsqueeze(0), state)
    token2wav.vocoder.flush(state)


def stream_all(token2wav: Token2wav, pushes: list[Tensor]) -> None:
    """As a dialogue does it."""
    state = token2wav.init_state(0)
    for tokens_T in pushes:
        _, state = token2wav.push(tokens_T.tolist(), state)
    token2wav.flush(state)


def medians(functions: dict[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """Seconds of each, in turns, so that a change of the machine's speed meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(repeat + 1):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            if turn:
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


@torch.no_grad()
def compare(token2wav: Token2wav, tokens_T: Tensor, repeat: int) -> dict[str, float]:
    """Seconds by what was done."""
    sampling = token2wav.sampling
    pushes = hops_of(tokens_T, sampling.first_hop_tokens, sampling.hop_tokens)
    mels = [mel_FM for mel_FM in stream_flow(token2wav, pushes) if len(mel_FM)]
    whole_1FM = torch.cat(mels).unsqueeze(0)
    return medians(
        {
            "flow offline": lambda: token2wav.flow.synthesize([tokens_T], [token2wav.voice], [torch.Generator()], sampling),
            "flow stream": lambda: stream_flow(token2wav, pushes),
            "vocoder offline": lambda: token2wav.vocoder(whole_1FM, None, [torch.Generator()]),
            "vocoder stream": lambda: stream_vocoder(token2wav, mels),
            "both offline": lambda: token2wav.synthesize([tokens_T], [0]),
            "both stream": lambda: stream_all(token2wav, pushes),
        },
        repeat,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the answer")
    parser.add_argument("--hops", type=int, nargs="+", default=[18, 36], help="later hops to try (the first is that of the configuration)")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--small", action="store_true", help="a length that takes seconds")
    parser.add_argument("--flow", type=Path, help="run directory")
    parser.add_argument("--vocoder", type=Path, help="run directory")
    args = parser.parse_args()
    if args.small:
        args.seconds, args.repeat = 2.0, 1
    token2wav = build(args)
    tokens_T = torch.randint(token2wav.flow.cfg.codebook_size, (int(args.seconds * token2wav.flow.cfg.token_rate_hz),))
    print(f"{args.seconds:g} s, {torch.get_num_threads()} threads; ms offline, ms streaming, ratio; RTF of the stream")
    for hop in args.hops:
        sampling = token2wav.flow.cfg.sampling.model_copy(update={"hop_tokens": hop})
        seconds = compare(Token2wav(token2wav.flow, token2wav.vocoder, sampling=sampling), tokens_T, args.repeat)
        for part in ("flow", "vocoder", "both"):
            offline, stream = seconds[f"{part} offline"], seconds[f"{part} stream"]
            print(f"hop {hop:3d}  {part:8} {offline * 1e3:8.1f} {stream * 1e3:8.1f}  {stream / offline:5.2f}  {stream / args.seconds:.3f}")
        print(f"hop {hop:3d}  streaming costs {seconds['both stream'] / seconds['both offline']:.2f} x offline; target <= {TARGET}")


if __name__ == "__main__":
    main()
