"""Whole recipes: the mini recipe from nothing to a report, then fine-tuning its model on real recordings."""

import json
import subprocess
from pathlib import Path

import pytest

from osum_echat.config import load_run
from osum_echat.export.bundle import read_info

SPEAKING = ("2a_tts", "2b_tts_interleaved", "2c_s2s", "2d_s2s_interleaved")
UNDERSTANDING = ("1a_align", "1b_asr_p", "1c_only_p", "1d_full_label")
STAGES = ("1_backbone", "2_speech_tokenizer", "2_flow", "2_vocoder", *UNDERSTANDING, *SPEAKING, "3a_think", "3b_direct")
LABELS = ("gender", "age", "emotion", "event")


def run(script: Path, *args: object, cwd: Path) -> str:
    """Runs a recipe from another folder than its own; its output, with the errors in their place."""
    done = subprocess.run(
        ["bash", str(script), *map(str, args)], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


@pytest.fixture(scope="session")
def mini(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the smoke preset of the mini recipe has run; data and exp stand below it."""
    work = tmp_path_factory.mktemp("mini")
    output = run(root / "examples/mini/s0/run.sh", "--preset", "smoke", "--data", work / "data", "--exp", work / "exp", cwd=work)
    for number in range(-1, 9):
        assert f"== stage {number}: " in output
    (work / "output.txt").write_text(output)
    return work


@pytest.mark.slow
def test_mini_leaves_what_it_promises(mini: Path) -> None:
    exp = mini / "exp" / "smoke"
    assert json.loads((exp / "doctor" / "doctor.json").read_text())["verdict"] == "ok"
    for stage in STAGES:
        assert (exp / stage / "final.pt").resolve().is_file(), stage
        assert load_run(exp / stage / "train.yaml").seed == 777
        losses = [json.loads(line) for line in (exp / stage / "metrics.jsonl").read_text().splitlines()]
        assert losses, stage
    results = json.loads((exp / "results.json").read_text())
    for name in ("wer", *LABELS):
        score = results[f"understand.{name}"]
        assert score["n"] == 40
        assert score["lo"] <= score["value"] <= score["hi"]
    for prefix in ("tokens", "tts", "tts_interleaved", "s2s", "s2s_interleaved"):
        assert results[f"{prefix}.wer"]["n"] == 8
    assert {f"think.{name}" for name in ("wer", *LABELS)} <= results.keys()
    for task in ("emotion", "age", "gender", "event", "multi"):
        assert results[f"echat.{task}"]["n"] == results[f"echat.{task}.direct"]["n"] > 0
    answers = (exp / "3a_think" / "echat_s2s_think" / "text").read_text().splitlines()
    assert len(answers) == 16 and all("<think>" in answer and "<think end>" in answer for answer in answers)
    decoded = (exp / "1d_full_label" / "decode_asr_p" / "text").read_text().splitlines()
    assert len(decoded) == 40
    assert (exp / "report.html").stat().st_size > 20_000
    page = (exp / "report.html").read_text()
    assert 'src="http' not in page  # opens offline
    assert 'href="http' not in page
    assert read_info(exp / "bundle")["tasks"]["s2s_interleaved_think"]["thinks"]


@pytest.mark.slow
def test_mini_run_again_trains_and_decodes_nothing(mini: Path, root: Path) -> None:
    exp = mini / "exp" / "smoke"
    before = {path: path.stat().st_mtime_ns for path in exp.rglob("*.pt")}
    output = run(root / "examples/mini/s0/run.sh", "--preset", "smoke", "--data", mini / "data", "--exp", mini / "exp", cwd=root)
    assert {path: path.stat().st_mtime_ns for path in exp.rglob("*.pt")} == before
    for stage in STAGES:
        assert f"{exp / stage} is complete, skipped" in output


@pytest.mark.slow
def test_mini_refuses_to_mix_trainings(mini: Path, root: Path) -> None:
    """Other options for a finished training are an error that says so, and the model stays."""
    before = (mini / "exp/smoke/1a_align/final.pt").resolve().read_bytes()
    script = root / "examples/mini/s0/run.sh"
    args = ["--preset", "smoke", "--data", str(mini / "data"), "--exp", str(mini / "exp"), "--stage", "4", "--overrides", "train.clip=1.0"]
    done = subprocess.run(["bash", str(script), *args], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "other data or options" in done.stderr
    assert (mini / "exp/smoke/1a_align/final.pt").resolve().read_bytes() == before


def finetune(root: Path, mini: Path, work: Path, *args: object) -> dict[str, dict[str, float]]:
    run(
        root / "examples/custom/s0/run.sh",
        *("--init", mini / "exp/smoke/1d_full_label/final.pt", "--data", work / "data", "--exp", work / "exp"),
        *("--overrides", "train.max_steps=3 train.max_tokens=400", *args),
        cwd=work,
    )
    return dict(json.loads((work / "exp" / "results.json").read_text()))


@pytest.mark.slow
def test_custom_on_real_digits(mini: Path, root: Path, real_data: Path, tmp_path: Path) -> None:
    args = ("--select", "set=digits_fsdd", "--task", "asr", "--text", "plain", "--test_speakers", "fsdd_theo")
    results = finetune(root, mini, tmp_path, "--manifest", real_data / "manifest.jsonl", *args)
    assert results["understand.wer"]["n"] == 50
    assert json.loads((tmp_path / "exp/doctor/doctor.json").read_text())["verdict"] in ("ok", "warnings")


@pytest.mark.slow
def test_custom_on_real_labels(mini: Path, root: Path, real_data: Path, tmp_path: Path) -> None:
    """Emotion of acted speech and coughs: rows of several tasks in one list."""
    args = ("--select", "set=emotion_emodb|emotion_cremad|resp_coswara", "--unknown_labels", "drop", "--text", "plain", "--max_bad", "0.05")
    results = finetune(root, mini, tmp_path, "--manifest", real_data / "manifest.jsonl", *args, "--decode_task", "age_gender")
    assert {"understand.age", "understand.gender"} <= results.keys()


@pytest.mark.slow
def test_custom_from_a_kaldi_directory(mini: Path, root: Path, tmp_path: Path) -> None:
    """The mini corpus' own Kaldi files serve as somebody's data."""
    results = finetune(root, mini, tmp_path, "--kaldi", mini / "data/smoke/dev", "--folds", "4")
    assert {"understand.wer", *(f"understand.{name}" for name in LABELS)} <= results.keys()
