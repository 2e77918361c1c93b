"""tools/compute-wer.py as a user of WeNet calls it."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "compute-wer.py"


def run(tmp_path: Path, ref: str, hyp: str, *flags: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "ref").write_text(ref, encoding="utf-8")
    (tmp_path / "hyp").write_text(hyp, encoding="utf-8")
    command = [sys.executable, str(SCRIPT), *flags, str(tmp_path / "ref"), str(tmp_path / "hyp")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_layout_of_one_utterance_is_wenets(tmp_path: Path) -> None:
    done = run(tmp_path, "u1 the cat sat\n", "u1 the bat sat down\n")
    lines = done.stdout.splitlines()
    assert lines[1:5] == ["utt: u1", "WER: 66.67 % N=3 C=2 S=1 D=0 I=1", "lab: THE CAT SAT      ", "rec: THE BAT SAT DOWN "]
    assert "Overall -> 66.67 % N=3 C=2 S=1 D=0 I=1" in lines
    assert "English -> 66.67 % N=3 C=2 S=1 D=0 I=1" in lines


def test_char_mode_splits_chinese_and_keeps_english_words(tmp_path: Path) -> None:
    done = run(tmp_path, "u1 你好，OK吗\n", "u1 你好 ok 吧\n", "--char=1", "--v=1")
    assert "WER: 25.00 % N=4 C=3 S=1 D=0 I=0" in done.stdout
    assert "lab: 你 好 OK 吗 " in done.stdout
    assert "Mandarin -> 33.33 % N=3 C=2 S=1 D=0 I=0" in done.stdout


def test_missing_hypothesis_is_deleted_and_named(tmp_path: Path) -> None:
    done = run(tmp_path, "u1 a b\nu2 c d\n", "u1 a b\n", "--v=0")
    assert done.stdout.splitlines()[0] == "Overall -> 50.00 % N=4 C=2 S=0 D=2 I=0"
    assert "missing: u2" in done.stdout


def test_ignored_words_count_nowhere(tmp_path: Path) -> None:
    (tmp_path / "ig").write_text("uh\n")
    done = run(tmp_path, "u1 uh yes\n", "u1 yes uh uh\n", f"--ig={tmp_path / 'ig'}")
    assert "Overall -> 0.00 % N=1 C=1 S=0 D=0 I=0" in done.stdout


def test_wrong_input_ends_with_status_2_and_names_the_line(tmp_path: Path) -> None:
    done = run(tmp_path, "u1 a\nu1 b\n", "u1 a\n")
    assert done.returncode == 2 and "ref:2" in done.stderr and "u1" in done.stderr
