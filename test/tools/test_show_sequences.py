"""tools/show_sequences.py: the picture, the counts and the exit status."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from osum_echat.text.prompts import load_prompts
from osum_echat.text.tags import ALL_TAGS
from osum_echat.text.tokenizer import train_sentencepiece

TOOL = Path(__file__).parents[2] / "tools" / "show_sequences.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("show")
    prompts = load_prompts("mini")
    train_sentencepiece([*prompts.texts(), "open the door"] * 2, path / "text.model", 400, [*ALL_TAGS, *prompts.symbols()])
    soundfile.write(path / "a.wav", np.zeros(16000), 16000)
    rows = [
        {"key": "a", "wav": str(path / "a.wav"), "txt": "open the door", "emotion": "sadness", "task": "asr_emotion"},
        {"key": "b", "wav": str(path / "a.wav"), "txt": "the door", "task": "asr"},
        {"key": "c", "wav": str(path / "gone.wav"), "txt": "the", "task": "asr"},
        {"key": "d", "question": "the", "txt": "door", "task": "t2t"},
        {"key": "e", "wav": str(path / "a.wav"), "txt": "the", "task": "asr_q"},
    ]
    (path / "data.list").write_text("\n".join(map(json.dumps, rows)) + "\n{broken\n", encoding="utf-8")
    return path


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Call the tool's main() with arguments; gives (status, stdout, stderr)."""
    spec = importlib.util.spec_from_file_location("show_sequences", TOOL)
    tool = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "show_sequences", tool)  # dataclasses look their module up
    spec.loader.exec_module(tool)

    def call(*arguments):
        given = ["--list", folder / "data.list", "--tokenizer", folder / "text.model", "--prompts", "mini", *arguments]
        monkeypatch.setattr(sys, "argv", ["show_sequences", *map(str, given)])
        status = tool.main()
        return status, *capsys.readouterr()

    return call


def test_shows_each_task_with_counts_and_drops(run):
    status, shown, errors = run()
    assert (status, errors) == (0, "")
    assert "asr: 2 rows" in shown and "asr_emotion: 1 rows" in shown and "t2t: 1 rows" in shown
    assert "words emotion[audio x13]<|im_end|>⏎<|im_start|>assistant⏎open the door<SAD><|im_end|>" in shown
    assert "13 audio" in shown
    for reason in ("missing_audio", "unknown_task", "bad_json"):
        assert f"dropped 1 x {reason}" in shown
    assert "data.list:6" in shown


def test_task_and_num_are_honoured(run):
    status, shown, _ = run("--task", "emotion", "--num", "1")
    assert status == 0
    assert "emotion: 5 rows" in shown and shown.count("positions") == 1


def test_errors_have_a_status(run, tmp_path):
    status, _, errors = run("--task", "emotions")
    assert status == 2 and "did you mean 'emotion'" in errors
    assert run("--task", "style")[0] == 1  # no row has a style
    status, _, errors = run("--tokenizer", tmp_path / "gone.model")
    assert status == 2 and "gone.model" in errors


def test_rows_that_speak_are_shown_with_their_tokens_and_named_without(run, tmp_path, folder):
    said = {"key": "t", "task": "tts", "txt": "open the door", "emotion": "anger", "speech_token": [1] * 20}
    asked = {"task": "s2s", "wav": str(folder / "a.wav"), "question": "the", "txt": "door", "speech_token": [3, 4]}
    bare = {**asked, "key": "n", "speech_token": None}
    (tmp_path / "data.list").write_text("\n".join(map(json.dumps, (said, {**asked, "key": "s"}, bare))) + "\n")
    status, shown, _ = run("--list", tmp_path / "data.list")
    assert status == 0
    assert "speak<|im_end|>⏎<|im_start|>user⏎<ANGRY>open the door<|im_end|>⏎<|im_start|>assistant⏎[sb][speech x20][sb]" in shown
    assert "talk<|im_end|>⏎<|im_start|>user⏎[audio x13]<|im_end|>⏎<|im_start|>assistant⏎door<|im_end|>[sb][speech x2][sb]" in shown
    assert "dropped 1 x missing_speech_token" in shown and "prepare speech-tokens" in shown
    status, shown, _ = run("--list", tmp_path / "data.list", "--task", "tts_interleaved", "--codebook_size", "4")
    assert status == 0 and "dropped 1 x bad_speech_token, first: " in shown
