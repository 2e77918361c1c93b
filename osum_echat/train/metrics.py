"""metrics.jsonl, TensorBoard and the measures of a step.

metrics.jsonl has one row per optimizer step (`split` train) and one per evaluation (`split` dev, one per task plus `all`) and epoch.
On resume it is cut back to the step of the checkpoint, so that no step ever has two rows. The keys of a step's utterances are
written as the sum of their hashes: independent of their order and of how ranks and micro-batches share them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import resource
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from osum_echat.files import write_text


def hash_keys(keys: Iterable[str]) -> int:
    """Sum of 48-bit hashes: equal for equal multisets of keys, and exact in int64 up to 32,768 keys."""
    return sum(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=6).digest(), "big") for key in keys)


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory this process ever held on the device (for the CPU: resident memory)."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete rows; a last line cut short by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def truncate_metrics(path: Path, step: int, epoch: int) -> None:
    """Drop the rows after `step`, and from the end of `epoch` on, of which the checkpoint knows nothing although it has the same step."""
    if path.exists():
        rows = (row for row in read_metrics(path) if row["step"] <= step)
        kept = itertools.takewhile(lambda row: row["split"] != "epoch" or row["epoch"] < epoch, rows)
        text = "".join(json.dumps(row) + "\n" for row in kept)
        write_text(path, text)


class MetricsWriter:
    """Appends rows to metrics.jsonl and scalars to TensorBoard; does nothing on other ranks than the first."""

    def __init__(self, folder: Path, step: int, epoch: int = 0, enabled: bool = True) -> None:
        self._file = None
        self._board: Any = None
        if enabled:
            from torch.utils.tensorboard import SummaryWriter  # late: costs a second that other commands need not wait

            truncate_metrics(folder / "metrics.jsonl", step, epoch)
            self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8")
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)  # type: ignore[no-untyped-call]

    def row(self, row: dict[str, Any]) -> None:
        """Append one row; it is in the file (not only in our buffer) when this returns."""
        if self._file:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def scalars(self, row: dict[str, Any]) -> None:
        """Draw the numbers of a row in TensorBoard under its split and task."""
        if self._board:
            prefix = "/".join(str(row[name]) for name in ("split", "task") if name in row)
            for name, value in row.items():
                if isinstance(value, int | float) and name not in ("step", "keys"):
                    self._board.add_scalar(f"{prefix}/{name}", value, row["step"])

    def close(self) -> None:
        """Flush and close."""
        if self._file:
            self._file.close()
            self._board.close()
