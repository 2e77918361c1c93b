"""Packing: every field of a batch against a slow reading of the sequences, and best-fit bins within their budget."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from osum_echat.audio.features import num_adapter_frames, num_encoder_frames
from osum_echat.data.batch import Batch, collate, pack
from osum_echat.tasks.sequence import AudioSpan, Sequence
from osum_echat.text.vocab import IGNORE

NOTHING = np.zeros(0, dtype=np.float32)


def sequence(key: str, ids: list[int], learned: int, spans: list[tuple[int, int]] | None = None, ctc: list[int] | None = None) -> Sequence:
    """The last ``learned`` ids are supervised; spans are (start, mel frames)."""
    labels = [IGNORE] * (len(ids) - learned) + ids[len(ids) - learned :]
    audio = tuple(AudioSpan(start, num_adapter_frames(num_encoder_frames(frames)), NOTHING) for start, frames in spans or [])
    return Sequence(np.array(ids), np.array(labels), audio, np.array(ctc or [], dtype=np.int64), key, "asr")


def example() -> tuple[Batch, list[torch.Tensor]]:
    sequences = [
        sequence("a", list(range(10, 20)), 3, [(2, 9)], [5, 6]),
        sequence("text", [7, 8, 9], 2),
        sequence("two", list(range(30, 42)), 4, [(1, 8), (6, 5)], [4]),
        sequence("silent", list(range(50, 58)), 1, [(3, 4)]),
    ]
    mels = [torch.randn(frames, 80) for frames in (9, 8, 5, 4)]
    return collate(sequences, mels), mels


def test_labels_are_shifted_within_their_sequence() -> None:
    batch, _ = example()
    assert batch.labels_T[:10].tolist() == [IGNORE] * 6 + [17, 18, 19, IGNORE]
    assert batch.labels_T[10:13].tolist() == [8, 9, IGNORE]
    assert batch.num_supervised == 3 + 2 + 4 + 1
    assert batch.cu_seqlens.dtype == torch.int32 and batch.cu_seqlens.tolist() == [0, 10, 13, 25, 33]
    assert batch.max_seqlen == 12
    assert batch.positions_T.tolist() == [*range(10), *range(3), *range(12), *range(8)]
    assert batch.ids_T.tolist() == [*range(10, 20), 7, 8, 9, *range(30, 42), *range(50, 58)]


def test_a_supervised_first_id_is_not_predicted_from_the_neighbour() -> None:
    batch = collate([sequence("a", [1, 2], 2), sequence("b", [3, 4], 2)], [])
    assert batch.labels_T.tolist() == [2, IGNORE, 4, IGNORE] and batch.num_supervised == 2


def test_slots_mels_and_ctc_follow_the_spans() -> None:
    batch, mels = example()
    assert batch.audio_slots_T.tolist() == [2, 3, 14, 19, 28]
    assert batch.mel_lens_B.tolist() == [9, 8, 5, 4] and batch.mel_BFM.shape == (4, 9, 80)
    for row, mel_FM in enumerate(mels):
        assert torch.equal(batch.mel_BFM[row, : len(mel_FM)], mel_FM) and not batch.mel_BFM[row, len(mel_FM) :].any()
    assert (batch.ctc_ids.tolist(), batch.ctc_lens_B.tolist(), batch.num_ctc) == ([5, 6, 4], [2, 0, 1, 0], 3)
    assert batch.num_audio_seconds == pytest.approx(0.26)


def test_a_batch_without_audio_has_empty_rows() -> None:
    batch = collate([sequence("t", [1, 2, 3], 2, ctc=[1])], [], num_mels=128)
    assert batch.mel_BFM.shape == (0, 0, 128) and len(batch.audio_slots_T) == 0 and len(batch.ctc_ids) == 0 and batch.num_ctc == 0
    assert batch.audio_slots_T.dtype == batch.ctc_lens_B.dtype == torch.long


def test_slots_that_do_not_fit_the_mel_are_refused() -> None:
    with pytest.raises(ValueError, match="key a: 2 audio slots for 20 mel frames"):
        collate([sequence("a", list(range(9)), 1, [(1, 9)])], [torch.zeros(20, 80)])
    with pytest.raises(ValueError, match="1 audio spans but 0 log-mels"):
        collate([sequence("a", list(range(9)), 1, [(1, 9)])], [])


def test_to_moves_tensors_only() -> None:
    batch, _ = example()
    moved = batch.to("meta")
    assert moved.ids_T.device.type == moved.mel_BFM.device.type == "meta" and moved.keys == batch.keys and moved.max_seqlen == 12


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 100), st.floats(0.0, 30.0)), min_size=1, max_size=60))
def test_bins_hold_everything_once_within_both_budgets(items: list[tuple[int, float]]) -> None:
    lengths, seconds = [i[0] for i in items], [i[1] for i in items]
    bins = pack(lengths, seconds, 100, 30.0)
    assert sorted(i for chosen in bins for i in chosen) == list(range(len(items)))
    assert all(sum(lengths[i] for i in chosen) <= 100 and sum(seconds[i] for i in chosen) <= 30.0 + 1e-6 for chosen in bins)


def test_best_fit_takes_the_fullest_bin_that_still_fits() -> None:
    assert pack([60, 50, 40, 30, 20], [0.0] * 5, 100) == [[0, 2], [1, 3, 4]]
    assert pack([70, 60, 30], [0.0] * 3, 100) == [[0, 2], [1]]
    assert pack([250, 10], [0.0] * 2, 100) == [[0], [1]]


def test_random_lengths_fill_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(20, 200, 512).tolist()
    bins = pack(lengths, [0.0] * 512, 2800)
    assert sum(lengths) / (len(bins) * 2800) > 0.97
