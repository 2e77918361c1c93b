"""bin/train.py over the real data path and model, at toy size."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from osum_echat.bin import average, train
from osum_echat.train.checkpoint import load_file
from osum_echat.train.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[3]
TIMED = ("tokens_per_second", "data_wait", "seconds", "peak_memory_gb")


def run_main(main, capsys, *arguments):
    """Status and output of an entry point, called in this process."""
    before = sys.argv
    sys.argv = ["command", *map(str, arguments)]
    try:
        status = main()
    finally:
        sys.argv = before
    out = capsys.readouterr()
    return status, " ".join((out.out + out.err).split())


def command(*arguments):
    return [sys.executable, "-m", "osum_echat.bin.train", *map(str, arguments)]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def rows_of(folder):
    return [{k: v for k, v in row.items() if k not in TIMED} for row in read_metrics(folder / "metrics.jsonl")]


@pytest.fixture(scope="module")
def whole(tiny_run, tmp_path_factory):
    """An uninterrupted run with num_workers 0."""
    folder = tmp_path_factory.mktemp("whole")
    subprocess.run(command("--config", tiny_run / "tiny.yaml", "--dir", folder), env=environment(), check=True, capture_output=True)
    return folder


def test_run_directory_is_complete(whole, tiny_run):
    names = {path.name for path in whole.iterdir()}
    assert {
        "train.yaml",
        "env.json",
        "metrics.jsonl",
        "tensorboard",
        "final.pt",
        "step_12.pt",
        "step_12.yaml",
        "step_12.trainer.pt",
    } <= names
    assert {"step_6.pt", "step_9.pt"} <= names and "step_3.pt" not in names
    for path in whole.glob("*.pt"):
        torch.load(path, weights_only=True)
    facts = json.loads((whole / "env.json").read_text())
    assert facts["seed"] == 777 and facts["torch"] == torch.__version__ and len(facts["starts"]) == 1 and "bin/train" in facts["command"]
    train_rows = [row for row in rows_of(whole) if row["split"] == "train"]
    assert [row["step"] for row in train_rows] == list(range(1, 13))
    assert train_rows[-1]["loss"] < train_rows[0]["loss"] and all("ctc" in row for row in train_rows)
    dev = [row for row in rows_of(whole) if row["split"] == "dev"]
    assert {row["task"] for row in dev} == {"all", "asr", "gender"} and {row["step"] for row in dev} == {6, 12}
    assert yaml.safe_load((whole / "train.yaml").read_text())["model"]["llm"]["head_dim"] == 8


def test_dry_run_writes_nothing(tiny_run, tmp_path, capsys):
    status, text = run_main(train.main, capsys, "--config", tiny_run / "tiny.yaml", "--dir", tmp_path / "run", "--dry_run")
    assert status == 0 and "first batch:" in text and "trainable" in text and not (tmp_path / "run").exists()


def test_other_settings_in_a_used_directory_are_refused(whole, tiny_run, capsys):
    before = (whole / "train.yaml").read_text()
    common = ("--config", tiny_run / "tiny.yaml", "--dir", whole)
    status, text = run_main(train.main, capsys, *common, "--set", "train.optim.lr=0.1")
    assert status == 2 and "already holds a run with other settings" in text and "train.optim.lr: 0.003 -> 0.1" in text
    assert (whole / "train.yaml").read_text() == before
    status, text = run_main(train.main, capsys, *common, "--resume", "none")
    assert status == 2 and "already holds step_12.pt" in text


def test_init_loads_and_reports(whole, tiny_run, tmp_path, capsys):
    """With a learning rate of (almost) nothing the weights after a step are those of the checkpoint."""
    extra = ["--set", "train.max_steps=1", "--set", "train.optim.lr=1.0e-30", "--init", whole / "final.pt"]
    status, text = run_main(train.main, capsys, "--config", tiny_run / "tiny.yaml", "--dir", tmp_path / "run", *extra)
    assert status == 0 and "tensors loaded" in text
    start, end = load_file(whole / "final.pt"), load_file(tmp_path / "run/final.pt")
    assert all(torch.allclose(start[key], end[key], atol=1e-7) for key in start)


def test_init_of_another_shape_is_named(whole, tiny_run, tmp_path, capsys):
    extra = ["--set", "model.llm.ffn_width=128", "--init", whole / "final.pt"]
    status, text = run_main(train.main, capsys, "--config", tiny_run / "tiny.yaml", "--dir", tmp_path / "run", *extra)
    assert status == 2 and "llm.layers.0" in text and "got (64, 32), expected (128, 32)" in text


def test_init_with_missing_parts_needs_permission(whole, tiny_run, tmp_path, capsys):
    weights = {key: value for key, value in load_file(whole / "final.pt").items() if not key.startswith("ctc.")}
    torch.save(weights, tmp_path / "part.pt")
    extra = ["--set", "train.max_steps=1", "--init", tmp_path / "part.pt"]
    common = ("--config", tiny_run / "tiny.yaml", "--dir", tmp_path / "run", *extra)
    status, text = run_main(train.main, capsys, *common)
    assert status == 2 and "lacks 2 tensors" in text and "ctc.weight" in text
    status, text = run_main(train.main, capsys, *common, "--set", "train.init_allow_missing=[ctc]")
    assert status == 0 and "2 missing (kept as initialised): ctc.weight, ctc.bias" in text


def test_average(whole, capsys):
    status, text = run_main(average.main, capsys, "--dir", whole, "--num", 3)
    assert status == 0
    parts = [load_file(whole / f"step_{step}.pt") for step in (6, 9, 12)]
    mean = load_file(whole / "avg_3.pt")
    for key, value in mean.items():
        expected = torch.stack([part[key].double() for part in parts]).mean(0)
        assert torch.equal(value, expected.to(value.dtype)), key
    assert [item["step"] for item in yaml.safe_load((whole / "avg_3.yaml").read_text())["mean_of"]] == [6, 9, 12]
    status, text = run_main(average.main, capsys, "--dir", whole, "--num", 4)
    assert status == 2 and "found 3 (step_6.pt, step_9.pt, step_12.pt)" in text
    status, text = run_main(average.main, capsys, "--dir", whole, "--num", 2, "--best")
    assert status == 0 and yaml.safe_load((whole / "avg_2.yaml").read_text())["chosen_by"] == "lowest dev loss"


def test_frozen_parts_do_not_change(whole, tiny_run, tmp_path, capsys):
    extra = [
        "--set",
        "train.max_steps=2",
        "--set",
        "train.trainable=[adapter]",
        "--init",
        whole / "final.pt",
        "--set",
        "train.dtype=bfloat16",
    ]
    status, _ = run_main(train.main, capsys, "--config", tiny_run / "tiny.yaml", "--dir", tmp_path / "run", *extra)
    assert status == 0
    start, end = load_file(whole / "final.pt"), load_file(tmp_path / "run/final.pt")
    changed = {key.split(".")[0] for key in start if not torch.equal(start[key], end[key])}
    assert changed == {"adapter"} and all(value.dtype == torch.float32 for value in end.values())


def test_missing_list_is_an_error_for_the_user(tiny_run, tmp_path, capsys):
    extra = ["--set", "data.train.0.list=/nowhere/a.list"]
    status, text = run_main(train.main, capsys, "--config", tiny_run / "tiny.yaml", "--dir", tmp_path / "run", *extra)
    assert status == 2 and "/nowhere/a.list" in text


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_kill_and_resume_equals_uninterrupted(tiny_run, tmp_path, num_workers):
    arguments = ["--config", tiny_run / "tiny.yaml", "--set", f"data.num_workers={num_workers}", "--set", "train.max_steps=16", "--dir"]
    subprocess.run(command(*arguments, tmp_path / "whole"), env=environment(), check=True, capture_output=True)
    step = random.Random(num_workers).randint(3, 14)
    process = subprocess.Popen(
        command(*arguments, tmp_path / "killed"), env=environment(), stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if any(row["step"] >= step for row in read_metrics(tmp_path / "killed/metrics.jsonl")):
            break
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)  # its readers too, as a machine that dies would
    process.wait()
    done = subprocess.run(command(*arguments, tmp_path / "killed"), env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")


@pytest.mark.slow
def test_ctrl_c_to_the_whole_group_saves_and_says_how_to_resume(tiny_run, tmp_path):
    arguments = ["--config", tiny_run / "tiny.yaml", "--set", "data.num_workers=2", "--set", "train.max_steps=100000", "--dir", tmp_path]
    process = subprocess.Popen(command(*arguments), env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(read_metrics(tmp_path / "metrics.jsonl")) < 5:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert "python -m osum_echat.bin.train --config" in out and f"--dir {tmp_path}" in out
    step = max(row["step"] for row in rows_of(tmp_path))
    assert (tmp_path / f"step_{step}.trainer.pt").exists()


@pytest.mark.slow
def test_two_processes_equal_one_at_equal_global_batch(tiny_run, tmp_path):
    """Two readers in one process take turns; two processes with one reader each read the same shares (a window is one batch here)."""
    common = [
        "--config",
        tiny_run / "tiny.yaml",
        "--set",
        "train.max_steps=6",
        "--set",
        "model.encoder.dropout=0",
        "--set",
        "model.adapter.dropout=0",
    ]
    common += ["--set", "train.max_tokens=300", "--set", "data.window=3"]
    one = [*common, "--set", "data.num_workers=2", "--set", "train.accum_steps=2", "--dir", tmp_path / "one"]
    two = [*common, "--set", "data.num_workers=1", "--set", "train.accum_steps=1", "--dir", tmp_path / "two", "--device", "cpu"]
    subprocess.run(command(*one), env=environment(), check=True, capture_output=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "osum_echat.bin.train"]
    done = subprocess.run([*launch, *map(str, two)], env=environment(), capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    rows = [[row for row in rows_of(tmp_path / name) if row["split"] == "train"] for name in ("one", "two")]
    assert [row["key_list"] for row in rows[0]] == [row["key_list"] for row in rows[1]]
    assert [row["loss"] for row in rows[1]] == pytest.approx([row["loss"] for row in rows[0]], rel=1e-5)
