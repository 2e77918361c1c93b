"""Pseudo-labels fill only what is unknown."""

import json
import sys
from pathlib import Path

import pytest

from osum_echat.bin import pseudo_label
from osum_echat.datagen.pseudo import PseudoCounts, fill_labels
from osum_echat.utterance import Utterance

FULL = {"age": "adult", "gender": "male", "event": "none", "emotion": "sad"}


def test_known_labels_stay_and_filled_ones_are_noted() -> None:
    row = Utterance("a", task="asr_gender", txt="hi", gender="F", extra={"note": 1})
    counts = PseudoCounts()
    (out,) = fill_labels([row], {"a": FULL}, counts)
    assert (out.gender, out.age, out.event, out.emotion, out.task) == ("female", "adult", "none", "sad", "asr_p")
    assert out.extra == {"note": 1, "pseudo": ["age", "emotion", "event"]}
    assert counts.known["gender"] == 1 and counts.filled["emotion"] == {"sad": 1} and "gender" not in counts.filled


def test_years_are_a_known_age_and_stay_years() -> None:
    (out,) = fill_labels([Utterance("a", txt="hi", age_years=70.0)], {"a": FULL}, PseudoCounts())
    assert out.age is None and out.age_years == 70.0 and "age" not in out.extra["pseudo"]
    assert json.loads(out.to_json())["age"] == 70.0


def test_rows_that_stay_incomplete_are_left_out_and_counted() -> None:
    counts = PseudoCounts()
    rows = [Utterance("a", txt="hi"), Utterance("b", txt="hi")]
    assert list(fill_labels(rows, {"a": {"age": "adult"}}, counts)) == []
    assert counts.incomplete == {"age": 1, "gender": 2, "event": 2, "emotion": 2}


def test_without_words_the_row_asks_for_labels_only() -> None:
    (out,) = fill_labels([Utterance("a", event="cough")], {"a": FULL}, PseudoCounts())
    assert out.task == "only_p" and out.event == "cough"


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"key": "a", "wav": "a.wav", "txt": "hi", "emotion": "happy"}, {"key": "b", "wav": "b.wav", "txt": "ho"}]
    (tmp_path / "in.list").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "d").mkdir()
    arguments = ["pseudo", "--list", str(tmp_path / "in.list"), "--decoded", str(tmp_path / "d"), "--out", str(tmp_path / "out.list")]
    monkeypatch.setattr(sys, "argv", arguments)
    assert pseudo_label.main() == 2 and "osum-echat decode" in capsys.readouterr().err
    (tmp_path / "d" / "labels.jsonl").write_text("".join(json.dumps({"key": key, **FULL}) + "\n" for key in "ab"))
    assert pseudo_label.main() == 0
    out = [json.loads(line) for line in (tmp_path / "out.list").read_text().splitlines()]
    assert [row["emotion"] for row in out] == ["happy", "sad"] and out[1]["extra"]["pseudo"] == ["age", "emotion", "event", "gender"]
    assert "emotion: 1 known, 1 filled in (sad 1)" in capsys.readouterr().out
