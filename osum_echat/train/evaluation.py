"""Loss on dev, and token accuracy where a model has one, per task and over all."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from osum_echat.train.engine import Engine
from osum_echat.train.objective import Objective, TrainBatch


@torch.no_grad()
def evaluate(model: nn.Module, objective: Objective, batches: Iterator[TrainBatch], engine: Engine) -> dict[str, dict[str, float]]:
    """`{task: {loss, accuracy, tokens}}` over all ranks, with the row `all` first; empty when there was no batch.

    The accuracy is there when the objective scores it.
    """
    sums: dict[str, torch.Tensor] = {}  # on the device, so that no batch waits for the one before
    model.eval()
    for batch in batches:
        with engine.autocast():
            scores = objective.scores(model, batch.to(engine.device))
        for task, score in scores.items():
            sums[task] = sums[task] + score if task in sums else score
    model.train()
    totals: dict[str, list[float]] = {}
    for part in engine.gather({task: score.double().tolist() for task, score in sums.items()}):
        for task, values in part.items():
            totals[task] = [a + b for a, b in zip(totals.get(task, [0.0] * len(values)), values, strict=True)]
    if not totals:
        return {}
    everything = [sum(values) for values in zip(*totals.values(), strict=True)]
    return {task: _means(values) for task, values in [("all", everything), *sorted(totals.items())]}


def describe_score(score: dict[str, float]) -> str:
    """For the log."""
    return f"{score['loss']:.4f}" + (f" ({score['accuracy']:.1%})" if "accuracy" in score else "")


def _means(values: list[float]) -> dict[str, float]:
    loss, *correct, count = values
    accuracy = {"accuracy": correct[0] / max(1.0, count)} if correct else {}
    return {"loss": loss / max(1.0, count), **accuracy, "tokens": count}
