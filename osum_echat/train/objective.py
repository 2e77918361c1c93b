"""What is minimised and what dev is scored by: joint cross-entropy with CTC on the encoder (EChat), CTC alone (speech tokenizer).

Those of token2wav are in objective_token2wav.py.

Shape suffixes: T packed joint positions, D width, V text vocabulary, K speech outputs, E packed CTC frames, C classes. Sums and counts
only: the trainer divides once by the global counts.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, NamedTuple, Protocol

import torch
from rapidfuzz.distance import Levenshtein

from osum_echat.data.batch import Batch
from osum_echat.losses import ctc_loss, distillation_kl, joint_cross_entropy, score_positions
from osum_echat.model.echat import EChat
from osum_echat.token2wav.speech_tokenizer import SpeechTokenizer


class TrainBatch(Protocol):
    """What the trainer needs to know of a batch (osum_echat.data.batch.Batch is one)."""

    @property
    def num_positions(self) -> int: ...
    @property
    def num_supervised(self) -> int: ...
    @property
    def num_ctc(self) -> int: ...
    @property
    def keys(self) -> list[str]: ...
    @property
    def tasks(self) -> list[str]: ...

    def to(self, device: torch.device) -> Any: ...


class LossSums(NamedTuple):
    """Summed losses of a micro-batch: over what ``num_supervised`` counts (cross-entropy over positions, or a model's own loss), and over
    utterances with a CTC transcript. ``parts`` are further sums of the first kind without gradient, for the log alone."""

    ce: torch.Tensor
    ctc: torch.Tensor
    parts: tuple[torch.Tensor, ...] = ()


class Objective(Protocol):
    """The two things the trainer asks about a model."""

    ctc_weight: float
    names: tuple[str, ...]  # what the log calls ``LossSums.ce``, and each of the parts

    def losses(self, model: Any, batch: Any) -> LossSums:
        """Differentiable sums."""

    def scores(self, model: Any, batch: Any) -> dict[str, torch.Tensor]:
        """Per task, on the device, [loss sum, correct tokens, tokens], or [loss sum, count] of a model that has no right and wrong."""


class EChatObjective:
    """Cross-entropy over the joint vocabulary at supervised positions, CTC when the model has that branch, and self-distillation: the reply
    with a think block teaches the reply without (arXiv:2508.09600, stage 3)."""

    def __init__(self, ctc_weight: float = 0.0, distill_weight: float = 0.0) -> None:
        self.ctc_weight = ctc_weight
        self.distill_weight = distill_weight
        self.names: tuple[str, ...] = ("ce_and_kl", "kl") if distill_weight else ("ce",)

    def losses(self, model: EChat, batch: Batch) -> LossSums:
        """Differentiable sums."""
        output, head = model(batch), model.head_weights()
        ce, _ = joint_cross_entropy(output.hidden_TD, batch.labels_T, head.text_VD, head.speech_CD, head.speech_bias_C)
        parts: tuple[torch.Tensor, ...] = ()
        if self.distill_weight:
            kl, _ = distillation_kl(output.hidden_TD, batch.twins_P2, batch.labels_T, head.text_VD, head.speech_CD, head.speech_bias_C)
            ce, parts = ce + self.distill_weight * kl, (kl.detach(),)
        if output.ctc_logits_EC is None:
            return LossSums(ce, torch.zeros_like(ce), parts)
        ctc, _ = ctc_loss(output.ctc_logits_EC, output.encoder_lens, batch.ctc_ids, batch.ctc_lens_B)
        return LossSums(ce, ctc, parts)

    def scores(self, model: EChat, batch: Batch) -> dict[str, torch.Tensor]:
        """Per task [cross-entropy sum, correct tokens, tokens]; sequences of several tasks may share the batch."""
        head = model.head_weights()
        hidden_TD = model(batch).hidden_TD
        loss_R, correct_R, index_R = score_positions(hidden_TD, batch.labels_T, head.text_VD, head.speech_CD, head.speech_bias_C)
        names = sorted(set(batch.tasks))
        task_of_sequence = torch.tensor([names.index(task) for task in batch.tasks], device=index_R.device)
        sequence_R = torch.searchsorted(batch.cu_seqlens[1:].long(), index_R, right=True)
        sums = torch.zeros(len(names), 3, device=index_R.device)
        sums.index_add_(0, task_of_sequence[sequence_R], torch.stack([loss_R, correct_R.float(), torch.ones_like(loss_R)], dim=1))
        return dict(zip(names, sums, strict=True))


class SpeechTokenizerObjective:
    """CTC behind the codebook, and the loss of a codebook that has one."""

    ctc_weight = 1.0
    names: tuple[str, ...] = ("ce",)

    def losses(self, model: SpeechTokenizer, batch: Batch) -> LossSums:
        """Differentiable sums. The codebook's is a mean; times the bytes of the batch it survives the division by all bytes as one."""
        output = model(batch.mel_BFM, batch.mel_lens_B.tolist())
        ctc, count = ctc_loss(output.ctc_logits_EC, output.ctc_lens, batch.ctc_ids, batch.ctc_lens_B)
        return LossSums(torch.zeros_like(ctc), ctc + output.codebook_loss * count)

    def scores(self, model: SpeechTokenizer, batch: Batch) -> dict[str, torch.Tensor]:
        """Per task [CTC sum, bytes without the edits to the likeliest path, bytes]: the accuracy is 1 - byte error rate."""
        output = model(batch.mel_BFM, batch.mel_lens_B.tolist())
        logits = output.ctc_logits_EC.split(list(output.ctc_lens))
        targets = batch.ctc_ids.split(batch.ctc_lens_B.tolist())
        sums: dict[str, torch.Tensor] = {}
        for task, logits_EC, length, ids in zip(batch.tasks, logits, output.ctc_lens, targets, strict=True):
            ctc, count = ctc_loss(logits_EC, [length], ids, torch.tensor([len(ids)]))
            edits = Levenshtein.distance(best_path(logits_EC), ids.tolist())
            score = torch.stack([ctc, (count - edits).to(ctc), count.to(ctc)])
            sums[task] = sums[task] + score if task in sums else score
        return sums


def best_path(logits_EC: torch.Tensor) -> list[int]:
    """CTC's likeliest classes: repetitions joined, blanks (the last class) taken out."""
    return [label for label, _ in groupby(logits_EC.argmax(1).tolist()) if label != logits_EC.shape[1] - 1]
