"""Every row of TASKS goes through the whole data path, from a list or a tar to a packed batch; earlier turns and conversions with it."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from osum_echat.audio.features import num_llm_frames
from osum_echat.config import AugmentConfig, ConvertConfig, DataConfig, FilterConfig, SourceConfig, ThinkConfig
from osum_echat.data.pipeline import Loader, make_loader
from osum_echat.data.shards import ShardOptions, make_shards
from osum_echat.data.source import read_raw_list
from osum_echat.data.steps import SequenceEncoder
from osum_echat.data.tally import Tally
from osum_echat.errors import DataError
from osum_echat.losses import joint_cross_entropy
from osum_echat.tasks.task import TASKS, THINKING
from osum_echat.text.tags import UNKNOWN_TAG
from osum_echat.text.tokenizer import load_tokenizer
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
    def make(rows: list[dict[str, Any]], kind: str = "raw", epoch: int = 0, encoder: SequenceEncoder = encoder, **changes: Any) -> Loader:
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


def test_known_labels_of_think_blocks_are_counted(load: Callable[..., Loader], wav: str) -> None:
    rows = [row("s2t_think", wav, key="a"), row("s2s_think", wav, key="b", emotion=None, age=None), row("asr", wav, key="c")]
    loader = load(rows)
    list(loader)
    known = {"words": [2, 0], "age": [1, 1], "gender": [2, 0], "event": [2, 0], "emotion": [1, 1]}
    assert loader.tally.known == known and Tally.from_state(loader.tally.state()).known == known
    assert "known in think blocks: words 2 of 2, age 1 of 2" in loader.tally.table()


def test_rows_left_out_on_purpose_are_counted_and_do_not_stop_the_run(
    load: Callable[..., Loader], wav: str, encoder: SequenceEncoder
) -> None:
    strict = SequenceEncoder(encoder.tokenizer_config, "mini", 16, 80, think=ThinkConfig(sparse=False))
    rows = [row("s2t_think", wav, key="a"), row("s2t_think", wav, key="b", emotion=None)]
    loader = load(rows, encoder=strict, max_drop=0.0)
    assert [key for batch in loader for key in batch.keys] == ["a"]
    assert loader.drops == {"not_fully_labelled": {"s2t_think": 1}} and "1 of 2 rows dropped" in loader.tally.table()


@pytest.mark.parametrize("task", THINKING)
def test_a_row_is_its_own_teacher(load: Callable[..., Loader], wav: str, task: str, encoder: SequenceEncoder) -> None:
    teaching = SequenceEncoder(encoder.tokenizer_config, "mini", 16, 80, think=ThinkConfig(distill=1.0))
    rows = [row(THINKING[task], wav, key="a"), row("asr", wav, key="b"), row(THINKING[task], wav, key="c", emotion=None)]
    (batch,) = load(rows, encoder=teaching)
    (apart,) = load([row(task, wav, key="a")])
    assert sorted(zip(batch.keys, batch.tasks, strict=True)) == [
        ("a", task), ("a", THINKING[task]), ("b", "asr"), ("c", task), ("c", THINKING[task]),
    ]  # fmt: skip
    teacher_P, student_P = batch.twins_P2.unbind(1)
    assert len(teacher_P) == 2 * apart.num_supervised
    assert torch.equal(batch.labels_T[teacher_P], batch.labels_T[student_P]) and (batch.labels_T[student_P] != IGNORE).all()
    assert torch.equal(batch.labels_T[student_P].sort().values, apart.labels_T[apart.labels_T != IGNORE].repeat(2).sort().values)
    (plain,) = load([row(THINKING[task], wav)], encoder=SequenceEncoder(encoder.tokenizer_config, "mini", 16, 80))
    assert len(plain.keys) == 1 and plain.twins_P2.shape == (0, 2)


def test_a_history_that_does_not_fit_loses_its_oldest_exchanges(load: Callable[..., Loader], wav: str) -> None:
    history = [
        turn
        for number in range(4)
        for turn in ({"role": "user", "wav": wav, "txt": f"question {number}"}, {"role": "assistant", "txt": "two"})
    ]
    lengths = []
    for kept in (0, 2, 4):
        (batch,) = load([row("s2t", wav, history=history[8 - 2 * kept :])])
        lengths.append(len(batch.ids_T))
    (short,) = load([row("s2t", wav, history=history)], filter=FilterConfig(max_sequence=lengths[1]))
    (wanted,) = load([row("s2t", wav, history=history[4:])])
    assert torch.equal(short.ids_T, wanted.ids_T) and len(short.ids_T) == lengths[1] < lengths[2]
    with pytest.raises(DataError, match="sequence_too_long"):  # the question alone is never cut
        list(load([row("s2t", wav, history=history)], filter=FilterConfig(max_sequence=lengths[0] - 1)))


@pytest.mark.parametrize("task", THINKING.values())
def test_no_gradient_comes_from_labels_that_nobody_knows(
    load: Callable[..., Loader], wav: str, encoder: SequenceEncoder, task: str
) -> None:
    """By value: the hidden states that would predict the placeholders get zeros, all other states of the answer do not."""
    tokenizer, vocab = load_tokenizer(encoder.tokenizer_config), JointVocab(420, 16)
    (batch,) = load([row(task, wav, emotion=None, gender="unk")])
    generator = torch.Generator().manual_seed(0)
    hidden_TD = torch.randn(len(batch.ids_T), 6, generator=generator, requires_grad=True)
    heads = torch.randn(vocab.text_size, 6, generator=generator), torch.randn(17, 6, generator=generator), torch.zeros(17)
    joint_cross_entropy(hidden_TD, batch.labels_T, *heads)[0].backward()
    assert hidden_TD.grad is not None
    learned_T = hidden_TD.grad.abs().sum(1) > 0
    answer = int(learned_T.nonzero()[0])
    left_out = [int(at) + 1 for at in (~learned_T[answer:-1]).nonzero().squeeze(1) + answer]
    placeholder = tokenizer.encode(UNKNOWN_TAG)
    assert tokenizer.decode(batch.ids_T[left_out].tolist()) == 2 * UNKNOWN_TAG and len(left_out) == 2 * len(placeholder)


def test_a_pair_is_bounded_by_its_longer_half_and_by_the_micro_batch(
    load: Callable[..., Loader], wav: str, encoder: SequenceEncoder
) -> None:
    teaching = SequenceEncoder(encoder.tokenizer_config, "mini", 16, 80, think=ThinkConfig(distill=1.0))
    rows = [row("s2s_think", wav)]
    (batch,) = load(rows, encoder=teaching)
    longer = int(np.diff(batch.cu_seqlens).max())
    assert longer < len(batch.ids_T) <= 600  # 600: the micro-batch of these tests
    assert len(list(load(rows, encoder=teaching, filter=FilterConfig(max_sequence=longer)))) == 1
    with pytest.raises(DataError, match="sequence_too_long"):
        list(load(rows, encoder=teaching, filter=FilterConfig(max_sequence=longer - 1)))
    assert batch.ctc_lens_B.tolist().count(0) == 1  # the words of the audio are learned once
    assert torch.equal(batch.mel_BFM[0], batch.mel_BFM[1])


@pytest.mark.parametrize("think", [5, "tired"])
def test_a_paragraph_of_an_earlier_turn_is_text(load: Callable[..., Loader], wav: str, encoder: SequenceEncoder, think: object) -> None:
    writing = SequenceEncoder(encoder.tokenizer_config, "mini", 16, 80, think=ThinkConfig(form="language"))
    history = [{"role": "user", "wav": wav, "txt": "one", "think": think}, {"role": "assistant", "txt": "two"}]
    assert len(list(load([row("s2t_think", wav, history=history, think="calm")], encoder=writing))) == 1
    history[0]["think"] = ["tired"]
    loader = load([row("asr", wav), row("s2t_think", wav, key="b", history=history, think="calm")], encoder=writing, max_drop=1.0)
    assert len(list(loader)) == 1 and loader.drops == {"bad_json": {"-": 1}}


def test_an_earlier_block_that_cannot_be_written_names_its_turn(load: Callable[..., Loader], wav: str) -> None:
    history = [{"role": "user", "wav": wav, "txt": "one", "emotion": "hapy"}, {"role": "assistant", "txt": "two"}]
    loader = load([row("asr", wav), row("s2t_think", wav, key="b", history=history)], max_drop=1.0)
    list(loader)
    assert "turn 0 of 'history'" in loader.tally.table() and list(loader.drops) == ["unknown_label"]
