"""Checkpoints survive a full disk, rotation keeps what is needed, and loading says exactly what does not fit."""

import errno
import os
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from osum_echat import files
from osum_echat.errors import CheckpointError, UserError
from osum_echat.train.checkpoint import RunDir, load_file, load_weights, weights_on_cpu


def save(run: RunDir, step: int, size: int = 4, keep: int = 2) -> None:
    run.save(step, {"weight": torch.full((size,), float(step))}, {"step": step}, {"world": 1, "step": step}, keep)


def assert_only_step(run: RunDir, step: int) -> None:
    assert run.steps() == [step] and run.resumable() == step
    assert torch.equal(load_file(run.weights(step))["weight"], torch.full((4,), float(step)))
    assert not list(run.path.glob("*.tmp"))


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, failing):
    """The n-th file of the step (weights, side, trainer state) finds no space."""
    run = RunDir(tmp_path)
    save(run, 1)
    calls = []

    def fsync(number):
        calls.append(number)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(UserError, match=r"could not write .*step_2.*No space left on device.*Free some space"):
        save(run, 2)
    assert run.resumable() == 1 and load_file(run.trainer_state(1))["step"] == 1
    assert torch.equal(load_file(run.weights(1))["weight"], torch.full((4,), 1.0)) and not list(tmp_path.glob("*.tmp"))
    monkeypatch.undo()
    save(run, 2)
    assert run.resumable() == 2


def test_really_full_disk(tmp_path):
    """torch.save wraps a failed write into RuntimeError; the message must still say what happened."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a small disk here")
    try:
        run = RunDir(disk)
        save(run, 1)
        with pytest.raises(UserError, match="No space left on device"):
            save(run, 2, size=200_000)
        assert_only_step(run, 1)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_rotation(tmp_path):
    run = RunDir(tmp_path)
    for step in (5, 10, 15, 100):
        save(run, step)
    assert run.steps() == [15, 100]
    assert sorted(p.name for p in tmp_path.glob("*.trainer.pt")) == ["step_100.trainer.pt"]
    assert sorted(p.name for p in tmp_path.glob("*.yaml")) == ["step_100.yaml", "step_15.yaml"]


def test_final_always_resolves(tmp_path):
    run = RunDir(tmp_path / "a")
    save(run, 1)
    run.link_final("step_1.pt")
    for step in (2, 3, 4):
        save(run, step)
    assert run.steps() == [1, 3, 4], "what final.pt points at is not rotated away"
    (tmp_path / "a").rename(tmp_path / "b")
    assert float(load_file(tmp_path / "b/final.pt")["weight"][0]) == 1.0
    moved = RunDir(tmp_path / "b")
    moved.link_final("step_4.pt")
    assert float(load_file(tmp_path / "b/final.pt")["weight"][0]) == 4.0
    with pytest.raises(CheckpointError, match="does not exist"):
        moved.link_final("step_9.pt")


def test_final_without_symbolic_links(tmp_path, monkeypatch):
    run = RunDir(tmp_path)
    save(run, 1)

    def refuse(self, target):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    run.link_final("step_1.pt")
    assert not (tmp_path / "final.pt").is_symlink() and float(load_file(tmp_path / "final.pt")["weight"][0]) == 1.0


def test_a_step_without_trainer_state_is_not_resumed(tmp_path):
    run = RunDir(tmp_path)
    save(run, 1)
    torch.save({"weight": torch.zeros(4)}, run.weights(2))
    assert run.steps() == [1, 2] and run.resumable() == 1


def test_load_report_and_errors(tmp_path):
    model = nn.ModuleDict({"encoder": nn.Linear(2, 3), "ctc": nn.Linear(3, 2)})
    weights = {"encoder.weight": torch.ones(3, 2), "encoder.bias": torch.ones(3), "speech.head": torch.ones(1)}
    torch.save(weights, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"lacks 2 tensors of the model: ctc.weight, ctc.bias.*init_allow_missing"):
        load_weights(model, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="lacks"):
        load_weights(model, tmp_path / "a.pt", ["ct"])
    before = model["ctc"].weight.clone()
    report = load_weights(model, tmp_path / "a.pt", ["ctc"])
    assert report.loaded == ["encoder.weight", "encoder.bias"] and report.missing == ["ctc.weight", "ctc.bias"]
    assert report.unexpected == ["speech.head"] and "speech.head" in str(report)
    assert torch.equal(model["encoder"].weight, torch.ones(3, 2)) and torch.equal(model["ctc"].weight, before)
    torch.save({**weights, "encoder.weight": torch.ones(3, 4)}, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match=r"encoder.weight: got \(3, 4\), expected \(3, 2\)"):
        load_weights(model, tmp_path / "b.pt", ["ctc"])


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 half a zip"])
def test_broken_files_are_named(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a.pt: not a readable checkpoint"):
        load_file(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_file(tmp_path / "b.pt")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"a": Path("/")}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="plain tensors"):
        load_file(tmp_path / "a.pt")


def test_tied_weights_are_saved_once(tmp_path):
    model = nn.ModuleDict({"embed": nn.Embedding(50_000, 8), "head": nn.Linear(8, 50_000, bias=False)})
    model["head"].weight = model["embed"].weight
    torch.save(weights_on_cpu(model), tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 1.1 * 50_000 * 8 * 4
