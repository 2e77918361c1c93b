"""osum-echat doctor and prepare as commands: files, status, messages."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from osum_echat.bin import doctor, prepare
from osum_echat.bin.main import VERBS, main


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = []
    for i in range(6):
        soundfile.write(tmp_path / f"{i}.wav", 0.1 * np.random.default_rng(i).standard_normal(8000), 16000)
        rows.append({"key": f"k{i}", "wav": f"{i}.wav", "txt": f"word {i}", "speaker": f"s{i % 3}"})
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "m.jsonl"


def call(monkeypatch: pytest.MonkeyPatch, module: object, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["prog", *map(str, args)])
    return int(module.main())  # type: ignore[attr-defined]


def test_prepare_then_doctor(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert call(monkeypatch, prepare, "--manifest", manifest, "--test_speakers", "s1", "--out", out) == 0
    assert len((out / "train.list").read_text().splitlines()) == 4
    lists = ("--train", out / "train.list", "--test", out / "test.list")
    assert call(monkeypatch, doctor, *lists, "--out", out / "doctor", "--num_jobs", 1) == 0
    assert json.loads((out / "doctor" / "doctor.json").read_text())["verdict"] == "ok"
    assert (out / "doctor" / "doctor.html").stat().st_size > 1000
    leak = ("--train", out / "train.list", "--test", out / "train.list")
    assert call(monkeypatch, doctor, *leak, "--out", out / "doctor", "--num_jobs", 1) == 1
    assert "verdict: errors" in capsys.readouterr().err
    assert call(monkeypatch, doctor, "--train", tmp_path / "none.list", "--out", out) == 2
    assert "none.list: no such list" in capsys.readouterr().err


def test_prepare_lists_speakers(manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, prepare, "--manifest", manifest, "--list_speakers") == 0
    assert capsys.readouterr().out == "s0\ns1\ns2\n"
    assert call(monkeypatch, prepare, "--manifest", manifest, "--select", "set=x", "--list_speakers") == 2
    assert "none of 6 rows" in capsys.readouterr().err


def test_verbs_exist_and_dispatch(manifest: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for module, text in VERBS.values():
        assert (root / "osum_echat" / "bin" / f"{module}.py").is_file(), module
        assert text
    assert main(["prepare", "--manifest", str(manifest), "--list_speakers"]) == 0
    assert capsys.readouterr().out.split() == ["s0", "s1", "s2"]
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {verb} " in listed for verb in VERBS)


def test_wrong_verbs_name_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err
    assert main([]) == 2


def test_help_does_not_wait_for_torch(root: Path) -> None:
    import subprocess

    code = "import sys; from osum_echat.bin.main import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=False).returncode == 0
