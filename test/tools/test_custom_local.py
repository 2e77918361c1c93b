"""The scripts of examples/custom/s0/local: where a fine-tuning starts from, and the mean over several runs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from osum_echat.config import load_config, save_config

HERE = "examples/custom/s0"


def call(root: Path, script: str, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / HERE / "local" / script), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"})


@pytest.fixture
def checkpoint(root: Path, tmp_path: Path) -> Path:
    """A run of somebody's: recipe/exp/run/final.pt with a train.yaml whose tokenizer path is relative to recipe."""
    run = tmp_path / "recipe" / "exp" / "run"
    run.mkdir(parents=True)
    (tmp_path / "recipe" / "data").mkdir()
    (tmp_path / "recipe" / "data" / "t.model").write_bytes(b"x")
    (run / "final.pt").write_bytes(b"x")
    config = load_config(root / "examples/mini/s0/conf/base.yaml", ["tokenizer.path=data/t.model", "model.llm.num_layers=7"])
    save_config(config, run / "train.yaml")
    return run / "final.pt"


def test_the_model_comes_from_the_checkpoint_and_the_training_from_the_conf(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    conf = root / HERE / "conf" / "finetune.yaml"
    out = tmp_path / "new" / "finetune.yaml"
    done = call(root, "start_from.py", "--conf", conf, "--init", checkpoint, "--out", out)
    assert done.returncode == 0, done.stderr
    got, want = load_config(out), load_config(conf)
    assert got.model.llm.num_layers == 7
    assert got.train == want.train
    assert got.tokenizer.path == str(tmp_path / "recipe" / "data" / "t.model")
    assert done.stdout.splitlines() == [got.tokenizer.path, got.prompts]


def test_what_cannot_be_found_is_named(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    args = ("--conf", root / HERE / "conf" / "finetune.yaml", "--out", tmp_path / "x.yaml", "--init")
    assert "no such checkpoint" in call(root, "start_from.py", *args, tmp_path / "none.pt").stderr
    shutil.rmtree(tmp_path / "recipe" / "data")
    lost = call(root, "start_from.py", *args, checkpoint)
    assert lost.returncode == 2
    assert "data/t.model" in lost.stderr
    assert "--tokenizer" in lost.stderr
    (checkpoint.parent / "train.yaml").unlink()
    assert "train.yaml: missing" in call(root, "start_from.py", *args, checkpoint).stderr


def test_mean_over_runs(root: Path, tmp_path: Path) -> None:
    for name, value in (("a", 80.0), ("b", 90.0), ("c", 100.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps({"understand.wer": {"value": value, "n": 50, "lo": 0, "hi": 100}}))
    done = call(root, "average_results.py", "--dir", tmp_path, "--choices", "a", "b", "c")
    assert done.returncode == 0, done.stderr
    mean = json.loads((tmp_path / "results.json").read_text())["understand.wer"]
    assert (mean["value"], mean["n"]) == (90.0, 150)
    half = 4.303 * 10.0 / 3**0.5  # Student's t, two degrees of freedom; standard deviation 10
    assert (mean["lo"], mean["hi"]) == (pytest.approx(90 - half), pytest.approx(90 + half))
    assert "| understand.wer | 90.0 |" in (tmp_path / "RESULTS.md").read_text()
    missing = call(root, "average_results.py", "--dir", tmp_path, "--choices", "a", "d")
    assert missing.returncode == 2
    assert "d/results.json is missing" in missing.stderr


def test_leave_one_out_help_and_refusal(root: Path, tmp_path: Path) -> None:
    script = root / HERE / "local" / "leave_one_speaker_out.sh"
    done = subprocess.run(["bash", str(script), "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--folds" in done.stdout
    assert subprocess.run(["bash", str(script), "--fold", "2"], capture_output=True, check=False).returncode == 2
