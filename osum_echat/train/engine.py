"""Where and how a step runs: device, precision, gradients, and the sums over ranks.

The trainer is written once against `Engine`; an engine adds what one kind of parallelism needs. Gradients of all trainable
parameters live in one flat float32 buffer, so clearing, clipping and the sum over ranks are single operations, and a parameter
that took no part in a step (no audio in the batch, no transcript for CTC) simply contributes zero on that rank. That is why
`torch_ddp` sums the buffer itself instead of wrapping the model: torch's wrapper must know beforehand which parameters a step uses.
Left out: sharded parameters (FSDP2, DeepSpeed).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from osum_echat.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BUCKET = 2**26  # gradients per all-reduce call: 256 MB, large enough for full bandwidth, small enough to pipeline


class GradientBuffer:
    """One flat buffer; every trainable parameter's `.grad` is a view into it."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        wrong = {str(p.dtype) for p in parameters if p.dtype != torch.float32}
        if wrong:
            raise UserError(f"trainable weights must be float32 (precision is set by train.dtype through autocast), got {', '.join(wrong)}")
        device = parameters[0].device
        self.flat = torch.zeros(sum(p.numel() for p in parameters), device=device)
        start = 0
        for parameter in parameters:
            parameter.grad = self.flat[start : start + parameter.numel()].view(parameter.shape)
            start += parameter.numel()

    def zero(self) -> None:
        """Clear all gradients."""
        self.flat.zero_()

    def clip(self, max_norm: float) -> torch.Tensor:
        """Scale to at most `max_norm`; returns the norm before, without waiting for the device."""
        norm = torch.linalg.vector_norm(self.flat)
        self.flat.mul_(torch.clamp(max_norm / (norm + 1e-6), max=1.0))
        return norm


class Engine:
    """One process on one device; the base of the others."""

    rank = 0
    world = 1

    def __init__(self, device: torch.device, dtype: str = "float32") -> None:
        self.device = device
        self.dtype = DTYPES[dtype]
        self.gradients: GradientBuffer | None = None

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    def prepare(self, model: nn.Module) -> None:
        """Move the model to the device and lay out its gradients."""
        model.to(self.device)
        self.gradients = GradientBuffer([p for p in model.parameters() if p.requires_grad])

    def buffer(self) -> GradientBuffer:
        """The gradients; only after `prepare`."""
        if self.gradients is None:
            raise RuntimeError("Engine.prepare(model) must come before the first step")
        return self.gradients

    def autocast(self) -> AbstractContextManager[Any]:
        """Context of the forward pass."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def sum_in_place(self, flat: torch.Tensor) -> None:
        """Sum a large flat tensor on the device over ranks."""

    def sync_gradients(self) -> None:
        """Sum the gradients over ranks."""
        self.sum_in_place(self.buffer().flat)

    def sum_counts(self, counts: Sequence[int]) -> list[int]:
        """Sum whole numbers over ranks."""
        return list(counts)

    def sum_tensor(self, values: torch.Tensor) -> torch.Tensor:
        """Sum a small tensor on the device over ranks."""
        return values

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, in rank order, on every rank."""
        return [value]

    def close(self) -> None:
        """Leave the group."""


class DdpEngine(Engine):
    """Data parallel over the processes that torchrun started: equal weights, summed gradients."""

    def __init__(self, device: torch.device, dtype: str = "float32", backend: str | None = None) -> None:
        super().__init__(device, dtype)
        backend = backend or ("nccl" if device.type == "cuda" else "gloo")
        if "RANK" not in os.environ:
            raise UserError("--train_engine torch_ddp needs torchrun: torchrun --standalone --nproc_per_node 2 -m osum_echat.bin.train ...")
        dist.init_process_group(backend, timeout=timedelta(minutes=30))
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        # Counts and Python objects go through the CPU, so that asking "has anybody data?" never waits for the GPU.
        self._control = dist.group.WORLD if backend == "gloo" else dist.new_group(backend="gloo", timeout=timedelta(minutes=30))

    def prepare(self, model: nn.Module) -> None:
        """As the base; then every rank takes the weights of rank 0."""
        super().prepare(model)
        with torch.no_grad():
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, 0)

    def sum_in_place(self, flat: torch.Tensor) -> None:
        """Sum a large flat tensor on the device over ranks, bucket by bucket."""
        works = [dist.all_reduce(bucket, async_op=True) for bucket in flat.split(BUCKET)]
        for work in works:
            work.wait()

    def sum_counts(self, counts: Sequence[int]) -> list[int]:
        """Sum whole numbers over ranks, exactly."""
        values = torch.tensor(list(counts), dtype=torch.int64)
        dist.all_reduce(values, group=self._control)
        return [int(value) for value in values.tolist()]

    def sum_tensor(self, values: torch.Tensor) -> torch.Tensor:
        """Sum a small tensor on the device over ranks."""
        values = values.clone()
        dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, in rank order, on every rank."""
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self._control)
        # Gloo's thread lets go of the gathered tensors a moment later and needs Python's lock for it. If the process ends in that moment
        # (a gather is the last thing a run does), it aborts; while this thread waits here, the lock is free.
        dist.barrier(group=self._control)
        return values

    def close(self) -> None:
        """Leave the group."""
        if dist.is_initialized():
            dist.destroy_process_group()


def _make_single(device: torch.device, dtype: str, backend: str | None) -> Engine:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--train_engine single was started by torchrun with several processes; use torch_ddp or start one process")
    return Engine(device, dtype)


ENGINES: dict[str, Callable[[torch.device, str, str | None], Engine]] = {"single": _make_single, "torch_ddp": DdpEngine}


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda` (this rank's GPU among the visible ones)."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    index, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here (a CPU build of torch, no driver, or CUDA_VISIBLE_DEVICES is empty)")
    if index >= count:
        raise UserError(f"process {index} of this machine has no GPU: CUDA_VISIBLE_DEVICES shows {count}; start no more processes")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def make_engine(name: str, device: torch.device, dtype: str = "float32", backend: str | None = None) -> Engine:
    """The engine `single` or `torch_ddp`; `auto` takes torch_ddp when torchrun started several processes."""
    if name == "auto":
        name = "torch_ddp" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "single"
    return ENGINES[name](device, dtype, backend)
