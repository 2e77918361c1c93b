"""Percentiles of the time to the first sound, and the tool that measures it."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from osum_echat.config import SpeechConfig
from osum_echat.evaluate.latency import latency_scores
from osum_echat.generate.reply import Spans
from osum_echat.generate.session import AudioEvent, EndEvent, SpeechEvent, StageEvent
from osum_echat.utterance import Utterance


def test_percentiles_are_in_milliseconds_and_the_factor_is_pooled() -> None:
    answers = [Spans(0.01 * at, 0.02, 0.03, 0.04, total=1.0 + at, spoken=2.0 * (1 + at % 2)) for at in range(101)]
    scores = latency_scores(answers)
    assert scores["latency.encode_ms.p50"].value == pytest.approx(500) and scores["latency.encode_ms.p95"].value == pytest.approx(950)
    assert scores["latency.first_audio_ms.p50"].value == pytest.approx(590)
    assert scores["latency.token2wav_ms.p95"].value == pytest.approx(40) and scores["rtf"].n == 101
    assert scores["rtf"].value == pytest.approx(sum(1.0 + at for at in range(101)) / sum(2.0 * (1 + at % 2) for at in range(101)))


class Mute:
    """A session that answers every third question with silence; counts its resets."""

    def __init__(self) -> None:
        self.resets = self.asked = 0

    def reset(self) -> None:
        self.resets += 1

    def reply(self, question: Utterance) -> list[object]:
        self.asked += 1
        events: list[object] = [StageEvent(0.1, "encoded"), StageEvent(0.2, "prefilled"), SpeechEvent(0.3, 1)]
        events += [AudioEvent(0.4, np.zeros(1200, np.float32), 24000)] if self.asked % 3 else []
        return [*events, EndEvent(0.5, "", (1,), True)]


def load_tool(root: Path):
    spec = importlib.util.spec_from_file_location("bench_first_audio", root / "tools" / "bench" / "bench_first_audio.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tool_measures_warm_answers_and_writes_its_results(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from osum_echat.audio.io import write_wav

    tool, session = load_tool(root), Mute()
    lines = []
    for at, seconds in enumerate((0.5, 1.9, 2.2, 4.0, 2.0, 0.2)):
        write_wav(tmp_path / f"{at}.wav", np.full(int(16000 * seconds), 0.1, np.float32))
        lines.append(json.dumps({"key": str(at), "wav": f"{at}.wav"}) + "\n")
    (tmp_path / "q.list").write_text("".join([*lines, json.dumps({"key": "mute", "txt": "x"}) + "\n"]))
    assert [row.key for row in tool.read_questions(str(tmp_path / "q.list"), "s2s", 3, 2.0)] == ["4", "1", "2"]
    config = SimpleNamespace(model=SimpleNamespace(speech=SpeechConfig(codebook_size=8)))
    monkeypatch.setattr(tool, "read_run", lambda folder: (config, folder))
    monkeypatch.setattr(tool, "load_model", lambda *arguments: None)
    monkeypatch.setattr(tool, "load_voice", lambda *arguments: (None, SimpleNamespace(first=18)))
    monkeypatch.setattr(tool, "RequestEncoder", lambda *arguments: SimpleNamespace(plan=lambda *arguments: None))
    monkeypatch.setattr(tool, "DialogueSession", lambda *arguments, **options: session)
    arguments = ["--dir", "x", "--list", tmp_path / "q.list", "--num", 5, "--results", tmp_path / "results.json"]
    monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
    assert tool.body() == 0
    assert session.asked == session.resets == 3 + 5  # three of them only to warm up
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["latency.first_audio_ms.p50"] == {"value": 400.0, "n": 4, "lo": None, "hi": None}
    assert results["rtf"]["value"] == pytest.approx(0.5 / 0.05) and "4 of 5 questions" in capsys.readouterr().out
    monkeypatch.setattr(session, "reply", lambda question: [EndEvent(0.5, "", (), True)])
    with pytest.raises(tool.UserError, match="nothing to measure"):
        tool.body()
