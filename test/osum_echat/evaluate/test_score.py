"""Scoring a decode directory, and the command that does it."""

import json
import sys
from pathlib import Path

import pytest

from osum_echat.bin import score as score_command
from osum_echat.config import SourceConfig
from osum_echat.errors import DataError
from osum_echat.evaluate.decoded import read_decoded
from osum_echat.evaluate.score import Scored, read_references, score
from osum_echat.utterance import Utterance


def scored(experiment: Path, labels: tuple[str, ...] = ("emotion", "age")) -> Scored:
    rows, _ = read_references(SourceConfig(list=str(experiment.parent / "data" / "test.list")))
    train, _ = read_references(SourceConfig(list=str(experiment.parent / "data" / "train.list")))
    return score(rows, read_decoded(experiment / "decode_test"), labels, train)


def test_missing_hypothesis_is_wrong_everywhere(experiment: Path) -> None:
    found = scored(experiment)
    assert found.text is not None and found.text.missing == ("t2",)
    total = found.text.total
    assert (total.num, total.deleted, total.substituted) == (24, 4, 0)  # "is" of t1 and three words of t2
    emotion = found.labels["emotion"]
    assert emotion.accuracy.value == pytest.approx(6 / 8) and emotion.num_without_answer == 1
    assert emotion.majority_source == "train" and emotion.majority_class == "happy"


def test_ages_given_in_years_are_scored_as_classes_and_in_years(experiment: Path) -> None:
    age = scored(experiment).labels["age"]
    assert set(age.classes) == {"child", "adult"} and age.accuracy.value == pytest.approx(7 / 8)
    assert age.age_mae_years is not None and age.age_mae_years.value == pytest.approx(0.0)


def test_labels_nobody_carries_are_named_and_unknown_ones_refused(experiment: Path) -> None:
    assert scored(experiment, ("style",)).without_label == ("style",)
    with pytest.raises(DataError, match="emotion"):
        scored(experiment, ("mood",))


def test_label_only_tasks_have_no_error_rate(experiment: Path) -> None:
    path = experiment / "decode_test" / "decode.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "has_transcript": False}))
    assert "p.wer" not in scored(experiment).results("p")


def test_references_that_carry_tags_in_their_text(tmp_path: Path) -> None:
    row = Utterance.from_json('{"key": "a", "wav": "x", "txt": "hello<SAD><MALE>", "task": "<TRANSCRIBE> <EMOTION>"}')
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "text").write_text("a hello<SAD>\n")
    (folder / "transcript").write_text("a hello\n")
    (folder / "labels.jsonl").write_text('{"key": "a", "emotion": "sad"}\n')
    found = score([row], read_decoded(folder), ["emotion", "gender"])
    assert found.text is not None and found.text.total.errors == 0 and found.text.total.num == 1
    assert found.labels["emotion"].accuracy.value == 1.0 and found.labels["gender"].accuracy.value == 0.0


def test_word_times_are_scored_for_align(tmp_path: Path) -> None:
    row = Utterance("a", txt="open it", words=(("open", 0.0, 0.4), ("it", 0.5, 0.9)))
    (tmp_path / "text").write_text("a <0.1>open<0.4><0.5>it<1.0>\n")
    (tmp_path / "decode.json").write_text('{"task": "align"}')
    found = score([row], read_decoded(tmp_path), [])
    assert found.boundaries is not None and found.results("p")["p.boundary_ms"].value == pytest.approx(50.0)


def test_command_writes_files_and_merges_results(
    experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (experiment / "results.json").write_text('{"rtf": {"value": 0.1, "n": 1, "lo": null, "hi": null}}')
    arguments = ["--ref", experiment.parent / "data" / "test.list", "--hyp", experiment / "decode_test", "--labels", "emotion,age,style"]
    monkeypatch.setattr(
        sys, "argv", ["score", *map(str, arguments), "--prefix", "understand", "--results", str(experiment / "results.json")]
    )
    assert score_command.main() == 0
    results = json.loads((experiment / "results.json").read_text())
    assert set(results) == {"rtf", "understand.wer", "understand.emotion", "understand.age"}
    assert results["understand.wer"]["value"] == pytest.approx(100 * 4 / 24, abs=1e-3) and results["understand.wer"]["n"] == 8
    lo, value, hi = (results["understand.emotion"][name] for name in ("lo", "value", "hi"))
    assert lo <= value == 75.0 <= hi
    folder = experiment / "decode_test"
    assert (folder / "confusion_emotion.png").read_bytes()[:4] == b"\x89PNG"
    assert "Overall -> 16.67 % N=24 C=20 S=0 D=4 I=0" in (folder / "wer").read_text()
    assert json.loads((folder / "labels.json").read_text())["emotion"]["without_answer"] == 1
    out = capsys.readouterr().out
    assert "understand.emotion" in out and "t2" in out and "style" in out
