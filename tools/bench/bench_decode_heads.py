#!/usr/bin/env python3
"""Decoding with the head of the phase alone against the same loop with the joint head, interleaved 6:18, one request.

Both run osum_echat.generate.decoder on one model with random weights of Qwen2.5-0.5B's size (width 896, 24 layers) and a joint vocabulary
of 156,033. The peer computes all logits at every position, as a model with a single softmax does, and takes the slice it needs. Rounds
alternate, so that a disturbance meets both; the ratio is that of the medians.

    tools/bench/bench_decode_heads.py [--dtype bfloat16] [--layers 24] [--codes 60] [--rounds 3]
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from osum_echat.config import AdapterConfig, EncoderConfig, InterleaveConfig, LlmConfig, ModelConfig
from osum_echat.generate.decoder import decode
from osum_echat.generate.rules import StopRule
from osum_echat.generate.schedule import Course, Phase, Plan, make_schedule
from osum_echat.model.echat import EChat
from osum_echat.text.vocab import JointVocab

TARGET = 1.2


class JointHead(EChat):
    """Every logit at every position."""

    def joint_logits(self, h_TD: Tensor) -> Tensor:
        """(T, text + speech)"""
        return torch.cat((self.llm.logits(h_TD), self.speech(h_TD)), -1)

    def text_logits(self, h_TD: Tensor) -> Tensor:
        return self.joint_logits(h_TD)[:, : self.cfg.llm.vocab_size]

    def speech_logits(self, h_TD: Tensor) -> Tensor:
        return self.joint_logits(h_TD)[:, self.cfg.llm.vocab_size :]


def make_models(args: argparse.Namespace) -> dict[str, EChat]:
    """The two ways to ask for logits, on the same weights; encoder and adapter are not used."""
    small = {"num_layers": 1, "num_heads": 2, "ffn_width": 32}
    cfg = ModelConfig(
        encoder=EncoderConfig(width=32, **small),
        adapter=AdapterConfig(**small),
        llm=LlmConfig(
            vocab_size=args.text_size, width=args.width, num_layers=args.layers, num_heads=args.width // 64, num_kv_heads=2, ffn_width=4864
        ),
    )
    with torch.device("meta"):
        model = EChat(cfg)
    model = model.to_empty(device="cpu").to(getattr(torch, args.dtype)).eval()
    for parameter in model.parameters():
        parameter.data.uniform_(-0.03, 0.03)
    joint = JointHead.__new__(JointHead)
    joint.__dict__ = model.__dict__
    return {"phase": model, "joint": joint}


@torch.inference_mode()
def measure(model: EChat, plan: Plan, prompt_length: int) -> float:
    """Seconds of one answer after the prompt; its length is always the same, because the marks that could end it are never the choice."""
    course = Course(plan)
    state = model.llm.init_state(1, prompt_length + plan.max_new)
    hidden_TD = model.llm.extend(model.embed_ids(torch.arange(prompt_length)), state)
    begin = time.perf_counter()
    for _ in decode(model, hidden_TD[-1:], state, [course], []):
        pass
    seconds = time.perf_counter() - begin
    assert len(course.layout) == plan.max_new, f"the answer has {len(course.layout)} ids, expected {plan.max_new}"
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--codes", type=int, default=60, help="speech codes of the answer; it has a third as many text ids at most")
    parser.add_argument("--prompt", type=int, default=64, help="positions of the prompt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--text_size", type=int, default=151_936, help="text ids; 4,097 of speech come on top")
    parser.add_argument("--width", type=int, default=896)
    parser.add_argument("--small", action="store_true", help="a size that takes seconds")
    args = parser.parse_args()
    if args.small:
        args.text_size, args.width, args.layers, args.codes, args.rounds = 20_000, 128, 2, 24, 1
    models, vocab = make_models(args), JointVocab(args.text_size)
    never = -1
    phases = Phase(StopRule(never, args.codes // 4)), Phase(StopRule(never, args.codes))
    plan = Plan(make_schedule("interleaved", InterleaveConfig()), vocab, *phases)
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(args.rounds + 1):  # the first one warms up
        for name, model in models.items():
            seconds = measure(model, plan, args.prompt)
            if turn:
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        print(f"{name:<6} {1000 * seconds / plan.max_new:8.2f} ms per id  {plan.max_new / seconds:7.1f} ids/s")
    ratio = medians["joint"] / medians["phase"]
    print(f"joint / phase {ratio:.3f} (V {vocab.num_output:,}, D {args.width}, {args.layers} layers, {args.dtype}; target >= {TARGET})")


if __name__ == "__main__":
    main()
