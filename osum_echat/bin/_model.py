"""A trained language model from its run directory; what is missing is said with the stage that makes it."""

from __future__ import annotations

from pathlib import Path

import torch

from osum_echat.config import RunConfig, load_config
from osum_echat.errors import UserError
from osum_echat.model.build import build_model
from osum_echat.model.echat import EChat
from osum_echat.train.checkpoint import load_weights


def load_model(config: RunConfig, checkpoint: Path, device: str, dtype: str) -> EChat:
    """The model, ready to answer."""
    model = build_model(config.model)
    load_weights(model, checkpoint, ("ctc.",))  # answering does not read the CTC branch
    return model.to(device=device, dtype=getattr(torch, dtype)).eval()


def read_run(folder: Path) -> tuple[RunConfig, Path]:
    """Configuration and weights of a finished training: its `train.yaml`, and where its `final.pt` is."""
    if not folder.is_dir():
        raise UserError(f"--dir {folder}: no such directory; give the run directory of a training, such as exp/default/2d_s2s_interleaved")
    config, checkpoint = folder / "train.yaml", folder / "final.pt"
    if not config.is_file():
        raise UserError(f"--dir {folder} holds no train.yaml, so no training was started there; give the run directory of a training")
    loaded = load_config(config)
    if not checkpoint.exists():
        steps = sorted(path.name for path in folder.glob("step_*.pt"))
        found = f"its last checkpoint is {steps[-1]}" if steps else "it has no checkpoint either"
        todo = f"finish it: osum-echat train --config {config} --dir {folder}"
        raise UserError(f"--dir {folder} holds no final.pt, so its training has not ended ({found}); {todo}")
    return loaded, checkpoint
