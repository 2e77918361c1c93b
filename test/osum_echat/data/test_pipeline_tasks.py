"""Every row of TASKS goes through the whole data path, from a list or a tar to a packed batch; earlier turns and conversions with it."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from osum_echat.audio.features import num_llm_frames
from osum_echat.config import AugmentConfig, ConvertConfig, DataConfig, FilterConfig, SourceConfig
from osum_echat.data.pipeline import Loader, make_loader
from osum_echat.data.shards import ShardOptions, make_shards
from osum_echat.data.source import read_raw_list
from osum_echat.data.steps import SequenceEncoder
from osum_echat.errors import DataError
from osum_echat.tasks.task import TASKS
from osum_echat.text.vocab import IGNORE, JointVocab

SAMPLES = 12000
CODES = [3, 0, 15, 7] * 8


@pytest.fixture
def wav(tmp_path: Path) -> str:
    path = tmp_path / "u.wav"
    soundfile.write(path, np.random.default_rng(0).standard_normal(SAMPLES) * 0.1, 16000)
    return str(path)


@pytest.fixture
def load(tmp_path: Path, encoder: SequenceEncoder, data_config: Callable[..., DataConfig]) -> Callable[..., Loader]:
    def make(rows: list[dict[str, Any]], kind: str = "raw", epoch: int = 0, **changes: Any) -> Loader:
        raw = tmp_path / "raw.list"
        raw.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        path = raw
        if kind == "shard":
            path = tmp_path / "shards.list"
            make_shards(read_raw_list(raw), tmp_path / "shards", path, ShardOptions(num_per_shard=5))
        config = data_config(**changes)
        return make_loader([SourceConfig(kind=kind, list=str(path))], config, encoder, max_tokens=600, seed=1, epoch=epoch)  # type: ignore[arg-type]

    return make


def row(task: str, wav: str, **changes: Any) -> dict[str, Any]:
    labels = {"gender": "male", "age": 30, "emotion": "happy", "event": "cough", "style": "chat"}
    words = [["red", 0.0, 0.2], ["cat", 0.3, 0.5]]
    base = {"key": task, "task": task, "wav": wav, "txt": "red cat", "question": "two dog", "answer": "a tree", "words": words}
    return base | labels | {"speech_token": CODES} | changes


@pytest.mark.parametrize("kind", ["raw", "shard"])
def test_every_task_survives(load: Callable[..., Loader], wav: str, kind: str, encoder: SequenceEncoder) -> None:
    loader = load([row(name, wav) for name in TASKS], kind)
    batches = list(loader)
    assert Counter(task for batch in batches for task in batch.tasks) == Counter(list(TASKS)) and loader.drops == {}
    for batch in batches:
        bounds = batch.cu_seqlens.tolist()
        slots = [num_llm_frames(SAMPLES) if TASKS[task].reads_audio else 0 for task in batch.tasks]
        assert len(batch.audio_slots_T) == sum(slots)
        for task, low, high in zip(batch.tasks, bounds[:-1], bounds[1:], strict=True):
            labels_T = batch.labels_T[low:high]
            learned = labels_T[labels_T != IGNORE]
            num_text = int((learned < JointVocab(420, 16).text_size).sum())
            assert (num_text > 0) == (TASKS[task].schedule != "speech")
            assert len(learned) - num_text == (0 if TASKS[task].schedule == "text" else len(CODES) + 2)


@pytest.mark.parametrize("kind", ["raw", "shard"])
@pytest.mark.parametrize("task", [name for name, task in TASKS.items() if task.follow_up])
def test_earlier_turns_are_heard(load: Callable[..., Loader], wav: str, task: str, kind: str) -> None:
    history = [{"role": "user", "wav": wav, "txt": "one"}, {"role": "assistant", "txt": "two", "speech_token": [1, 2]}]
    augment = AugmentConfig(speed=[0.5], noise_snr_db=(5.0, 9.0), spec_time_masks=1)
    (batch,) = load([row(task, wav, history=history)], kind, augment=augment)
    (alone,) = load([row(task, wav, key="b")], augment=augment)
    frames = num_llm_frames(2 * SAMPLES)
    assert len(batch.audio_slots_T) == (2 * frames if TASKS[task].reads_audio else 0)
    assert batch.num_supervised == alone.num_supervised and len(batch.ids_T) > len(alone.ids_T)
    if TASKS[task].reads_audio:
        assert batch.ctc_lens_B.tolist() == [0, len("two dog")]
        assert not np.array_equal(batch.mel_BFM[0], batch.mel_BFM[1])  # noise is drawn for each turn


@pytest.mark.parametrize(("source", "target"), [("tts", "tts_interleaved"), ("s2s", "s2s_interleaved"), ("s2s", "s2t")])
def test_half_of_a_task_becomes_its_interleaved_form(load: Callable[..., Loader], wav: str, source: str, target: str) -> None:
    convert = [ConvertConfig(from_=source, to=target, rate=0.5)]
    rows = [row(source, wav, key=f"k{number}") for number in range(40)]

    def drawn(epoch: int) -> dict[str, str]:
        batches = list(load(rows, epoch=epoch, convert=convert))
        return {key: task for batch in batches for key, task in zip(batch.keys, batch.tasks, strict=True)}

    first, again, second = drawn(0), drawn(0), drawn(1)
    assert first == again != second and set(first.values()) == {source, target}
    assert 10 < Counter(first.values())[target] < 30


@pytest.mark.parametrize(
    ("task", "change", "reason"),
    [
        ("tts", {"speech_token": [1, 16]}, "bad_speech_token"),
        ("tts_interleaved", {"speech_token": []}, "missing_speech_token"),
        ("s2s", {"speech_token": None}, "missing_speech_token"),
        ("tts", {"txt": ""}, "empty_text"),
        ("s2s", {"history": [{"role": "user", "txt": "a"}]}, "bad_history"),
        ("s2s", {"history": [{"role": "user", "wav": "/nowhere.wav"}, {"role": "assistant", "txt": "a"}]}, "missing_audio"),
        ("tts", {"txt": "red " * 400}, "sequence_too_long"),
    ],
)
def test_defects_are_counted_and_their_line_is_named(
    load: Callable[..., Loader], wav: str, tmp_path: Path, task: str, change: dict[str, Any], reason: str
) -> None:
    loader = load([row("asr", wav), row(task, wav, key="bad", **change)], max_drop=1.0)
    assert [key for batch in loader for key in batch.keys] == ["asr"]
    assert loader.drops == {reason: {task: 1}} and f"{tmp_path}/raw.list:2" in loader.tally.table()


def test_the_bound_on_text_does_not_count_speech(load: Callable[..., Loader], wav: str) -> None:
    bounds = FilterConfig(max_text_tokens=len(CODES) // 2)
    assert len(list(load([row("s2s_interleaved", wav)], filter=bounds))) == 1
    with pytest.raises(DataError, match="text_too_long"):
        list(load([row("s2s_interleaved", wav, txt="red cat " * 20)], filter=bounds))
