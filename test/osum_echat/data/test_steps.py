"""Every way an utterance can leave the list has its name, and every random choice depends on (seed, epoch, key, copy) alone."""

import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from osum_echat.audio.io import encode_pcm16
from osum_echat.config import AugmentConfig, ConvertConfig, DataConfig, FilterConfig
from osum_echat.data.source import Drop
from osum_echat.data.steps import Example, Limits, Preparer, SequenceEncoder, augment
from osum_echat.utterance import Utterance

NOISE = encode_pcm16(np.random.default_rng(0).standard_normal(16000) * 0.1)
GOOD = Utterance("u", "asr_emotion", txt="red cat", emotion="happy", audio=NOISE, origin="data.list:3")

Make = Callable[..., Preparer]


@pytest.fixture
def preparer(encoder: SequenceEncoder, data_config: Callable[..., DataConfig]) -> Make:
    def make(max_tokens: int = 400, seed: int = 1, epoch: int = 0, train: bool = True, **changes: object) -> Preparer:
        return Preparer(data_config(**changes), encoder, Limits(max_tokens), seed, epoch, train)

    return make


def kept(result: Example | Drop) -> Example:
    assert isinstance(result, Example), result
    return result


def test_a_good_utterance_is_laid_out_and_lets_its_audio_go(preparer: Make) -> None:
    example = kept(preparer().prepare(GOOD))
    assert (example.sequences[0].key, example.sequences[0].task, example.seconds) == ("u", "asr_emotion", 1.0)
    assert [mel_FM.shape for mel_FM in example.mels] == [(100, 80)] and example.sequences[0].audio[0].num_slots == 13
    assert example.sequences[0].audio[0].waveform_S.size == 0
    assert example.length == len(example.sequences[0].ids)


BAD = encode_pcm16(np.ones(16000) * 0.1)[:8000]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"audio": None, "wav": "/nowhere.wav"}, "missing_audio"),
        ({"audio": None}, "missing_audio"),
        ({"audio": b""}, "empty_audio"),
        ({"audio": BAD}, "corrupt_audio"),
        ({"audio": encode_pcm16(np.ones(800) * 0.1)}, "too_short"),  # 0.05 s
        ({"audio": encode_pcm16(np.ones(16000 * 6) * 0.1)}, "too_long"),
        ({"emotion": None}, "missing_label"),
        ({"emotion": "hapy?"}, "unknown_label"),
        ({"task": "asr_emotoin"}, "unknown_task"),
        ({"txt": "red " * 30}, "text_too_long"),
        ({"audio": encode_pcm16(np.ones(16000 * 4) * 0.1), "txt": "red " * 5}, "sequence_too_long"),
    ],
)
def test_every_way_out_is_named(preparer: Make, changes: dict[str, object], reason: str) -> None:
    bounds = FilterConfig(max_seconds=5.0, max_text_tokens=20, max_sequence=70)
    drop = preparer(filter=bounds).prepare(replace(GOOD, **changes))
    assert isinstance(drop, Drop) and drop.reason == reason, drop
    assert drop.key == "u" and "data.list:3" in drop.message and "u" in drop.message


def test_what_no_batch_can_hold_is_dropped(preparer: Make) -> None:
    drop = preparer(max_tokens=20).prepare(GOOD)
    assert isinstance(drop, Drop) and drop.reason == "sequence_too_long" and "train.max_tokens is 20" in drop.message


def test_text_only_tasks_do_not_open_audio(preparer: Make) -> None:
    example = kept(preparer().prepare(Utterance("t", "t2t", wav="/nowhere.wav", question="red", txt="blue")))
    assert example.mels == () and example.seconds == 0.0


def test_conversion_is_drawn_while_training_only(preparer: Make) -> None:
    convert = [ConvertConfig(from_="asr_emotion", to="emotion", rate=0.5)]
    tasks = [kept(preparer(convert=convert).prepare(replace(GOOD, key=f"u{i}"))).sequences[0].task for i in range(60)]
    assert 15 < tasks.count("emotion") < 45 and set(tasks) == {"emotion", "asr_emotion"}
    assert tasks == [kept(preparer(convert=convert).prepare(replace(GOOD, key=f"u{i}"))).sequences[0].task for i in range(60)]
    assert (
        kept(preparer(convert=[convert[0].model_copy(update={"rate": 1.0})], train=False).prepare(GOOD)).sequences[0].task == "asr_emotion"
    )


AUGMENT = AugmentConfig(speed=[0.9, 1.0, 1.1], noise_snr_db=(5.0, 20.0), volume_db=(-6.0, 6.0), spec_time_masks=1, spec_freq_masks=1)


def test_augmentation_depends_on_seed_epoch_key_and_copy(preparer: Make) -> None:
    def mel(key: str = "u", copy: int = 0, **changes: int) -> torch.Tensor:
        return kept(preparer(augment=AUGMENT, **changes).prepare(replace(GOOD, key=key), copy)).mels[0]

    first = mel()
    assert torch.equal(first, mel())
    others = [mel(seed=2), mel(epoch=1), mel(key="v"), mel(copy=1)]
    assert not any(other.shape == first.shape and torch.equal(other, first) for other in others)
    clean = kept(preparer().prepare(GOOD)).mels[0]
    assert torch.equal(kept(preparer(augment=AUGMENT, train=False).prepare(GOOD)).mels[0], clean)


def test_word_times_follow_the_speed() -> None:
    utterance = Utterance("u", waveform_S=np.zeros(16000, dtype=np.float32), words=(("a", 0.5, 1.0),))
    faster = augment(utterance, AugmentConfig(speed=[2.0]), np.random.default_rng(0))
    assert faster.words == (("a", 0.25, 0.5),) and faster.waveform_S is not None and len(faster.waveform_S) == 8000


def test_the_encoder_travels_without_its_tools(encoder: SequenceEncoder) -> None:
    utterance = replace(GOOD, waveform_S=np.zeros(8000, dtype=np.float32))
    before = encoder.sequence(utterance, None)
    copy = pickle.loads(pickle.dumps(encoder))
    assert len(pickle.dumps(encoder)) < 2000
    np.testing.assert_array_equal(copy.sequence(utterance, None).ids, before.ids)
