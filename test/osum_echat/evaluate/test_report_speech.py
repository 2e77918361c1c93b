"""The speech section of report.html: players, pictures and marked words of a scored decode; targets and latency with the scores."""

import base64
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

from osum_echat.audio.io import write_wav
from osum_echat.bin import report as report_command
from osum_echat.bin import score_speech as score_command
from osum_echat.evaluate.report import gather
from osum_echat.evaluate.report_html import render_page
from osum_echat.evaluate.spectrogram import spectrogram_png

VOID = {"meta", "br", "line", "img", "link", "input", "hr"}
TEXTS = {f"k{at}": text for at, text in enumerate(["the light is on", "open <b> door", "good morning", "close it", "yes", "no"])}
HEARD = {**TEXTS, "k1": "open the door", "k4": ""}


class Balance(HTMLParser):
    """Every tag is closed in order; collects what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.resources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.resources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tone(hz: float, seconds: float) -> np.ndarray:
    return (0.2 * np.sin(2 * np.pi * hz * np.arange(int(24000 * seconds)) / 24000)).astype(np.float32)


@pytest.fixture
def spoken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """exp/ with a scored s2s decode and the transcripts of its speech as a decode of their own."""
    exp, decode = tmp_path / "exp", tmp_path / "exp" / "2c_s2s" / "decode"
    sound, heard = decode / "speech", decode / "heard"
    for folder in (sound, heard):
        folder.mkdir(parents=True)
    rows, hyps, wavs = [], [], []
    for at, (key, text) in enumerate(TEXTS.items()):
        for name, hz, seconds in (("q", 300, 0.5), ("a", 150 + 10 * at, 0.6)):
            write_wav(tmp_path / f"{name}{at}.wav", tone(hz, seconds), 24000)
        write_wav(sound / f"{key}.wav", tone(150 + 10 * at, 0.8), 24000)
        rows.append({"key": key, "task": "s2s", "wav": f"q{at}.wav", "txt": text, "answer_wav": f"a{at}.wav"})
        hyps.append({"key": key, "task": "s2s", "txt": "good evening" if key == "k2" else text, "speech_token": [1]})
        wavs.append({"key": key, "wav": f"{key}.wav", "task": "asr", "txt": text})
    for path, lines in ((tmp_path / "test.list", rows), (decode / "hyp.list", hyps), (sound / "data.list", wavs)):
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (decode / "text").write_text("".join(f"{row['key']} {row['txt']}\n" for row in hyps))
    facts = {"list": str(tmp_path / "test.list"), "data_type": "raw"}
    (decode / "decode.json").write_text(json.dumps({"task": "s2s", "cut_off": ["k3"], "empty": [], "has_transcript": False, **facts}))
    for name in ("text", "transcript"):
        (heard / name).write_text("".join(f"{key} {text}".rstrip() + "\n" for key, text in HEARD.items()))
    (heard / "decode.json").write_text(json.dumps({"task": "asr", "list": str(sound / "data.list"), "data_type": "raw"}))
    arguments = ["--ref", tmp_path / "test.list", "--hyp", decode, "--synthesized", sound, "--heard", heard, "--prefix", "s2s"]
    monkeypatch.setattr(sys, "argv", ["score", *map(str, arguments), "--results", str(exp / "results.json")])
    assert score_command.main() == 0
    return exp


def page_of(exp: Path) -> str:
    return render_page(gather(exp, [exp / "2c_s2s" / "decode", exp / "2c_s2s" / "decode" / "heard"]))


def test_the_page_speaks_without_a_network(spoken: Path) -> None:
    page, parser = page_of(spoken), Balance()
    parser.feed(page)
    assert parser.open == [] and all(link.startswith(("#", "data:")) for link in parser.resources)
    assert page.count("<audio") == 3 * 6 == page.count("<img")
    for number, (caption, seconds) in enumerate((("question", 0.5), ("recording", 0.6), ("generated", 0.8))):
        assert page.count(f"<figcaption>{caption}, {seconds:.1f} s</figcaption>") == 6, number
    sounds = re.findall(r"data:audio/flac;base64,([^\"]+)", page)
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sounds[2])))
    assert rate == 24000 and len(samples) == 19200 and np.abs(samples).max() == pytest.approx(0.2, abs=0.01)
    pictures = re.findall(r'width="(\d+)" height="110" src="data:image/png;base64,([^"]+)"', page)
    widths = [imread(io.BytesIO(base64.b64decode(picture))).shape[1] for _, picture in pictures]
    assert widths[:3] == [50, 60, 80] and [int(width) for width, _ in pictures[:3]] == [55, 66, 88]


def test_errors_are_marked_and_told(spoken: Path) -> None:
    page = page_of(spoken)
    assert "text wrong ✗" in page and page.count("text right ✓") == 5
    assert "MORNING → EVENING" in page and '<span class="del" title="not answered">YES</span>' in page
    assert "truncated" in page and "open &lt;b&gt; door" in page and "<b> door" not in page
    assert page.count("MCD ") == 5  # not the reply that says something else
    assert "Overall ->" not in page.split('id="samples"')[-1]  # neither the decode nor its transcripts come again as samples
    assert 'id="samples"' not in page


def test_targets_and_latency_stand_with_the_scores(spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = json.loads((spoken / "results.json").read_text())
    for span, (half, most) in {"encode": (10, 20), "prefill": (20, 40), "tokens": (100, 150), "token2wav": (70, 90)}.items():
        for percent, value in ((50, half), (95, most)):
            results[f"latency.{span}_ms.p{percent}"] = {"value": value, "n": 9, "lo": None, "hi": None}
    results["latency.first_audio_ms.p50"] = {"value": 200.0, "n": 9, "lo": None, "hi": None}
    (spoken / "results.json").write_text(json.dumps(results))
    (tmp_path / "targets.yaml").write_text('s2s.text: ">= 80"\ns2s.wer: "<= 10"\ntts.wer: "<= 20"\nlatency.first_audio_ms.p50: "<= 300"\n')
    arguments = ["--dir", spoken, "--targets", tmp_path / "targets.yaml"]
    monkeypatch.setattr(sys, "argv", ["report", *map(str, arguments)])
    assert report_command.main() == 0
    page = (spoken / "report.html").read_text()
    assert '<span class="chip ok">target &gt;= 80 ✓</span>' in page and '<span class="chip no">target &lt;= 10 ✗</span>' in page
    assert "Not measured yet: tts.wer" in page and page.count('<div class="spans">') == 2
    assert 'class="b2" style="width:33.33%" title="tokens 100.0 ms">100<' in page  # of the 300 ms of p95
    assert "<span>latency.encode_ms.p50</span>" not in page and "<span>latency.first_audio_ms.p50</span>" in page
    assert "| latency.first_audio_ms.p50 | 200.00 | – | 9 | ms |" in (spoken / "RESULTS.md").read_text()


def test_what_is_gone_is_told_on_the_page(spoken: Path, tmp_path: Path) -> None:
    (tmp_path / "a1.wav").unlink()
    (tmp_path / "q2.wav").write_bytes(b"nothing")
    report = gather(spoken, [])
    assert sum("a1.wav" in problem or "q2.wav" in problem for problem in report.problems) == 2
    (tmp_path / "test.list").unlink()
    assert "test.list" in render_page(gather(spoken, []))
    (spoken / "2c_s2s" / "decode" / "speech.json").write_text("{}")
    assert any("speech.json" in problem for problem in gather(spoken, []).problems)


def test_spectrograms_of_sound_of_silence_and_of_next_to_nothing() -> None:
    picture = imread(io.BytesIO(spectrogram_png(tone(3000, 0.5))))
    assert picture.shape[:2] == (80, 50)
    bright = picture[:, 25, :3].sum(axis=1)
    assert 20 < int(bright.argmax()) < 50  # 3 kHz of 12 on the mel scale, rows from the top
    assert imread(io.BytesIO(spectrogram_png(np.zeros(24000, np.float32))))[..., :3].max() < 0.3
    assert spectrogram_png(np.zeros(100, np.float32)) == b""
