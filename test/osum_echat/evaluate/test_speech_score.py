"""Scoring spoken answers: what counts as right, what as an error of the speech, and the command over files."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from osum_echat.audio.io import write_wav
from osum_echat.bin import score_speech as command
from osum_echat.config import SourceConfig
from osum_echat.errors import DataError
from osum_echat.evaluate.score import read_references
from osum_echat.evaluate.speech import SpeechScore, score_speech
from osum_echat.evaluate.spoken import RECORDINGS, read_heard, read_speech, read_spoken

TEXTS = {"a": "The light is on.", "b": "Open the door!", "c": "good morning", "d": "close it"}
WRITTEN = {"a": "the light is on", "b": "open the window", "c": "", "d": "close it"}


def tone(hz: float, seconds: float = 0.4) -> np.ndarray:
    return (0.2 * np.sin(2 * np.pi * hz * np.arange(int(24000 * seconds)) / 24000)).astype(np.float32)


def write_case(folder: Path, task: str, written: Mapping[str, str], cut_off: tuple[str, ...] = (), voices: str = "") -> Path:
    """A list with recordings, a decode of it, and its sound; "e" of the list was dropped by the decode."""
    rows = [
        {"key": key, "txt": text, "task": task, "answer_wav": f"rec/{key}.wav"} for key, text in {**TEXTS, "e": "what is the time"}.items()
    ]
    for at, row in enumerate(rows):
        write(folder / row["answer_wav"], tone(150 + 30 * at))
        row |= {"speaker": voices[at]} if voices else {}
    (folder / "test.list").write_text("".join(json.dumps(row) + "\n" for row in rows))
    decode, sound = folder / "decode", folder / "sound"
    decode.mkdir()
    spoken = {key: [] if not written.get(key, "x") else [1, 2, 3] for key in TEXTS}
    empty = [key for key, codes in spoken.items() if not codes]
    (decode / "decode.json").write_text(json.dumps({"task": task, "cut_off": cut_off, "empty": empty, "has_transcript": False}))
    (decode / "text").write_text("".join(f"{key} {written.get(key, '')}".rstrip() + "\n" for key in TEXTS))
    if task != "t2t":
        says = TEXTS if task == "tts" else written
        lines = [{"key": key, "task": task, "txt": says[key], "speech_token": codes} for key, codes in spoken.items()]
        (decode / "hyp.list").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for at, (key, codes) in enumerate(spoken.items()):
        if codes:
            write(sound / f"{key}.wav", tone(150 + 30 * at + (20 if key == "a" else 0), 0.6 if key == "a" else 0.4))
    lines = [{"key": key, "wav": f"{key}.wav", "task": "asr"} for key, codes in spoken.items() if codes]
    (sound / "data.list").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write(path: Path, samples_S: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, samples_S, 24000)


def score(folder: Path, heard: Mapping[str, str] | None = None) -> SpeechScore:
    rows, _ = read_references(SourceConfig(list=str(folder / "test.list")))
    return score_speech(rows, read_spoken(folder / "decode"), read_speech(folder / "sound"), heard)


HEARD = {"a": "the light is on", "b": "open the windows", "d": "close it"}


def test_replies_are_judged_by_their_own_words(tmp_path: Path) -> None:
    found = score(write_case(tmp_path, "s2s", WRITTEN, cut_off=("d",)), HEARD)
    results = found.results("s2s")
    assert results["s2s.text"].value == pytest.approx(40.0) and results["s2s.text"].n == 5  # a and d; case and full stops do not count
    assert found.words is not None
    total = found.words.total  # own words 4 + 3 + 0 + 2, and those of the list (4) for "e", which was not decoded
    assert (total.num, total.substituted, total.deleted, total.inserted) == (13, 1, 4, 0)
    assert results["s2s.wer"].value == pytest.approx(100 * 5 / 13)
    assert results["s2s.empty"].value == pytest.approx(40.0) and results["s2s.truncated"].value == pytest.approx(20.0)
    compared = {row.key for row in found.rows if row.comparison}
    assert compared == {"a", "d"} and results["s2s.mcd"].n == 2  # "b" says something else than its recording
    assert results["s2s.duration_ratio"].value == pytest.approx((0.6 + 0.4) / 0.8)


def test_what_is_read_aloud_is_judged_by_the_text_of_the_list(tmp_path: Path) -> None:
    found = score(write_case(tmp_path, "tts", {key: "x" for key in TEXTS}), {**HEARD, "c": "good morning"})
    assert found.words is not None and found.words.total.num == 4 + 3 + 2 + 2 + 4
    assert (found.words.total.substituted, found.words.total.deleted) == (1, 4)
    results = found.results("tts")
    assert "tts.text" not in results and results["tts.empty"].value == pytest.approx(20.0)
    assert results["tts.mcd"].n == 4
    steady = {row.key: row.comparison for row in found.rows if row.comparison}
    assert steady["d"].mcd_db < 0.1 < steady["a"].mcd_db
    assert (steady["a"].f0_square_error / steady["a"].num_voiced) ** 0.5 == pytest.approx(20.0, abs=1.0)


def test_text_alone_is_scored_without_speech(tmp_path: Path) -> None:
    write_case(tmp_path, "t2t", WRITTEN, cut_off=("a",))
    rows, _ = read_references(SourceConfig(list=str(tmp_path / "test.list")))
    results = score_speech(rows, read_spoken(tmp_path / "decode")).results("t2t")
    assert set(results) == {"t2t.text", "t2t.empty", "t2t.truncated"} and results["t2t.truncated"].value == pytest.approx(20.0)


def test_what_codes_cost_is_told_above_the_recordings(tmp_path: Path) -> None:
    """The difference of two error rates over the same utterances; its interval is narrower than the rates' because they go together."""
    rows, _ = read_references(SourceConfig(list=str(write_case(tmp_path, "tts", {key: "x" for key in TEXTS}) / "test.list")))
    speech = read_speech(tmp_path / "sound")
    recordings = {"a": "the light on", "b": "open the door", "c": "morning", "d": "close it", "e": "what is the time"}
    again = {**recordings, "b": "open door"}
    results = score_speech(rows, RECORDINGS, speech, again, recordings).results("tokens")
    assert results["tokens.wer"].value == pytest.approx(100 * 3 / 15)
    added = results["tokens.wer_added"]
    assert added.value == pytest.approx(100 / 15) and added.lo == 0.0 and added.hi is not None
    wer = results["tokens.wer"]
    assert wer.lo is not None and wer.hi is not None and added.hi - added.lo < wer.hi - wer.lo
    assert "tokens.empty" not in results and "tokens.text" not in results and results["tokens.mcd"].n == 4


def test_speech_that_cannot_be_compared_is_named(tmp_path: Path) -> None:
    write_case(tmp_path, "tts", {key: "x" for key in TEXTS})
    write_wav(tmp_path / "sound" / "b.wav", np.zeros(40, np.float32), 24000)
    (tmp_path / "rec" / "c.wav").unlink()
    found = score(tmp_path)
    assert set(found.skipped) == {"b", "c"} and found.results("tts")["tts.mcd"].n == 2 and found.words is None


@pytest.mark.parametrize("name", ["transcript", "text", "words.txt"])
def test_any_recogniser_writes_one_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a hello there\nb\n")
    path = tmp_path / name if name == "words.txt" else tmp_path
    assert read_heard(path) == {"a": "hello there", "b": ""}
    with pytest.raises(DataError, match="--task asr"):
        read_heard(tmp_path / "nowhere")


def test_missing_or_foreign_files_say_what_to_do(tmp_path: Path) -> None:
    write_case(tmp_path, "s2s", WRITTEN)
    (tmp_path / "sound" / "data.list").unlink()
    with pytest.raises(DataError, match="osum-echat synthesize"):
        read_speech(tmp_path / "sound")
    (tmp_path / "decode" / "hyp.list").unlink()
    with pytest.raises(DataError, match="osum-echat decode --task s2s"):
        read_spoken(tmp_path / "decode")
    (tmp_path / "decode" / "decode.json").write_text('{"task": "asr"}')
    with pytest.raises(DataError, match="osum-echat score"):
        read_spoken(tmp_path / "decode")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["score speech", *map(str, arguments)])
    return command.main()


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_case(tmp_path, "s2s", WRITTEN, voices="xxyyz")
    (tmp_path / "heard").write_text("".join(f"{key} {text}\n" for key, text in HEARD.items()))
    files = ["--ref", tmp_path / "test.list", "--synthesized", tmp_path / "sound", "--heard", tmp_path / "heard"]
    assert run(monkeypatch, *files, "--hyp", tmp_path / "decode", "--prefix", "s2s", "--results", tmp_path / "results.json") == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["s2s.wer"]["value"] == pytest.approx(100 * 5 / 13, abs=1e-3)
    assert {f"s2s.{name}" for name in ("text", "wer", "mcd", "f0_corr", "f0_rmse", "duration_ratio", "empty", "truncated")} == set(results)
    assert all(results[key]["lo"] <= results[key]["hi"] for key in ("s2s.text", "s2s.wer"))
    saved = json.loads((tmp_path / "decode" / "speech.json").read_text())
    assert saved["rows"]["b"]["heard"] == "open the windows" and saved["rows"]["b"]["right"] is False and saved["prefix"] == "s2s"
    assert "Overall -> 38.46 %" in (tmp_path / "decode" / "wer").read_text()
    assert "S 1 D 4 I 0 of 13" in capsys.readouterr().out
    (tmp_path / "heard").write_text("other words\n")
    assert run(monkeypatch, *files, "--hyp", tmp_path / "decode", "--prefix", "s2s") == 2
    assert "none of its 1 keys (such as other)" in capsys.readouterr().err
    assert run(monkeypatch, *files, "--prefix", "tokens") == 2 and "--out" in capsys.readouterr().err
