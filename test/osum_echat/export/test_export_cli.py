"""osum-echat export, from run directories to a bundle that answers."""

import copy
import json
from pathlib import Path

import pytest
import torch

from osum_echat.bin import main as program
from osum_echat.export import build
from osum_echat.export.bundle import load_bundle
from osum_echat.export.language import export_encoder
from osum_echat.export.runner import bundle_session
from osum_echat.generate.reply import Reply
from osum_echat.generate.requests import GREEDY, RequestEncoder
from osum_echat.model.echat import EChat
from osum_echat.tasks.task import TASKS
from osum_echat.utterance import Utterance


def export(run_dir: Path, voice_runs: Path, out: Path, *more: str) -> int:
    where = ["--dir", run_dir, "--flow", voice_runs / "flow", "--vocoder", voice_runs / "vocoder", "--out", out]
    return program.main(["export", *map(str, where), "--device", "cpu", *more])


def test_a_bundle_answers_without_the_run(
    run_dir: Path, voice_runs: Path, noise_list: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, spoken = tmp_path / "deep" / "bundle", tmp_path / "questions.list"
    spoken.write_text("".join(json.dumps({"key": f"u{n}", "wav": str(noise_list.parent / f"u{n}.wav")}) + "\n" for n in (0, 1, 3, 4, 2)))
    assert export(run_dir, voice_runs, out, "--list", str(spoken), "--dtype", "bfloat16") == 0
    table = capsys.readouterr().out
    assert all(part in table for part in ("encoder", "llm", "flow", "vocoder", "vad", "s2s_interleaved_think: ids of 4 turns"))
    assert "DIFFERS" not in table and "bfloat16 on cpu" in table
    bundle = load_bundle(out)
    assert bundle.info["dtype"] == "bfloat16" and bundle.llm.embed.weight.dtype == torch.bfloat16
    encoder = RequestEncoder(bundle.config, TASKS["s2s"])
    session = bundle_session(bundle, encoder, encoder.plan(GREEDY, GREEDY, max_new=5, max_speech=20))
    reply = Reply(session.reply(Utterance("q", wav=str(noise_list.parent / "u1.wav"))))
    assert reply.codes and len(reply.samples_S) == len(reply.codes) * 960


def test_an_export_that_differs_fails_and_leaves_nothing(
    run_dir: Path, voice_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(model: EChat) -> torch.jit.ScriptModule:
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.adapter.proj.bias[0].add_(1.0)
        return export_encoder(other)

    monkeypatch.setattr(build, "export_encoder", wrong)
    monkeypatch.setattr(build, "check_dialogues", lambda *arguments: [])  # the parts are enough
    assert export(run_dir, voice_runs, tmp_path / "bundle") == 2
    captured = capsys.readouterr()
    assert "DIFFERS" in captured.out and "no bundle was written: encoder" in captured.err
    assert not list(tmp_path.iterdir())


def test_help_and_errors_say_what_to_do(run_dir: Path, voice_runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        program.main(["export", "--help"])
    assert "--dtype" in capsys.readouterr().out
    (tmp_path / "written.list").write_text(json.dumps({"key": "a", "txt": "hello", "question": "who"}) + "\n")
    for more, reason in (
        (["--list", str(tmp_path / "written.list")], "no row with a recording"),
        (["--flow", str(tmp_path)], "no finished training of a flow"),
        (["--dir", str(tmp_path / "nowhere")], "no such directory"),
    ):
        assert export(run_dir, voice_runs, tmp_path / "bundle", *more) == 2
        assert reason in capsys.readouterr().err
