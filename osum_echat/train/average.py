"""The mean of the weights of several checkpoints (sums in float64)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from osum_echat.errors import CheckpointError
from osum_echat.files import write_atomic, write_text
from osum_echat.train.checkpoint import RunDir, load_state_dict
from osum_echat.train.metrics import read_metrics


def choose_steps(run: RunDir, num: int, best: bool) -> list[int]:
    """The newest `num` saved steps, or those with the lowest dev loss; oldest first."""
    steps = run.steps()
    kind = "checkpoints"
    if best:
        losses = dev_losses(run)
        steps = sorted((step for step in steps if step in losses), key=lambda step: (-losses[step], step))
        kind = "checkpoints with a dev loss"
    if len(steps) < num:
        found = ", ".join(f"step_{step}.pt" for step in sorted(steps)) or "none"
        raise CheckpointError(
            f"{run.path}: asked for the mean of {num} {kind}, found {len(steps)} ({found}). Lower --num, or train with more kept: "
            "train.keep_last and train.save_every" + (", with train.eval_every a divisor of save_every." if best else ".")
        )
    return sorted(steps[-num:])


def dev_losses(run: RunDir) -> dict[int, float]:
    """Dev loss over all tasks by step."""
    rows = read_metrics(run.path / "metrics.jsonl")
    return {row["step"]: row["loss"] for row in rows if row["split"] == "dev" and row["task"] == "all"}


def average_weights(paths: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Mean of floating-point tensors; anything else is taken from the last file."""
    sums: dict[str, torch.Tensor] = {}
    weights: dict[str, torch.Tensor] = {}
    for path in paths:
        weights = load_state_dict(path)
        if sums and {key: value.shape for key, value in sums.items()} != {key: value.shape for key, value in weights.items()}:
            raise CheckpointError(f"{path} holds another model than {paths[0]}: names or shapes of the tensors differ")
        for key, value in weights.items():
            wide = value.double() if value.is_floating_point() else value
            sums[key] = sums[key] + wide if key in sums and value.is_floating_point() else wide
    return {key: (sums[key] / len(paths)).to(value.dtype) if value.is_floating_point() else value for key, value in weights.items()}


def average_run(run: RunDir, num: int, best: bool) -> Path:
    """Write `avg_<num>.pt` and its side YAML; returns the path."""
    steps = choose_steps(run, num, best)
    weights = average_weights([run.weights(step) for step in steps])
    path = run.path / f"avg_{num}.pt"
    losses = dev_losses(run)
    inputs = [{"file": run.weights(step).name, "step": step, "dev_loss": losses.get(step)} for step in steps]
    side = {"mean_of": inputs, "chosen_by": "lowest dev loss" if best else "newest"}
    write_atomic(path, lambda file: torch.save(weights, file))
    write_text(path.with_suffix(".yaml"), yaml.safe_dump(side, sort_keys=False))
    return path
