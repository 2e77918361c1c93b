"""Decoding a list: outputs, drops, batches, going on after an interruption; and the command."""

import json
import sys
from pathlib import Path

import pytest

from osum_echat.bin import decode as decode_command
from osum_echat.config import RunConfig, SourceConfig
from osum_echat.data.source import RawSource
from osum_echat.generate import runner
from osum_echat.generate.requests import RequestEncoder, read_answer, read_rows
from osum_echat.generate.runner import DecodeSettings, decode_list, finish_decode, plan_batches
from osum_echat.model.echat import EChat
from osum_echat.tasks.task import TASKS

SETTINGS = DecodeSettings(batch_size=2, max_new=6, read_ahead=4)


def decode(
    model: EChat, config: RunConfig, path: Path, out: Path, identity: str = "same", settings: DecodeSettings = SETTINGS
) -> dict[str, str]:
    encoder = RequestEncoder(config, TASKS["asr_p"])
    rows = read_rows(SourceConfig(kind="raw", list=str(path)))
    record = decode_list(model, encoder, rows, settings, out, {"who": identity})
    finish_decode(record, TASKS["asr_p"], out, {"task": "asr_p"})
    return {key: row.raw for key, row in record.answers.items()}


def test_outputs_are_in_list_order_and_drops_are_named(model: EChat, run_config: RunConfig, noise_list: Path, tmp_path: Path) -> None:
    raw = decode(model, run_config, noise_list, tmp_path)
    keys = [line.split()[0] for line in (tmp_path / "text").read_text().splitlines()]
    assert keys == ["u0", "u1", "u2", "u3", "u4"] and set(raw) == set(keys)
    info = json.loads((tmp_path / "decode.json").read_text())
    assert info["n"] == 5 and info["audio_seconds"] == pytest.approx(3.1) and info["rtf"] > 0
    assert info["drop_counts"] == {"missing_audio": 1, "bad_json": 1}
    assert info["drops"][0]["key"] == "gone" and "data.list:7" in info["drops"][1]["message"]
    assert not (tmp_path / "partial.jsonl").exists()
    labels = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert [item["key"] for item in labels] == keys


def test_an_interrupted_decode_goes_on_and_gives_the_same(
    model: EChat, run_config: RunConfig, noise_list: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = decode(model, run_config, noise_list, tmp_path / "whole")
    generate, calls = runner.generate, []

    def dies_at_third(*args: object, **options: object) -> object:
        calls.append([prompt.key for prompt in args[1]])  # type: ignore[attr-defined, index]
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "generate", dies_at_third)
    with pytest.raises(KeyboardInterrupt):
        decode(model, run_config, noise_list, tmp_path / "cut")
    with (tmp_path / "cut" / "partial.jsonl").open("a") as file:
        file.write('{"answers": [{"key": "u')  # the kill came in the middle of a line
    done = {key for batch in calls[:2] for key in batch}
    calls.clear()
    calls.extend([[], [], []])
    assert decode(model, run_config, noise_list, tmp_path / "cut") == expected
    again = {key for batch in calls[3:] for key in batch}
    assert again == set(expected) - done and done
    assert (tmp_path / "cut" / "text").read_text() == (tmp_path / "whole" / "text").read_text()


def test_another_decode_does_not_take_over_the_partial_file(model: EChat, run_config: RunConfig, noise_list: Path, tmp_path: Path) -> None:
    (tmp_path / "partial.jsonl").write_text(
        json.dumps({"who": "other"})
        + "\n"
        + json.dumps({"answers": [{"key": "u0", "raw": "stale", "seconds": 1, "finished": True}], "wall_seconds": 1})
        + "\n"
    )
    assert decode(model, run_config, noise_list, tmp_path)["u0"] != "stale"


def test_batches_hold_neighbours_in_length_and_respect_both_bounds(run_config: RunConfig, noise_list: Path) -> None:
    encoder = RequestEncoder(run_config, TASKS["asr"])
    source = RawSource(noise_list)
    requests = [encoder.request(make()) for at in (0, 1, 3, 4, 5) for make in source.rows(at)]  # type: ignore[arg-type]
    batches = [[item.key for item in batch] for batch in plan_batches(requests, 2, 100.0)]
    assert batches == [["u1", "u3"], ["u0", "u4"], ["u2"]]
    assert [[item.key for item in batch] for batch in plan_batches(requests, 5, 1.0)] == [["u1"], ["u3"], ["u0", "u4"], ["u2"]]


@pytest.mark.parametrize(
    ("task", "raw", "transcript", "labels"),
    [
        (
            "asr_p",
            "open the door<ADULT><MALE><NO_EVENT><HAPPY>",
            "open the door",
            {"age": "adult", "gender": "male", "event": "none", "emotion": "happy"},
        ),
        ("only_p", "<ADULT><MALE>", "", {"age": "adult", "gender": "male"}),
        ("asr", "open  the\ndoor", "open the door", {}),
        ("align", "<0.0>open<0.4><0.5>it<0.9>", "open it", {}),
    ],
)
def test_answers_are_split(task: str, raw: str, transcript: str, labels: dict[str, str]) -> None:
    answer = read_answer(raw, TASKS[task])
    assert (answer.transcript, answer.labels) == (transcript, labels)


def test_command(
    run_dir: Path, noise_list: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", run_dir / "train.yaml", "--checkpoint", run_dir / "final.pt", "--list", noise_list, "--task", "only_p"]
    monkeypatch.setattr(sys, "argv", ["decode", *map(str, arguments), "--out", str(tmp_path / "d"), "--max_new", "5", "--device", "cpu"])
    assert decode_command.main() == 0
    out = capsys.readouterr().out
    assert "5 utterances" in out and "dropped 1: missing_audio" in out
    info = json.loads((tmp_path / "d" / "decode.json").read_text())
    assert info["task"] == "only_p" and info["has_transcript"] is False and info["labels"] == ["age", "gender", "event", "emotion"]
    monkeypatch.setattr(sys, "argv", ["decode", *map(str, arguments[:-1]), "only_q", "--out", str(tmp_path / "e")])
    assert decode_command.main() == 2
    assert "only_p" in capsys.readouterr().err
