"""Decoding a list to speech: what hyp.list and decode.json hold, dialogues, going on after an interruption, the command."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from osum_echat.bin import decode as decode_command
from osum_echat.config import RunConfig, SourceConfig
from osum_echat.data.source import Drop
from osum_echat.generate import runner
from osum_echat.generate.decoder import generate
from osum_echat.generate.requests import RequestEncoder, read_rows
from osum_echat.generate.runner import DecodeSettings, decode_list, finish_decode
from osum_echat.generate.sampling import Sampler
from osum_echat.model.echat import EChat
from osum_echat.tasks.task import TASKS
from osum_echat.utterance import Utterance

SPOKEN = [name for name, task in TASKS.items() if task.speaks]
SETTINGS = DecodeSettings(batch_size=2, max_new=5, max_speech=9)


def source(path: Path) -> SourceConfig:
    return SourceConfig(kind="raw", list=str(path))


def decode(model: EChat, config: RunConfig, path: Path, task: str, out: Path, settings: DecodeSettings = SETTINGS) -> list[dict[str, Any]]:
    """Rows of hyp.list."""
    record = decode_list(model, RequestEncoder(config, TASKS[task]), read_rows(source(path)), settings, out, {"who": "x"})
    finish_decode(record, TASKS[task], out, {})
    return [json.loads(line) for line in (out / "hyp.list").read_text().splitlines()]


@pytest.mark.parametrize("task", SPOKEN)
def test_hyp_list_is_a_list_of_what_was_said_and_should_be(
    model: EChat, run_config: RunConfig, noise_list: Path, tmp_path: Path, task: str
) -> None:
    rows = decode(model, run_config, noise_list, task, tmp_path)
    encoder, good = RequestEncoder(run_config, TASKS[task]), ["u0", "u1", "gone", "u2", "u3", "u4"]
    requests = {row.key: encoder.request(row) for row in read_rows(source(noise_list)) if not isinstance(row, Drop) and row.key != "gone"}
    plan = encoder.plan(SETTINGS.sampler, SETTINGS.speech_sampler, 5, 9)
    reads_aloud, info = task.startswith("tts"), json.loads((tmp_path / "decode.json").read_text())
    assert [row["key"] for row in rows] == (good if reads_aloud else [key for key in good if key != "gone"])
    for row in rows:
        if row["key"] == "gone":  # its audio is missing, its text is not
            assert row["txt"] == "the light"
            continue
        request = requests[row["key"]]
        (answer,) = generate(model, [request.prompt], request.mels, plan, SETTINGS.seed)
        written = encoder.answer(answer.ids).reply
        txt = "open the door" if reads_aloud else written
        assert row == {"key": row["key"], "task": task, "txt": txt, "speech_token": list(answer.codes)}
        assert Utterance.from_json(json.dumps(row)).speech_token == answer.codes
        assert (row["key"] in info["cut_off"]) is not answer.finished
    assert any(row["speech_token"] for row in rows) and info["cut_off"]
    assert len(rows) == len((tmp_path / "text").read_text().splitlines())


def test_counts_and_the_real_time_factor_of_what_was_said(model: EChat, run_config: RunConfig, noise_list: Path, tmp_path: Path) -> None:
    encoder = RequestEncoder(run_config, TASKS["s2s"])
    record = decode_list(model, encoder, read_rows(source(noise_list)), SETTINGS, tmp_path, {"who": "x"})
    record.answers["u1"].codes.clear()
    record.wall_seconds = 3.0
    info = finish_decode(record, TASKS["s2s"], tmp_path, {}, code_rate=12.5)
    num_codes = sum(len(row.codes) for row in record.answers.values())
    assert info["num_codes"] == num_codes > 0 and info["speech_seconds"] == round(num_codes / 12.5, 2)
    assert info["rtf"] == 3.0 / (num_codes / 12.5) and "u1" in info["empty"] and info["num_empty"] == len(info["empty"])
    assert info["num_distinct_codes"] == len({code for row in record.answers.values() for code in row.codes})
    assert info["audio_seconds"] == pytest.approx(3.1)


def test_an_interrupted_decode_draws_what_the_whole_one_draws(
    model: EChat, run_config: RunConfig, noise_list: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DecodeSettings(Sampler(3.0), Sampler(3.0, repeat_window=10), batch_size=2, max_new=5, max_speech=20)
    whole = decode(model, run_config, noise_list, "s2s_interleaved", tmp_path / "whole", settings)
    calls = []

    def dies_at_second(*args: object, **options: object) -> object:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "generate", dies_at_second)
    with pytest.raises(KeyboardInterrupt):
        decode(model, run_config, noise_list, "s2s_interleaved", tmp_path / "cut", settings)
    assert decode(model, run_config, noise_list, "s2s_interleaved", tmp_path / "cut", settings) == whole
    assert len({tuple(row["speech_token"]) for row in whole}) > 1


@pytest.mark.parametrize("task", ["s2s_interleaved", "s2s", "t2t", "s2t"])
def test_rows_of_a_dialogue(model: EChat, run_config: RunConfig, noise_list: Path, tmp_path: Path, task: str) -> None:
    """Earlier turns are read: the answer is not that of the question alone."""
    history = [{"role": "user", "txt": "open the door", "wav": str(noise_list.parent / "u1.wav")}]
    history += [{"role": "assistant", "txt": "the light is on", "speech_token": [1, 2, 3, 4]}]
    row = {"key": "u0", "wav": str(noise_list.parent / "u0.wav"), "question": "the light"}
    texts = []
    for name, record in (("alone", row), ("later", {**row, "history": history})):
        (tmp_path / f"{name}.list").write_text(json.dumps(record) + "\n")
        encoder = RequestEncoder(run_config, TASKS[task])
        settings = DecodeSettings(max_new=12, max_speech=40)
        found = decode_list(model, encoder, read_rows(source(tmp_path / f"{name}.list")), settings, tmp_path / name, {"who": "x"})
        assert not found.drops
        texts.append(found.answers["u0"])
    assert texts[0] != texts[1]


def test_command_of_a_text_to_speech_run(
    run_dir: Path, noise_list: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--config", run_dir / "train.yaml", "--checkpoint", run_dir / "final.pt", "--list", noise_list, "--device", "cpu"]

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["decode", *map(str, [*model, *arguments])])
        return decode_command.main()

    options = ["--max_speech", 30, "--speech_temperature", 2, "--speech_top_k", 0, "--speech_top_p", 1, "--repeat_window", 5]
    assert run("--task", "tts", "--out", tmp_path / "a", *options) == 0
    assert "6 utterances, no audio," in capsys.readouterr().out
    info = json.loads((tmp_path / "a" / "decode.json").read_text())
    assert info["task"] == "tts" and info["drop_counts"] == {"bad_json": 1} and info["audio"] == "wav"
    assert info["speech_sampler"] == {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "repeat_window": 5, "repeat_share": 0.1}
    rows = [json.loads(line) for line in (tmp_path / "a" / "hyp.list").read_text().splitlines()]
    assert run("--task", "tts", "--out", tmp_path / "b", *options, "--seed", 778) == 0
    others = [json.loads(line) for line in (tmp_path / "b" / "hyp.list").read_text().splitlines()]
    assert [row["key"] for row in rows] == [row["key"] for row in others] and rows != others
    assert run("--task", "tts", "--out", tmp_path / "c", "--max_speech", 0) == 2
    assert "--max_speech 0" in capsys.readouterr().err


def test_another_audio_of_the_row_is_heard(run_dir: Path, noise_list: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recordings that speech is compared with are transcribed by the same command."""
    row = {"key": "k", "txt": "x", "wav": "nowhere.wav", "start": 1.0, "end": 2.0, "answer_wav": str(noise_list.parent / "u3.wav")}
    (tmp_path / "data.list").write_text(json.dumps(row) + "\n")
    arguments = ["--config", run_dir / "train.yaml", "--checkpoint", run_dir / "final.pt", "--list", tmp_path / "data.list"]
    arguments += ["--task", "asr", "--audio", "answer_wav", "--out", tmp_path / "d", "--device", "cpu", "--max_new", 3]
    monkeypatch.setattr(sys, "argv", ["decode", *map(str, arguments)])
    assert decode_command.main() == 0
    info = json.loads((tmp_path / "d" / "decode.json").read_text())
    assert info["n"] == 1 and info["audio_seconds"] == pytest.approx(0.8)
