"""What flow and vocoder training share: the voice of a row at the mel's rate, and what a batch knows of its rows.

The voice is ``answer_wav``, the speech of the assistant; a row without one gives its ``wav`` (a corpus of plain recordings).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from osum_echat.audio.io import read_audio
from osum_echat.errors import DataError
from osum_echat.utterance import Utterance


@dataclass(frozen=True)
class RowBatch:
    """Base of the batches: names of the rows, and the seeds of all that the model draws for them."""

    keys: list[str]
    tasks: list[str]
    seeds: list[int]

    @property
    def num_ctc(self) -> int:
        """Nothing is learned by CTC."""
        return 0

    def generators(self) -> list[torch.Generator]:
        """A fresh one for each row: what is drawn does not depend on the rows beside it, or on which process draws it."""
        return [torch.Generator().manual_seed(seed) for seed in self.seeds]

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on ``device``."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})


def draw_seed(rng: np.random.Generator) -> int:
    """A seed for torch."""
    return int(rng.integers(2**63))


def sums_by_task(tasks: Sequence[str], values_BN: Tensor) -> dict[str, Tensor]:
    """Rows of a dev batch added up by task."""
    sums: dict[str, Tensor] = {}
    for task, values_N in zip(tasks, values_BN, strict=True):
        sums[task] = sums[task] + values_N if task in sums else values_N
    return sums


def read_voice(utterance: Utterance, rate: int) -> np.ndarray:
    """Samples at ``rate``; DataError missing_audio and those of audio/io.py."""
    if utterance.answer_wav is not None:
        return read_audio(utterance.answer_wav, rate=rate)
    source = utterance.audio if utterance.audio is not None else utterance.wav
    if source is None:
        raise DataError("neither 'answer_wav' nor 'wav': there is no voice to learn", "missing_audio")
    return read_audio(source, utterance.start, utterance.end, rate)
