"""Checkpoints of a run directory: weights, side YAML, trainer state, rotation, `final.pt`.

`step_N.pt` holds weights only; `step_N.yaml` says where they come from; `step_N.trainer.pt` (only of the newest) holds what a
resume needs. All three are written to a temporary file, synced and renamed, the trainer state last: a step without it was cut short
and is not resumed from. Everything loads with `weights_only=True`. Left out: optimizer state of old steps, sharded checkpoints.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from osum_echat.errors import CheckpointError
from osum_echat.files import write_atomic, write_text
from osum_echat.model.build import matches_prefix

STEP_NAME = re.compile(r"step_(\d+)\.pt")


def load_file(path: Path) -> Any:
    """Load a .pt file on the CPU, without running code from it."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: not a readable checkpoint of plain tensors ({reason})") from None


def load_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint."""
    weights = load_file(path)
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise CheckpointError(f"{path}: expected a flat mapping from names to tensors (a step_N.pt, avg_N.pt or final.pt)")
    return weights


@dataclass(frozen=True)
class LoadReport:
    """What became of every key when weights were loaded."""

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        for name, keys in (("missing (kept as initialised)", self.missing), ("unexpected (not used)", self.unexpected)):
            if keys:
                parts.append(f"{len(keys)} {name}: {_some(keys)}")
        return "; ".join(parts)


def _some(keys: Sequence[str], limit: int = 8) -> str:
    return ", ".join(keys[:limit]) + (f" and {len(keys) - limit} more" if len(keys) > limit else "")


def load_weights(model: nn.Module, path: Path, allow_missing: Sequence[str] = (), part: str = "") -> LoadReport:
    """Copy weights into the model; a wrong shape, or a missing key outside `allow_missing` prefixes, is an error.

    `part` is the prefix of the model's names in a checkpoint that holds more.
    """
    weights = {key.removeprefix(part): value for key, value in load_state_dict(path).items() if key.startswith(part)}
    own = model.state_dict()
    wrong = [f"{key}: got {tuple(weights[key].shape)}, expected {tuple(own[key].shape)}" for key in own if _misfit(own, weights, key)]
    if wrong:
        raise CheckpointError(f"{path} holds another shape of this model ({len(wrong)} tensors differ):\n  " + "\n  ".join(wrong[:8]))
    missing = [key for key in own if key not in weights]
    forbidden = [key for key in missing if not any(matches_prefix(key, prefix) for prefix in allow_missing)]
    if forbidden:
        raise CheckpointError(
            f"{path} lacks {len(forbidden)} tensors of the model: {_some(forbidden)}. "
            "If they are meant to start from scratch, list their prefix under train.init_allow_missing."
        )
    loaded = [key for key in own if key in weights]
    model.load_state_dict({key: weights[key] for key in loaded}, strict=False)
    return LoadReport(loaded, missing, [key for key in weights if key not in own])


def _misfit(own: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor], key: str) -> bool:
    return key in weights and own[key].shape != weights[key].shape


def weights_on_cpu(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict on the CPU; tensors that share storage (tied embeddings) still share it."""
    copies: dict[tuple[int, torch.Size], torch.Tensor] = {}
    result = {}
    for key, tensor in model.state_dict().items():
        memo = (tensor.data_ptr(), tensor.shape)
        result[key] = copies.setdefault(memo, tensor.detach().cpu())
    return result


class RunDir:
    """The files of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def weights(self, step: int) -> Path:
        """Weights of a step."""
        return self.path / f"step_{step}.pt"

    def side(self, step: int) -> Path:
        """Where the weights of a step come from."""
        return self.path / f"step_{step}.yaml"

    def trainer_state(self, step: int) -> Path:
        """Optimizer, schedule and data position of a step."""
        return self.path / f"step_{step}.trainer.pt"

    def steps(self) -> list[int]:
        """Steps with complete weights, oldest first."""
        names = (STEP_NAME.fullmatch(path.name) for path in self.path.glob("step_*.pt"))
        return sorted(int(match[1]) for match in names if match)

    def resumable(self) -> int | None:
        """The newest step a run can go on from."""
        return max((step for step in self.steps() if self.trainer_state(step).exists()), default=None)

    def save(self, step: int, weights: Mapping[str, torch.Tensor], side: Mapping[str, Any], state: Mapping[str, Any], keep: int) -> None:
        """Write a step, then drop what is older than the newest `keep`."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomic(self.weights(step), lambda file: torch.save(dict(weights), file))
        write_text(self.side(step), yaml.safe_dump(dict(side), sort_keys=False))
        write_atomic(self.trainer_state(step), lambda file: torch.save(dict(state), file))
        self._rotate(step, keep)

    def _rotate(self, newest: int, keep: int) -> None:
        final = self.path / "final.pt"
        target = final.resolve() if final.exists() else None
        steps = self.steps()
        for step in steps:
            if step != newest:
                self.trainer_state(step).unlink(missing_ok=True)
        for step in steps[:-keep]:
            if self.weights(step).resolve() != target:
                self.weights(step).unlink(missing_ok=True)
                self.side(step).unlink(missing_ok=True)

    def link_final(self, name: str) -> None:
        """Point `final.pt` at a file of this directory (relative, so that the directory can be moved)."""
        if not (self.path / name).exists():
            raise CheckpointError(f"{self.path / name}: cannot become final.pt, it does not exist")
        temporary = self.path / "final.pt.tmp"
        temporary.unlink(missing_ok=True)
        try:
            temporary.symlink_to(name)
        except OSError:  # file systems without symbolic links
            os.link(self.path / name, temporary)
        temporary.replace(self.path / "final.pt")
