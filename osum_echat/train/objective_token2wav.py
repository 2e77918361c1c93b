"""What flow and vocoder minimise and what dev is scored by. Neither has an accuracy: a dev score is [loss sum, count]."""

from __future__ import annotations

import torch

from osum_echat.token2wav.flow import Flow
from osum_echat.token2wav.flow_training import FlowTrainBatch
from osum_echat.token2wav.rows import sums_by_task
from osum_echat.token2wav.vocoder_training import VocoderBatch, VocoderTraining
from osum_echat.train.objective import LossSums


class FlowObjective:
    """Squared error of the velocity, and that of the condition as a guess of the mel, over mel values."""

    ctc_weight = 0.0
    names: tuple[str, ...] = ("total", "velocity", "prior")

    def __init__(self, prior_weight: float) -> None:
        self.prior_weight = prior_weight

    def losses(self, model: Flow, batch: FlowTrainBatch) -> LossSums:
        """Differentiable sums, and both parts for the log."""
        loss = model(batch, model.draw(batch, batch.generators()))
        velocity, prior = loss.velocity_B.sum(), loss.prior_B.sum()
        return LossSums(velocity + self.prior_weight * prior, torch.zeros_like(prior), (velocity.detach(), prior.detach()))

    def scores(self, model: Flow, batch: FlowTrainBatch) -> dict[str, torch.Tensor]:
        """Per task [squared error of the velocity, mel values]; the draws of a dev row are the same in every evaluation."""
        loss = model(batch, model.draw(batch, batch.generators()))
        return sums_by_task(batch.tasks, torch.stack((loss.velocity_B, loss.count_B.to(loss.velocity_B)), 1))


class VocoderObjective:
    """The weighted losses of the vocoder, and beside it those of its discriminators."""

    ctc_weight = 0.0

    def __init__(self, adversarial: bool) -> None:
        self.names = ("total", "mel", "stft", "f0", *(("adversarial", "features", "judge") if adversarial else ()))

    def losses(self, model: VocoderTraining, batch: VocoderBatch) -> LossSums:
        """Differentiable sums over segments, and the unweighted parts for the log."""
        losses = model(batch)
        total, *parts = (losses[name].sum() for name in self.names)
        return LossSums(total, torch.zeros_like(total), tuple(part.detach() for part in parts))

    def scores(self, model: VocoderTraining, batch: VocoderBatch) -> dict[str, torch.Tensor]:
        """Per task [loss sum without discriminators, segments]."""
        total_B = model(batch)["total"]
        return sums_by_task(batch.tasks, torch.stack((total_B, torch.ones_like(total_B)), 1))
