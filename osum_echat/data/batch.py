"""``Batch``: sequences packed one behind the other, no padding; the planners that fill batches up to a budget.

Shape suffixes: T packed joint positions, B audio spans (rows of mel_BFM), F mel frames, M mel bins. Attention must not cross the borders in
``cu_seqlens``; only the log-mel is padded (with zeros), which the encoder never looks at. Packing is best-fit decreasing
(https://en.wikipedia.org/wiki/Best-fit_bin_packing).
"""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor

from osum_echat.audio.features import HOP, SAMPLE_RATE, num_adapter_frames, num_encoder_frames
from osum_echat.tasks.sequence import Sequence
from osum_echat.text.vocab import IGNORE


@dataclass(frozen=True)
class Batch:
    """What a model's forward takes. ``labels_T[t]`` is the id to predict *from* position t; sequences end with IGNORE.

    ``audio_slots_T`` lists the positions of ``ids_T`` that the concatenated adapter frames of the mel rows fill, in order.
    ``ctc_lens_B`` gives the number of ``ctc_ids`` of each mel row, 0 for a row without transcript. ``twins_P2`` pairs the positions from
    which a teacher and its student predict the same id of their reply.
    """

    ids_T: Tensor
    labels_T: Tensor
    positions_T: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    mel_BFM: Tensor
    mel_lens_B: Tensor
    audio_slots_T: Tensor
    ctc_ids: Tensor
    ctc_lens_B: Tensor
    keys: list[str]
    tasks: list[str]
    num_supervised: int
    num_ctc: int
    num_audio_seconds: float
    twins_P2: Tensor = field(default_factory=lambda: torch.zeros(0, 2, dtype=torch.long))

    @property
    def num_positions(self) -> int:
        """What counts towards ``train.max_tokens``."""
        return len(self.ids_T)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same batch with its tensors on ``device``."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: tensor.to(device, non_blocking=non_blocking) for name, tensor in tensors.items()})


def collate(sequences: SequenceOf[Sequence], mels: SequenceOf[Tensor], num_mels: int = 80, students: SequenceOf[int] = ()) -> Batch:
    """Packs sequences in the given order; ``mels`` holds one (F, M) log-mel per audio span, spans in sequence order.

    ``num_mels`` is only asked for when there is no audio at all. ``students`` are the places of sequences whose teacher stands right before
    them; all that a student learns is the end of what its teacher learns.
    """
    lengths = np.array([len(sequence.ids) for sequence in sequences], dtype=np.int64)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    ids_T = np.concatenate([sequence.ids for sequence in sequences])
    labels_T = np.concatenate([sequence.labels for sequence in sequences])
    shifted_T = np.append(labels_T[1:], IGNORE)
    shifted_T[ends - 1] = IGNORE
    slots = [
        np.arange(start + span.start, start + span.start + span.num_slots)
        for start, sequence in zip(starts, sequences, strict=True)
        for span in sequence.audio
    ]
    _check_slots(sequences, mels)
    ctc, ctc_lens_B = _ctc_targets(sequences)
    mel_BFM, mel_lens_B = pad_mels(mels, num_mels)
    return Batch(
        ids_T=torch.from_numpy(ids_T),
        labels_T=torch.from_numpy(shifted_T),
        positions_T=torch.from_numpy(np.arange(len(ids_T)) - np.repeat(starts, lengths)),
        cu_seqlens=torch.from_numpy(np.append(0, ends).astype(np.int32)),
        max_seqlen=int(lengths.max()),
        mel_BFM=mel_BFM,
        mel_lens_B=mel_lens_B,
        audio_slots_T=torch.from_numpy(np.concatenate(slots) if slots else np.zeros(0, dtype=np.int64)),
        ctc_ids=torch.from_numpy(ctc),
        ctc_lens_B=torch.from_numpy(ctc_lens_B),
        keys=[sequence.key for sequence in sequences],
        tasks=[sequence.task for sequence in sequences],
        num_supervised=int((shifted_T != IGNORE).sum()),
        num_ctc=len(ctc),
        num_audio_seconds=float(mel_lens_B.sum()) * HOP / SAMPLE_RATE,
        twins_P2=_twins(sequences, ends, students),
    )


def _twins(sequences: SequenceOf[Sequence], ends: np.ndarray, students: SequenceOf[int]) -> Tensor:
    """(P, 2) positions of teacher and student that predict the same id."""
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    for place in students:
        teacher, student = sequences[place - 1], sequences[place]
        length = student.num_supervised
        if not length or teacher.ids[-length:].tolist() != student.ids[-length:].tolist():
            raise ValueError(f"key {student.key}: the reply of {student.task} is not the end of {teacher.task}")
        before_last = np.arange(-length - 1, -1)
        pairs.append(np.stack([ends[place - 1] + before_last, ends[place] + before_last], axis=1))
    return torch.from_numpy(np.concatenate(pairs))


def pad_mels(mels: SequenceOf[Tensor], num_mels: int) -> tuple[Tensor, Tensor]:
    """(B, F, M) zero-padded log-mels and their lengths; (0, 0, M) for none."""
    if not mels:
        return torch.zeros(0, 0, num_mels), torch.zeros(0, dtype=torch.long)
    lens_B = torch.tensor([len(mel_FM) for mel_FM in mels])
    return torch.nn.utils.rnn.pad_sequence(list(mels), batch_first=True), lens_B


def pack(lengths: SequenceOf[int], seconds: SequenceOf[float], max_tokens: int, max_seconds: float | None = None) -> list[list[int]]:
    """Best-fit decreasing: indices grouped into bins that hold at most ``max_tokens`` positions and ``max_seconds`` of audio.

    An item that alone exceeds a bound gets a bin of its own.
    """
    capacity_seconds = np.inf if max_seconds is None else max_seconds
    room = np.zeros(len(lengths), dtype=np.int64)
    room_seconds = np.zeros(len(lengths))
    bins: list[list[int]] = []
    for index in np.argsort(-np.asarray(lengths), kind="stable"):
        left = room[: len(bins)] - lengths[index]
        fits = np.flatnonzero((left >= 0) & (room_seconds[: len(bins)] >= seconds[index]))
        if len(fits):
            chosen = int(fits[np.argmin(left[fits])])
        else:
            chosen = len(bins)
            bins.append([])
            room[chosen], room_seconds[chosen] = max_tokens, capacity_seconds
        bins[chosen].append(int(index))
        room[chosen] -= lengths[index]
        room_seconds[chosen] -= seconds[index]
    return bins


def pack_padded(lengths: SequenceOf[int], seconds: SequenceOf[float], max_tokens: int, max_seconds: float | None = None) -> list[list[int]]:
    """The same for rows that are padded to the longest of their bin, padding included in ``max_tokens``: neighbours in length together."""
    bins: list[list[int]] = []
    total_seconds = 0.0
    for index in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        longest = lengths[bins[-1][0]] if bins else 0
        full = not bins or (len(bins[-1]) + 1) * longest > max_tokens
        if full or (max_seconds is not None and total_seconds + seconds[index] > max_seconds):
            bins.append([])
            total_seconds = 0.0
        bins[-1].append(index)
        total_seconds += seconds[index]
    return bins


def _check_slots(sequences: SequenceOf[Sequence], mels: SequenceOf[Tensor]) -> None:
    spans = [(sequence.key, span) for sequence in sequences for span in sequence.audio]
    if len(spans) != len(mels):
        raise ValueError(f"{len(spans)} audio spans but {len(mels)} log-mels")
    for (key, span), mel_FM in zip(spans, mels, strict=True):
        frames = num_adapter_frames(num_encoder_frames(len(mel_FM)))
        if frames != span.num_slots:
            raise ValueError(f"key {key}: {span.num_slots} audio slots for {len(mel_FM)} mel frames, which give {frames} adapter frames")


def _ctc_targets(sequences: SequenceOf[Sequence]) -> tuple[np.ndarray, np.ndarray]:
    """Transcripts for the CTC branch. They belong to a sequence's last audio span: earlier ones are history."""
    targets = [sequence.ctc_ids for sequence in sequences if len(sequence.audio)]
    lens = [[0] * (len(sequence.audio) - 1) + [len(sequence.ctc_ids)] for sequence in sequences if len(sequence.audio)]
    flat = np.array([length for row in lens for length in row], dtype=np.int64)
    return (np.concatenate(targets).astype(np.int64) if targets else np.zeros(0, dtype=np.int64)), flat
