"""A small experiment as the other commands leave it: lists with audio, a training run's files, a decode."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from osum_echat.audio.io import write_wav

TEXTS = ("open the door", "the light is on", "close the window", "good morning")
EMOTIONS = ("happy", "sad", "happy", "neutral")


def write_list(path: Path, count: int, prefix: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for at in range(count):
        wav = path.parent / f"{prefix}{at}.wav"
        write_wav(wav, (0.1 * np.sin(np.arange(1600) * 0.05 * (at + 1))).astype(np.float32))
        row = {
            "key": f"{prefix}{at}",
            "wav": str(wav),
            "txt": TEXTS[at % 4],
            "emotion": EMOTIONS[at % 4],
            "gender": "male" if at % 2 else "female",
        }
        lines.append(json.dumps({**row, "speaker": f"s{at // 4}", "age": 10 if at % 4 == 0 else 30, "task": "asr_p"}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """exp/ with a stage run and a decode of 8 utterances: t1 misses a word, t2 is missing, t4 has the wrong emotion."""
    train, test = write_list(tmp_path / "data" / "train.list", 12, "r"), write_list(tmp_path / "data" / "test.list", 8, "t")
    stage = tmp_path / "exp" / "1a_align"
    stage.mkdir(parents=True)
    rows = [{"step": at, "split": "train", "loss": 4.0 / at, "lr": 1e-4, "keys": 1} for at in range(1, 40)]
    rows += [{"step": 20, "split": "dev", "task": task, "loss": 1.5, "accuracy": 0.5} for task in ("all", "asr_p")]
    rows += [{"step": 39, "split": "epoch", "epoch": 0, "drops": [{"asr_p": {"too_long": 2}}, {"asr_p": {"too_long": 1}}]}]
    (stage / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (stage / "env.json").write_text(json.dumps({"torch": "2.13.0", "git_commit": "abc123", "time": "2026-01-02T03:04:05"}))
    write_run_config(stage / "train.yaml", train)
    write_decode(tmp_path / "exp" / "decode_test", test)
    return tmp_path / "exp"


def write_run_config(path: Path, train: Path) -> None:
    llm = "{vocab_size: 400, width: 16, num_layers: 1, num_heads: 2, num_kv_heads: 1, ffn_width: 16}"
    path.write_text(
        f"model:\n  llm: {llm}\ntokenizer: {{kind: sentencepiece, path: x.model}}\n"
        f"data:\n  train: [{{list: {train}}}]\ntrain: {{max_steps: 1}}\n"
    )


def write_decode(folder: Path, test: Path) -> None:
    folder.mkdir(parents=True)
    rows = [json.loads(line) for line in test.read_text().splitlines()]
    rows = [row for row in rows if row["key"] != "t2"]
    texts = {row["key"]: "the light on" if row["key"] == "t1" else row["txt"] for row in rows}
    labels = [
        {"key": row["key"], "emotion": "sad" if row["key"] == "t4" else row["emotion"], "age": "child" if row["age"] == 10 else "adult"}
        for row in rows
    ]
    (folder / "transcript").write_text("".join(f"{key} {text}\n" for key, text in texts.items()))
    (folder / "text").write_text("".join(f"{key} {text}<HAPPY>\n" for key, text in texts.items()))
    (folder / "labels.jsonl").write_text("".join(json.dumps(item) + "\n" for item in labels))
    info = {
        "task": "asr_p",
        "list": str(test),
        "data_type": "raw",
        "n": 7,
        "rtf": 0.125,
        "has_transcript": True,
        "labels": ["age", "emotion"],
    }
    info["drops"] = [{"key": "t2", "reason": "corrupt_audio", "origin": "x:3", "message": "cut off <early>"}]  # type: ignore[assignment]
    (folder / "decode.json").write_text(json.dumps(info))


@pytest.fixture(scope="session")
def judges() -> ModuleType:
    """The module judge_server.py."""
    path = Path(__file__).with_name("judge_server.py")
    spec = importlib.util.spec_from_file_location("judge_server", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["judge_server"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def endpoint(judges: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A judge behind http on this machine that does what its `script` says."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = judges.Endpoint()
    yield server
    server.close()
