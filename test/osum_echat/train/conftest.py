import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

from osum_echat.audio.io import write_wav
from osum_echat.text.tokenizer import train_sentencepiece


def _load(name: str) -> ModuleType:
    """A module beside this file (tests are imported by path, so it is no package)."""
    spec = importlib.util.spec_from_file_location(f"train_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"train_{name}"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fakes() -> ModuleType:
    """The module fakes.py."""
    return _load("fakes")


@pytest.fixture(scope="session")
def voices() -> ModuleType:
    """The module voices.py."""
    return _load("voices")


@pytest.fixture(scope="session")
def voice_runs(voices: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with flow.yaml and vocoder.yaml."""
    return voices.make_runs(tmp_path_factory.mktemp("voices"))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.yaml: 48 beeps whose transcript is their pitch, a tokenizer, and a model of a few thousand parameters."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    words = ["one two", "three", "four five six", "seven eight"]
    rows = []
    for index in range(48):
        which = index % len(words)
        time_S = np.arange(int(16000 * rng.uniform(0.3, 0.9))) / 16000
        wav = folder / f"beep{index}.wav"
        write_wav(wav, (0.3 * np.sin(2 * np.pi * 200 * (which + 1) * time_S)).astype(np.float32))
        row = {"key": f"beep{index}", "wav": str(wav), "txt": words[which], "gender": "male" if which % 2 else "female"}
        rows.append({**row, "task": "asr" if index % 3 else "gender"})
    (folder / "train.list").write_text("".join(json.dumps(row) + "\n" for row in rows[:40]))
    (folder / "dev.list").write_text("".join(json.dumps(row) + "\n" for row in rows[40:]))
    train_sentencepiece([row["txt"] for row in rows] * 3, folder / "tok.model", 300, ())
    llm = {"vocab_size": 300, "width": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "ffn_width": 64}
    config = {
        "model": {
            "encoder": {"width": 32, "num_layers": 2, "num_heads": 2, "ffn_width": 64, "dropout": 0.1},
            "adapter": {"num_layers": 1, "num_heads": 2, "ffn_width": 64},
            "llm": llm,
            "speech": {"codebook_size": 16},
            "ctc": {"weight": 0.3},
        },
        "tokenizer": {"kind": "sentencepiece", "path": str(folder / "tok.model")},
        "prompts": "mini",
        "data": {
            "train": [{"list": str(folder / "train.list")}],
            "dev": [{"list": str(folder / "dev.list")}],
            "num_workers": 0,
            "window": 10,
            "augment": {"speed": [0.9, 1.0, 1.1], "spec_time_masks": 1, "spec_time_width": 5},
        },
        "train": {
            "max_tokens": 200, "max_steps": 12, "accum_steps": 2, "optim": {"lr": 0.003}, "schedule": {"warmup_steps": 5},
            "save_every": 3, "eval_every": 6, "log_every": 2, "log_keys": True,
        },
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    return folder
