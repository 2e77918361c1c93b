#!/usr/bin/env python3
"""Useful tokens per second of a training step: our packed LLM and joint cross-entropy against Qwen2ForCausalLM(labels=...).

Same layers, same joint vocabulary, same sequences, same number of positions a batch, same optimizer, same mixed precision. Theirs gets
what a careful user would do: sequences sorted by length, padded batches filled up to the budget. A useful token is a position that is not
padding. Sequences are synthetic in the lengths and supervised shares of understanding, chat and speech generation.

    tools/bench/bench_train_step.py [--small]
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from oracles import import_transformers

from osum_echat.config import LlmConfig, SpeechConfig
from osum_echat.data.batch import pack
from osum_echat.losses import joint_cross_entropy
from osum_echat.model.llm import Llm
from osum_echat.model.packing import Packing
from osum_echat.model.speech_head import SpeechHead
from osum_echat.text.vocab import IGNORE

NUM_SPEECH = 4097
# task: share of the data, range of prompt positions (text and audio), range of supervised positions
TASK_MIX = {
    "understanding": (0.55, (60, 320), (8, 60)),
    "text chat": (0.15, (40, 160), (20, 160)),
    "speech to text chat": (0.15, (80, 500), (30, 150)),
    "tts": (0.08, (50, 120), (100, 400)),
    "speech to speech": (0.07, (80, 500), (150, 700)),
}


def draw_sequences(num: int, scale: float) -> list[tuple[int, int]]:
    """(positions, supervised positions at the end) of each sequence."""
    rng = random.Random(0)
    rows = []
    for task in rng.choices(list(TASK_MIX), [share for share, _, _ in TASK_MIX.values()], k=num):
        _, prompt, answer = TASK_MIX[task]
        supervised = max(2, int(rng.randint(*answer) * scale))
        rows.append((max(2, int(rng.randint(*prompt) * scale)) + supervised, supervised))
    return rows


def padded_batches(rows: list[tuple[int, int]], budget: int) -> list[list[int]]:
    """Sorted by length, filled while longest * count stays in the budget."""
    batches: list[list[int]] = []
    for index in sorted(range(len(rows)), key=lambda i: -rows[i][0]):
        if batches and rows[batches[-1][0]][0] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


class OurStep(nn.Module):
    """LLM and speech head."""

    def __init__(self, cfg: LlmConfig) -> None:
        super().__init__()
        self.llm = Llm(cfg)
        self.speech = SpeechHead(SpeechConfig(codebook_size=NUM_SPEECH - 1), cfg.width)

    def forward(self, ids: list[Tensor], labels: list[Tensor]) -> Tensor:
        packing = Packing.from_lens([len(row) for row in ids])
        hidden_TD = self.llm(self.llm.embed(torch.cat(ids)), packing.offset_T, packing)
        shifted_T = torch.cat([torch.cat((row[1:], torch.tensor([IGNORE]))) for row in labels])
        head = self.speech.head
        loss, count = joint_cross_entropy(hidden_TD, shifted_T, self.llm.head_weight_VD, head.weight, head.bias)
        return loss / count


class TheirStep(nn.Module):
    """Qwen2ForCausalLM over the joint vocabulary."""

    def __init__(self, transformers: object, cfg: LlmConfig) -> None:
        super().__init__()
        hf = transformers.Qwen2Config(  # type: ignore[attr-defined]
            vocab_size=cfg.vocab_size + NUM_SPEECH, hidden_size=cfg.width, intermediate_size=cfg.ffn_width,
            num_hidden_layers=cfg.num_layers, num_attention_heads=cfg.num_heads, num_key_value_heads=cfg.num_kv_heads,
            tie_word_embeddings=True, use_cache=False,
        )  # fmt: skip
        self.llm = transformers.Qwen2ForCausalLM(hf)  # type: ignore[attr-defined]

    def forward(self, ids: list[Tensor], labels: list[Tensor]) -> Tensor:
        pad = torch.nn.utils.rnn.pad_sequence
        mask = pad([torch.ones_like(row) for row in ids], batch_first=True)
        return self.llm(pad(ids, batch_first=True), attention_mask=mask, labels=pad(labels, batch_first=True, padding_value=IGNORE)).loss


def measure(model: nn.Module, rows: list[tuple[int, int]], batches: list[list[int]], classes: int, dtype: torch.dtype) -> float:
    """Median useful tokens per second over the batches; the first one warms up."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    model.train()
    speeds = []
    for number, batch in enumerate([batches[0], *batches]):
        generator = torch.Generator().manual_seed(number)
        ids = [torch.randint(0, classes, (rows[i][0],), generator=generator) for i in batch]
        labels = [torch.where(torch.arange(len(row)) >= len(row) - rows[i][1], row, IGNORE) for i, row in zip(batch, ids, strict=True)]
        begin = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            loss = model(ids, labels)
        loss.backward()
        optimizer.step()
        speeds.append(sum(map(len, ids)) / (time.perf_counter() - begin))
    return statistics.median(speeds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=2800, help="positions of a batch (theirs: padding included)")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--small", action="store_true", help="a size that takes seconds")
    args = parser.parse_args()
    transformers = import_transformers()
    if transformers is None:
        parser.exit(2, "needs transformers: pip install transformers\n")
    cfg = LlmConfig(vocab_size=156_033 - NUM_SPEECH, width=896, num_layers=2, num_heads=14, num_kv_heads=2, ffn_width=4864)
    if args.small:
        args.budget, args.steps = 600, 2
        cfg = LlmConfig(vocab_size=4000, width=64, num_layers=2, num_heads=4, num_kv_heads=2, ffn_width=128)
    rows = draw_sequences(512, args.budget / 2800)
    ours = pack([length for length, _ in rows], [0.0] * len(rows), args.budget)
    theirs = padded_batches(rows, args.budget)
    share = sum(supervised for _, supervised in rows) / sum(length for length, _ in rows)
    print(f"{len(rows)} sequences, {share:.0%} supervised; batches: ours {len(ours)}, theirs {len(theirs)} of {args.budget} positions")
    builders: dict[str, tuple[Callable[[], nn.Module], list[list[int]]]] = {
        "theirs": (lambda: TheirStep(transformers, cfg), theirs),
        "ours": (lambda: OurStep(cfg), ours),
    }
    speeds = {}
    for name, (build, batches) in builders.items():
        torch.manual_seed(0)
        chosen = random.Random(1).sample(batches, min(args.steps, len(batches)))
        classes = cfg.vocab_size if name == "ours" else cfg.vocab_size + NUM_SPEECH
        speeds[name] = measure(build(), rows, chosen, classes, getattr(torch, args.dtype))
        print(f"{name:<8} {speeds[name]:10.0f} useful tokens/s", flush=True)
    print(f"ours / theirs {speeds['ours'] / speeds['theirs']:.2f}   target: >= 2.00")


if __name__ == "__main__":
    main()
