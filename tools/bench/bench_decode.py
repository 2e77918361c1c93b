#!/usr/bin/env python3
"""Decoding on packed weights against transformers and llama.cpp: one request, one position at a time, greedy, random weights.

Ours runs with int4, int8 and bf16 weights, in a text phase (text head) and a speech phase (speech head), through the kernels' whole step
and, to see what that is worth, through the eager step on the same packed weights. Peers have one vocabulary and are in a text phase always.
Rounds alternate, so that a disturbance meets all; figures are medians. The bound is what reading every weight once would take at the
bandwidth that summing a large tensor reaches.

    tools/bench/bench_decode.py [--threads 2] [--prompt 200] [--new 64] [--rounds 5] [--small]
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from random_gguf import TYPES, write_gguf

from osum_echat.config import AdapterConfig, EncoderConfig, LlmConfig, ModelConfig
from osum_echat.model.echat import EChat
from osum_echat.model.llm import KVState, Llm
from osum_echat.model.quantize import Quantization, QuantLinear, QuantLlm, quantize

OURS = {
    "int4": Quantization("int4", 32),
    "int4 g128": Quantization("int4", 128),
    "int8": Quantization("int8", 32),
    "bf16": Quantization("bf16"),
}
# (ours, phase, peer, target)
TARGETS = [
    ("int4", "text", "llama.cpp Q4_0", 1.0),
    ("int4", "speech", "llama.cpp Q4_0", 1.25),
    ("int8", "text", "llama.cpp Q8_0", 1.0),
    ("bf16", "text", "llama.cpp F16", 1.0),
    ("int4", "text", "transformers bf16", 4.0),
    ("bf16", "prefill", "transformers bf16", 0.9),
    ("int4", "prefill", "transformers bf16", 0.9),
]


@dataclass
class Row:
    """A contestant: a way to run a prompt and go on for some ids, and the seconds it took, by phase."""

    run: dict[str, Callable[[], tuple[float, float]]]  # phase -> (seconds of the prompt, seconds of the ids)
    num_bytes: dict[str, int] = field(default_factory=dict)  # of weights that a position reads, by phase
    prefill: list[float] = field(default_factory=list)
    decode: dict[str, list[float]] = field(default_factory=dict)

    def turn(self, keep: bool) -> None:
        """One round of every phase."""
        for phase, run in self.run.items():
            prefill, decode = run()
            if keep:
                self.prefill.append(prefill)
                self.decode.setdefault(phase, []).append(decode)


def llm_config(args: argparse.Namespace) -> LlmConfig:
    """Qwen2.5-0.5B, or a size that takes seconds."""
    if args.small:
        return LlmConfig(vocab_size=8_000, width=256, num_layers=2, num_heads=4, num_kv_heads=2, ffn_width=512)
    return LlmConfig(vocab_size=151_936, width=896, num_layers=24, num_heads=14, num_kv_heads=2, ffn_width=4864)


def make_model(cfg: LlmConfig) -> EChat:
    """bf16 with random weights; encoder and adapter are not used."""
    small = {"num_layers": 1, "num_heads": 2, "ffn_width": 32}
    with torch.device("meta"):
        model = EChat(ModelConfig(encoder=EncoderConfig(width=32, **small), adapter=AdapterConfig(**small), llm=cfg))
    model = model.to_empty(device="cpu").to(torch.bfloat16).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.fill_(1)
        else:
            parameter.data.uniform_(-0.03, 0.03)
    return model


@torch.inference_mode()
def run_ours(
    model: EChat, head: Callable[[Tensor], Tensor], step: Callable[[Tensor, KVState], Tensor], first: int, args: argparse.Namespace
) -> tuple[float, float]:
    """Seconds of the prompt and of the ids behind it; `first` is the joint id of the head's first row."""
    state = model.llm.init_state(1, args.prompt + args.new)
    prompt = torch.arange(args.prompt)
    begin = time.perf_counter()
    hidden_BD = model.llm.extend(model.embed_ids(prompt), state)[-1:]
    token_B = head(hidden_BD).argmax(-1) + first
    middle = time.perf_counter()
    for _ in range(args.new):
        token_B = head(step(model.embed_ids(token_B), state)).argmax(-1) + first
    return middle - begin, time.perf_counter() - middle


def our_rows(cfg: LlmConfig, args: argparse.Namespace) -> dict[str, Row]:
    """Packed models, and for int4 the eager step on the same weights."""
    rows: dict[str, Row] = {}
    for name, quant in OURS.items():
        model = make_model(cfg)
        errors = quantize(model, quant)
        print(f"{name}: relative error of a linear's output {statistics.median(errors.values()):.4f} (median of {len(errors)})")
        assert isinstance(model.llm, QuantLlm) and isinstance(model.speech.head, QuantLinear)
        in_layers = sum(size_of(module) for module in model.llm.layers.modules() if isinstance(module, QuantLinear))
        num_bytes = {"text": in_layers + size_of(model.llm.head), "speech": in_layers + size_of(model.speech.head)}
        heads = {"text": (model.text_logits, 0), "speech": (model.speech_logits, cfg.vocab_size)}
        steps = {name: model.llm.step}
        if name == "int4":
            steps["int4, eager step"] = partial(Llm.step, model.llm)
        for row, step in steps.items():
            run = {phase: partial(run_ours, model, head, step, first, args) for phase, (head, first) in heads.items()}
            rows[row] = Row(run, num_bytes)
    return rows


def size_of(linear: torch.nn.Module) -> int:
    """Bytes of a packed linear."""
    return sum(buffer.nbytes for buffer in linear.buffers())


def transformers_row(cfg: LlmConfig, args: argparse.Namespace) -> Row:
    """`generate` of Qwen2ForCausalLM in bf16."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=cfg.vocab_size,
        hidden_size=cfg.width,
        intermediate_size=cfg.ffn_width,
        num_hidden_layers=cfg.num_layers,
        num_attention_heads=cfg.num_heads,
        num_key_value_heads=cfg.num_kv_heads,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).bfloat16().eval()
    prompt = torch.arange(args.prompt).unsqueeze(0)

    def seconds(num_ids: int) -> float:
        begin = time.perf_counter()
        with torch.inference_mode():
            ids = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=num_ids,
                min_new_tokens=num_ids,
                do_sample=False,
                pad_token_id=0,
            )
        assert ids.shape[1] == args.prompt + num_ids
        return time.perf_counter() - begin

    def run() -> tuple[float, float]:
        prefill = seconds(1)
        return prefill, seconds(1 + args.new) - prefill

    num_bytes = sum(parameter.nbytes for parameter in model.parameters())
    return Row({"text": run}, {"text": num_bytes})


def llama_rows(cfg: LlmConfig, args: argparse.Namespace, folder: Path) -> dict[str, Row]:
    """llama.cpp on files with random weights."""
    try:
        import llama_cpp
    except ImportError:
        print("llama.cpp: not installed (pip install llama-cpp-python)")
        return {}
    llama_cpp.llama_log_set(llama_cpp.llama_log_callback(lambda *_: None), None)
    context = llama_cpp.llama_context_default_params()
    context.n_ctx = context.n_batch = args.prompt + args.new + 8
    context.n_threads = context.n_threads_batch = args.threads
    rows: dict[str, Row] = {}
    for kind in TYPES:
        path = folder / f"{kind}.gguf"
        write_gguf(path, cfg, kind, context.n_ctx)
        model: Any = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        assert model, f"llama.cpp does not load {path}"
        rows[f"llama.cpp {kind}"] = Row(
            {"text": partial(run_llama, llama_cpp, model, context, cfg.vocab_size, args)}, {"text": path.stat().st_size}
        )
    return rows


def run_llama(llama_cpp: Any, model: Any, params: Any, vocab_size: int, args: argparse.Namespace) -> tuple[float, float]:
    """Seconds of the prompt and of the ids behind it, in a context of its own."""
    import numpy as np

    context = llama_cpp.llama_init_from_model(model, params)

    def next_id(ids: list[int]) -> int:
        tokens = (llama_cpp.llama_token * len(ids))(*ids)
        status = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, len(ids)))
        assert status == 0, f"llama_decode: {status}"
        return int(np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (vocab_size,)).argmax())

    begin = time.perf_counter()
    token = next_id(list(range(args.prompt)))
    middle = time.perf_counter()
    for _ in range(args.new):
        token = next_id([token])
    end = time.perf_counter()
    llama_cpp.llama_free(context)
    return middle - begin, end - middle


def read_bandwidth() -> float:
    """Bytes a second that summing 512 MB reads, the best of ten."""
    big = torch.ones(128 << 20)
    seconds = []
    for _ in range(10):
        begin = time.perf_counter()
        big.sum()
        seconds.append(time.perf_counter() - begin)
    return big.nbytes / min(seconds)


def report(rows: dict[str, Row], bandwidth: float, args: argparse.Namespace) -> None:
    """The table and the targets."""
    print(f"{torch.get_num_threads()} threads, kernels {torch.ops.osum.kernel_names()[0]}, read {bandwidth / 1e9:.1f} GB/s")
    print(f"{'':<20}{'phase':<8}{'ids/s':>8}{'GB/id':>8}{'of bound':>10}{'prompt ids/s':>14}")
    speed: dict[tuple[str, str], float] = {}
    for name, row in rows.items():
        speed[name, "prefill"] = args.prompt / statistics.median(row.prefill)
        for phase, seconds in row.decode.items():
            speed[name, phase] = args.new / statistics.median(seconds)
            share = speed[name, phase] * row.num_bytes[phase] / bandwidth
            print(
                f"{name:<20}{phase:<8}{speed[name, phase]:8.1f}{row.num_bytes[phase] / 1e9:8.3f}{share:10.0%}{speed[name, 'prefill']:14.0f}"
            )
    for ours, phase, peer, target in TARGETS:
        against = speed.get((peer, "prefill" if phase == "prefill" else "text"))
        if against is not None:
            print(f"{ours} {phase} / {peer}: {speed[ours, phase] / against:.2f} (target >= {target})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=200, help="positions of the prompt")
    parser.add_argument("--new", type=int, default=64, help="ids behind it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="a size that takes seconds")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cfg = llm_config(args)
    bandwidth = read_bandwidth()
    with tempfile.TemporaryDirectory() as folder:
        rows = our_rows(cfg, args)
        rows["transformers bf16"] = transformers_row(cfg, args)
        rows |= llama_rows(cfg, args, Path(folder))
        for turn in range(args.rounds + 1):  # the first one warms up
            for row in rows.values():
                row.turn(keep=turn > 0)
    report(rows, bandwidth, args)


if __name__ == "__main__":
    main()
