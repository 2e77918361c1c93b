"""A tiny corpus on disk (noise of different lengths with words and labels) and a tokenizer to lay it out.

The helpers are fixtures because pytest's importlib mode has no import path between test files.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from osum_echat.config import DataConfig, SourceConfig, TokenizerConfig
from osum_echat.data.steps import SequenceEncoder
from osum_echat.text.prompts import load_prompts
from osum_echat.text.tokenizer import train_sentencepiece

WORDS = ["red", "green", "blue", "one", "two", "three", "four", "five", "cat", "dog", "house", "tree"]
EMOTIONS = ("happy", "sad", "neutral", "angry")


def _make_rows(folder: Path, num: int, first: int = 0) -> list[dict[str, object]]:
    """Wavs of 0.3 to 1.5 s and their list rows."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for number in range(first, first + num):
        rng = np.random.default_rng(number)
        wav = folder / f"utt{number:03d}.wav"
        soundfile.write(wav, (rng.standard_normal(int(rng.integers(4800, 24000))) * 2000).astype(np.int16), 16000)
        text = " ".join(rng.choice(WORDS, int(rng.integers(1, 8))))
        emotion = str(rng.choice(EMOTIONS))
        rows.append({"key": f"utt{number:03d}", "wav": str(wav), "txt": text, "task": "asr_emotion", "emotion": emotion, "speaker": "s1"})
    return rows


def _write_list(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SequenceEncoder:
    path = tmp_path_factory.mktemp("tokenizer") / "tiny.model"
    prompts = load_prompts("mini")
    texts = [" ".join(WORDS), *prompts.texts()] * 20
    train_sentencepiece(texts, path, 420, user_symbols=prompts.symbols())
    return SequenceEncoder(TokenizerConfig(kind="sentencepiece", path=str(path)), "mini", 16, 80)


def _data_config(**changes: object) -> DataConfig:
    values: dict[str, object] = {"train": [SourceConfig(list="unused")], "num_workers": 0, "window": 8, "max_drop": 0.0}
    return DataConfig(**{**values, **changes})


@pytest.fixture
def make_rows() -> Callable[..., list[dict[str, object]]]:
    return _make_rows


@pytest.fixture
def write_list() -> Callable[..., Path]:
    return _write_list


@pytest.fixture
def data_config() -> Callable[..., DataConfig]:
    return _data_config
