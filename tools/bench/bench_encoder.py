#!/usr/bin/env python3
"""Time of a Whisper-medium-shaped encoder on short audio: ours at its own length against Whisper's, which pads to 30 s.

Random weights, bfloat16, same process, same threads. The peer is openai-whisper, or transformers where that is not installed.

    tools/bench/bench_encoder.py [--seconds 3] [--small]
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
sys.path.insert(0, str(Path(__file__).resolve().parent))

from oracles import import_transformers, import_whisper_model

from osum_echat.config import EncoderConfig
from osum_echat.model.encoder import SpeechEncoder

WHISPER_FRAMES = 3000


def build_peer(cfg: EncoderConfig) -> tuple[str, Callable[[Tensor], object]]:
    """(name, function of a (1, M, 3000) mel)."""
    whisper_model = import_whisper_model()
    if whisper_model is not None:
        model = whisper_model.AudioEncoder(cfg.num_mels, WHISPER_FRAMES // 2, cfg.width, cfg.num_heads, cfg.num_layers)
        model = model.bfloat16().eval()
        for module in model.modules():  # its norms compute in float32 and want their parameters so
            if isinstance(module, torch.nn.LayerNorm):
                module.float()
        return "openai-whisper", model
    transformers = import_transformers()
    if transformers is None:
        raise SystemExit("needs openai-whisper or transformers")
    hf = transformers.WhisperConfig(
        num_mel_bins=cfg.num_mels, d_model=cfg.width, encoder_layers=cfg.num_layers, encoder_attention_heads=cfg.num_heads,
        encoder_ffn_dim=cfg.ffn_width, decoder_layers=1, decoder_attention_heads=cfg.num_heads, decoder_ffn_dim=8,
    )  # fmt: skip
    return "transformers", transformers.WhisperModel(hf).encoder.bfloat16().eval()


def median_seconds(function: Callable[[], object], repeat: int) -> float:
    """Median time of a call, after one to warm up."""
    function()
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of the audio")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="a size that takes seconds")
    args = parser.parse_args()
    cfg = EncoderConfig()
    if args.small:
        cfg = EncoderConfig(width=128, num_layers=2, num_heads=2, ffn_width=512)
        args.repeat = 2
    frames = int(args.seconds * 100)
    ours = SpeechEncoder(cfg).bfloat16().eval()
    name, peer = build_peer(cfg)
    mel = torch.randn(1, WHISPER_FRAMES, cfg.num_mels).bfloat16()
    short = mel[:, :frames].contiguous()
    own_seconds = median_seconds(lambda: ours(short, [frames]), args.repeat)
    peer_seconds = median_seconds(lambda: peer(mel.transpose(1, 2)), args.repeat)
    print(f"ours, {args.seconds:g} s       {own_seconds * 1e3:9.1f} ms")
    print(f"{name}, 30 s {peer_seconds * 1e3:9.1f} ms")
    print(f"speed-up {peer_seconds / own_seconds:.1f}   target: >= 10.0")


if __name__ == "__main__":
    main()
