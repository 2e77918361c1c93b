#!/usr/bin/env python3
"""Peak memory and time of the joint cross-entropy against cross-entropy on full logits, forward and backward.

Each variant runs in its own process. Peak memory is what the process holds at most beyond the weights and hidden states it starts with; so
both pay for the gradients of weights and hidden states, as a training step does. Times are medians; the memory peak is that of all runs.

    tools/bench/bench_loss_head.py [--dtype float32] [--small]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from osum_echat.losses import joint_cross_entropy
from osum_echat.text.vocab import IGNORE

NUM_SPEECH = 4097


def resident_bytes() -> int:
    """Memory the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def full_logits(
    hidden_TD: torch.Tensor, labels_T: torch.Tensor, text: torch.Tensor, speech: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """As the reference code and transformers do it: logits of every position, both heads concatenated."""
    logits_TV = torch.cat((F.linear(hidden_TD, text), F.linear(hidden_TD, speech, bias)), 1)
    return F.cross_entropy(logits_TV.float(), labels_T, ignore_index=IGNORE, reduction="sum")


def single_matrix(
    hidden_TD: torch.Tensor, labels_T: torch.Tensor, text: torch.Tensor, speech: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """The leanest form of full logits: one output matrix, no concatenation, no bias."""
    return F.cross_entropy(F.linear(hidden_TD, text), labels_T, ignore_index=IGNORE, reduction="sum")


def ours(hidden_TD: torch.Tensor, labels_T: torch.Tensor, text: torch.Tensor, speech: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return joint_cross_entropy(hidden_TD, labels_T, text, speech, bias)[0]


VARIANTS = {"full": single_matrix, "full_concatenated": full_logits, "ours": ours}


def run_variant(args: argparse.Namespace) -> dict[str, float]:
    """Measures one variant in this process."""
    torch.manual_seed(0)
    num_text = args.classes - (0 if args.variant == "full" else NUM_SPEECH)
    hidden = torch.randn(args.positions, args.width).requires_grad_()
    text = (torch.randn(num_text, args.width) * 0.02).requires_grad_()
    speech, bias = (torch.randn(NUM_SPEECH, args.width) * 0.02).requires_grad_(), torch.zeros(NUM_SPEECH).requires_grad_()
    labels = torch.randint(0, args.classes, (args.positions,))
    labels[torch.randperm(args.positions)[int(args.supervised * args.positions) :]] = IGNORE
    tensors = (hidden, text, speech, bias)
    start_bytes = resident_bytes()
    times = []
    for _ in range(args.repeat):
        for tensor in tensors:
            tensor.grad = None
        begin = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.dtype == "bfloat16"):
            loss = VARIANTS[args.variant](hidden, labels, text, speech, bias)
        loss.backward()
        times.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": statistics.median(times), "peak_bytes": peak - start_bytes, "loss": float(loss.detach())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=sorted(VARIANTS), help="measure one variant in this process and print JSON")
    parser.add_argument("--positions", type=int, default=2800)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=156_033)
    parser.add_argument("--supervised", type=float, default=0.2)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="bfloat16 is autocast over float32 weights")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a size that takes seconds")
    args = parser.parse_args()
    if args.small:
        args.positions, args.width, args.classes = 1000, 128, 20_000
    if args.variant:
        print(json.dumps(run_variant(args)))
        return
    sizes = ("positions", "width", "classes", "supervised", "dtype", "repeat")
    options = [word for name in sizes for word in (f"--{name}", str(getattr(args, name)))]
    results = {}
    for variant in VARIANTS:
        command = [sys.executable, __file__, "--variant", variant, *options]
        results[variant] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{variant:<18} {results[variant]['peak_bytes'] / 2**20:8.0f} MiB {results[variant]['seconds']:8.3f} s", flush=True)
    own = results["ours"]
    for variant in ("full", "full_concatenated"):
        memory, seconds = own["peak_bytes"] / results[variant]["peak_bytes"], own["seconds"] / results[variant]["seconds"]
        print(f"ours / {variant:<18} memory {memory:.3f}  time {seconds:.3f}")
    print("target: memory <= 0.250, time <= 0.333 of full")


if __name__ == "__main__":
    main()
