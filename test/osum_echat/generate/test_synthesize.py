"""osum-echat synthesize: files and rows that decode can read, drops, resume after an interruption, the wrong directories."""

import json

import numpy as np
import pytest
import soundfile

from osum_echat.bin import synthesize
from osum_echat.config import DataConfig, SourceConfig, TrainConfig, VocoderRun, save_config
from osum_echat.config_token2wav import MelConfig, VocoderConfig
from osum_echat.data.source import read_raw_list
from osum_echat.errors import ConfigError, DataError
from osum_echat.generate.runner import PARTIAL
from osum_echat.token2wav.stream import Token2wav
from osum_echat.train.assemble import load_token2wav


@pytest.fixture(scope="module")
def runs(token2wav_runs):
    """Directories flow and vocoder with random weights."""
    return token2wav_runs(50)


def rows():
    rng = np.random.default_rng(0)
    found = [
        {"key": f"u/{n}", "task": "tts", "txt": f"word {n}", "speech_token": rng.integers(50, size=3 + 5 * n).tolist()} for n in range(6)
    ]
    found[1] |= {"wav": "question.wav", "start": 1.0, "answer_wav": "answer.wav", "emotion": "happy"}
    found.append({"key": "long", "task": "tts", "speech_token": [1, 2, 50]})
    found.append({"key": "none", "task": "tts", "txt": "a"})
    found.append({"key": "empty", "task": "tts", "txt": "a", "speech_token": []})
    return found


def call(runs, out, monkeypatch, items, *more):
    out.mkdir(exist_ok=True)
    if not (out / "in.list").exists():  # its time is part of what makes two runs the same
        (out / "in.list").write_text("".join(json.dumps(row) + "\n" for row in items))
    words = ["--list", out / "in.list", "--flow", runs / "flow", "--vocoder", runs / "vocoder", "--out", out, "--device", "cpu", *more]
    monkeypatch.setattr("sys.argv", ["synthesize", *map(str, words)])
    return synthesize.main()


def test_files_rows_and_report(runs, tmp_path, monkeypatch, capsys):
    assert call(runs, tmp_path / "out", monkeypatch, rows(), "--batch_tokens", 40) == 0
    out = tmp_path / "out"
    spoken = list(read_raw_list(out / "data.list"))
    assert [row.key for row in spoken] == [f"u/{n}" for n in range(6)] and {row.task for row in spoken} == {"asr"}
    for n, row in enumerate(spoken):
        samples, rate = soundfile.read(row.wav, dtype="int16")
        assert rate == 24000 and len(samples) == (3 + 5 * n) * 960 and samples.ndim == 1 and samples.any()
        assert row.wav == str(out / f"wav/u%2F{n}.wav") and row.txt == f"word {n}" and row.start is None
    assert spoken[1].answer_wav == "answer.wav" and spoken[1].emotion == "happy"
    info = json.loads((out / "synthesize.json").read_text())
    assert info["n"] == 6 and info["drop_counts"] == {"token_out_of_range": 1, "missing_speech_token": 1, "empty_speech": 1}
    assert info["audio_seconds"] == pytest.approx(sum(3 + 5 * n for n in range(6)) / 25, abs=0.01)
    assert info["rtf"] == pytest.approx(info["wall_seconds"] / info["audio_seconds"], abs=0.01) and info["rtf"] > 0
    assert "in.list:7: key long" in info["drops"][0]["message"] and not (out / PARTIAL).exists()
    text = capsys.readouterr().out
    assert "6 utterances" in text and "dropped 1: empty_speech" in text


def test_it_goes_on_where_it_was_and_batches_do_not_matter(runs, tmp_path, monkeypatch):
    assert call(runs, tmp_path / "whole", monkeypatch, rows()) == 0
    real, calls = Token2wav.synthesize, []

    def failing(self, codes, seeds):
        calls.append(len(codes))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, codes, seeds)

    monkeypatch.setattr(Token2wav, "synthesize", failing)
    assert call(runs, tmp_path / "parts", monkeypatch, rows(), "--batch_tokens", 30) == 130
    assert len((tmp_path / "parts" / PARTIAL).read_text().splitlines()) == 3 and not (tmp_path / "parts/data.list").exists()
    before = sum(calls[:2])
    calls[:] = [0] * 5
    assert call(runs, tmp_path / "parts", monkeypatch, rows(), "--batch_tokens", 30) == 0
    assert sum(calls) == 6 - before
    assert (tmp_path / "parts/data.list").read_text() == (tmp_path / "whole/data.list").read_text()
    for path in (tmp_path / "whole/wav").iterdir():
        one, two = (soundfile.read(folder / path.name, dtype="int16")[0].astype(int) for folder in (path.parent, tmp_path / "parts/wav"))
        assert np.abs(one - two).max() <= 8  # batches of other sizes round otherwise


def test_one_bad_row_of_a_batch_is_one_drop(runs, tmp_path, monkeypatch):
    real = Token2wav.synthesize

    def fragile(self, codes, seeds):
        if any(len(row) == 13 for row in codes):
            raise DataError("not finite", "non_finite")
        return real(self, codes, seeds)

    monkeypatch.setattr(Token2wav, "synthesize", fragile)
    assert call(runs, tmp_path / "out", monkeypatch, rows()[:6]) == 0
    info = json.loads((tmp_path / "out/synthesize.json").read_text())
    assert info["n"] == 5 and info["drop_counts"] == {"non_finite": 1} and info["drops"][0]["key"] == "u/2"


def test_nothing_to_speak_is_an_error(runs, tmp_path, monkeypatch, capsys):
    assert call(runs, tmp_path / "out", monkeypatch, rows()[6:]) == 2
    assert "no row could be synthesized" in capsys.readouterr().err


def test_wrong_directories_are_named(runs, tmp_path):
    with pytest.raises(ConfigError, match=r"expected a flow in .*vocoder and a vocoder in .*flow, got model.arch vocoder and flow"):
        load_token2wav(runs / "vocoder", runs / "flow")
    data, train = DataConfig(train=[SourceConfig(list="none")]), TrainConfig(max_steps=1)
    cfg = VocoderRun(mel=MelConfig(num_mels=8, high_hz=7000.0), model=VocoderConfig(), data=data, train=train)
    (tmp_path / "other").mkdir()
    save_config(cfg, tmp_path / "other/train.yaml")
    with pytest.raises(ConfigError, match="reads other mel"):
        load_token2wav(runs / "flow", tmp_path / "other")
