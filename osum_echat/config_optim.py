"""Optimizer and learning rates in the configuration of a run (config.py)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from osum_echat.config_types import NonNegative, Positive, Probability, Rate, Section


class GroupConfig(Section):
    """Learning-rate scale of the parameters under a name prefix; the longest matching prefix wins."""

    prefix: str = Field(description="Name prefix, such as `encoder`.")
    lr_scale: float = Field(ge=0, description="Factor on the learning rate.")


class MuonConfig(Section):
    """Muon (arXiv:2502.16982) in place of AdamW for the linear layers inside a network that starts from nothing; not for output layers."""

    prefixes: list[str] = Field(min_length=1, description="Name prefixes whose linear layers it trains, such as `llm.layers`.")
    lr_scale: float = Field(
        1.0, gt=0, description="Factor on their learning rate, on top of `groups`; at 1.0 an update has about the size of AdamW's."
    )


class OptimConfig(Section):
    """AdamW (arXiv:1711.05101), for some layers Muon; no weight decay on norms and biases. `betas` and `eps` are AdamW's."""

    lr: float = Field(5e-6, gt=0, description="Peak learning rate.")
    betas: tuple[Probability, Probability] = Field((0.9, 0.999), description="Decay of the two moments.")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of matrices.")
    eps: float = Field(1e-8, gt=0, description="Epsilon.")
    groups: list[GroupConfig] = Field([], description="Learning-rate scales by name prefix.")
    muon: MuonConfig | None = Field(None, description="Layers that Muon trains; null: none.")


class ScheduleConfig(Section):
    """Learning rate over optimizer steps."""

    kind: Literal["warmup_inverse_sqrt", "warmup_linear", "warmup_cosine", "constant"] = Field(
        "warmup_inverse_sqrt", description="After the warm-up: 1/sqrt(step) (WeNet's WarmupLR), linear or cosine decay, or always the peak."
    )
    warmup_steps: NonNegative = Field(8000, description="Steps to the peak; not used by `constant`.")
    total_steps: Positive | None = Field(None, description="End of the linear or cosine decay; null takes `train.max_steps`.")
    min_factor: Rate = Field(0.0, description="Floor of the linear or cosine decay, as a share of the peak.")
