"""Losses of training: joint cross-entropy at supervised positions, CTC, self-distillation, and the accuracy shown in logs: (sum, count).

The joint cross-entropy compares a text id with the text ids and a speech id with the speech ids: in decoding the schedule says whose turn
it is, and only the head of that sort is asked. So a speech token never costs the columns of the text vocabulary, nor the other way round.
(The reference code has one softmax over both for tasks that speak.) The full (T, V) logits of 2,800 positions and 156,033 classes would
take gigabytes several times over; here a head is applied only where it has a label, a chunk of rows at a time, and the gradients are
formed in the same pass while the chunk's logits are in memory: no full logits, no recomputation.

Shape legend: T packed positions, R rows with a label of one sort, D width, V text classes (or classes of a head), C speech classes,
E packed encoder frames, B utterances.

Left out: label smoothing.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from osum_echat.text.vocab import IGNORE

_CHUNK_BYTES = 96 << 20  # of logits in memory at a time; fewer, larger chunks gain little, the weight gradient is the bulk
# Of a weight matrix in the compute dtype, or of logits in float32, at a time: small enough for a CPU's caches, large enough to fill a GPU.
_SLICE_ELEMENTS = {"cpu": 2 << 20, "cuda": 64 << 20}


class _Scratch:
    """Buffers that live through one call: fresh memory for every slice would cost more in page faults than the slice in arithmetic."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def get(self, name: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[name] = torch.empty(size, dtype=dtype, device=device)
        return buffer[:size].view(*shape)


class _Head:
    """An output layer seen as slices of rows, so that no second tensor of the size of the weight ever exists.

    Gradient sums are None where a weight is frozen.
    """

    def __init__(self, weight_VD: Tensor, bias_V: Tensor | None, need_weight: bool, need_bias: bool) -> None:
        self.weight_VD, self.bias_V = weight_VD, bias_V
        self.grad_VD = torch.empty_like(weight_VD) if need_weight else None
        self.grad_bias_V = torch.zeros_like(weight_VD[:, 0], dtype=torch.float32) if need_bias else None
        self.scratch = _Scratch()
        self._fresh = True  # the gradient of the weight holds garbage until the first chunk has written it

    def _slices(self) -> Iterator[slice]:
        """Rows of the weight, which are columns of the logits."""
        step = max(1, _SLICE_ELEMENTS[self.weight_VD.device.type] // self.weight_VD.shape[1])
        for start in range(0, self.weight_VD.shape[0], step):
            yield slice(start, start + step)

    def _cast(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        if weight.dtype == dtype:
            return weight
        return self.scratch.get("weight", weight.shape, dtype, weight.device).copy_(weight)

    def logits(self, rows_RD: Tensor, out_RV: Tensor) -> None:
        for columns in self._slices():
            torch.mm(rows_RD, self._cast(self.weight_VD[columns], rows_RD.dtype).t(), out=out_RV[:, columns])
        if self.bias_V is not None:
            out_RV += self.bias_V.to(out_RV.dtype)

    def backward(self, grad_RV: Tensor, rows_RD: Tensor, grad_rows_RD: Tensor | None) -> None:
        """Adds to the gradient sums of the weights and to ``grad_rows_RD`` (float32)."""
        for columns in self._slices():
            piece = grad_RV[:, columns]
            if grad_rows_RD is not None:
                product = self.scratch.get("rows", rows_RD.shape, piece.dtype, piece.device)
                grad_rows_RD += torch.mm(piece, self._cast(self.weight_VD[columns], piece.dtype), out=product)
            if self.grad_VD is not None:
                self._add_weight_gradient(self.grad_VD[columns], piece, rows_RD)
        self._fresh = False
        if self.grad_bias_V is not None:
            self.grad_bias_V += grad_RV.sum(0, dtype=torch.float32)

    def _add_weight_gradient(self, grad: Tensor, piece: Tensor, rows_RD: Tensor) -> None:
        if grad.dtype == piece.dtype:
            grad.addmm_(piece.t(), rows_RD, beta=0.0 if self._fresh else 1.0)
            return
        product = torch.mm(piece.t(), rows_RD, out=self.scratch.get("product", grad.shape, piece.dtype, piece.device))
        if self._fresh:
            grad.copy_(product)
        else:
            grad += product

    def gradients(self) -> tuple[Tensor | None, Tensor | None]:
        if self._fresh and self.grad_VD is not None:
            self.grad_VD.zero_()
        return self.grad_VD, None if self.grad_bias_V is None else self.grad_bias_V.to(self.weight_VD.dtype)


def _softmax_minus_target_(logits_RV: Tensor, targets_R: Tensor, scratch: _Scratch) -> Tensor:
    """Returns the summed loss and turns logits into its gradient in place, in float32 slices."""
    loss = torch.zeros((), dtype=torch.float32, device=logits_RV.device)
    step = max(1, _SLICE_ELEMENTS[logits_RV.device.type] // logits_RV.shape[1])
    for start in range(0, logits_RV.shape[0], step):
        piece = logits_RV[start : start + step]
        targets = targets_R[start : start + step].unsqueeze(1)
        wide = scratch.get("logits", piece.shape, torch.float32, piece.device).copy_(piece)
        wide.sub_(wide.amax(1, keepdim=True))
        chosen = wide.gather(1, targets)
        total = wide.exp_().sum(1, keepdim=True)
        loss += (total.log() - chosen).sum()
        wide.div_(total).scatter_add_(1, targets, torch.full_like(chosen, -1.0))
        piece.copy_(wide)
    return loss


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows_RD: Tensor, targets_R: Tensor, weight_VD: Tensor, bias_V: Tensor | None, dtype: torch.dtype, chunk: int | None
    ) -> Tensor:
        need_rows, _, need_weight, need_bias, *_ = ctx.needs_input_grad
        head = _Head(weight_VD, bias_V, need_weight, need_bias)
        grad_RD = torch.zeros_like(rows_RD, dtype=torch.float32) if need_rows else None
        num_classes = weight_VD.shape[0]
        chunk = chunk or max(16, _CHUNK_BYTES * 8 // (num_classes * torch.finfo(dtype).bits))
        buffer = torch.empty(min(chunk, rows_RD.shape[0]), num_classes, dtype=dtype, device=rows_RD.device)
        loss = torch.zeros((), dtype=torch.float32, device=rows_RD.device)
        for start in range(0, rows_RD.shape[0], chunk):
            rows = rows_RD[start : start + chunk].to(dtype)
            logits_RV = buffer[: rows.shape[0]]
            head.logits(rows, logits_RV)
            loss += _softmax_minus_target_(logits_RV, targets_R[start : start + chunk], head.scratch)
            head.backward(logits_RV, rows, None if grad_RD is None else grad_RD[start : start + chunk])
        ctx.grads = (None if grad_RD is None else grad_RD.to(rows_RD.dtype), *head.gradients())
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("joint_cross_entropy: its gradients are handed out once; a second backward needs a second forward")
        rows, weight, bias = (None if grad is None else grad.mul_(grad_outputs[0]) for grad in ctx.grads)
        ctx.grads = None
        return rows, None, weight, bias, None, None


def _by_sort(
    labels_T: Tensor, text_VD: Tensor, speech_CD: Tensor, speech_bias_C: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """For text and for speech: (places in T, targets as the head numbers them, weight, bias)."""
    num_text = text_VD.shape[0]
    text_R = ((labels_T != IGNORE) & (labels_T < num_text)).nonzero().squeeze(1)
    speech_R = (labels_T >= num_text).nonzero().squeeze(1)
    yield text_R, labels_T.index_select(0, text_R), text_VD, None
    yield speech_R, labels_T.index_select(0, speech_R) - num_text, speech_CD, speech_bias_C


def joint_cross_entropy(
    hidden_TD: Tensor, labels_T: Tensor, text_VD: Tensor, speech_CD: Tensor, speech_bias_C: Tensor, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of joint ids, each among those of its sort, at the positions whose label is not IGNORE.

    Args:
        hidden_TD: final hidden states; labels_T: joint output ids, already shifted (labels_T[t] is predicted from hidden_TD[t]).
        text_VD, speech_CD, speech_bias_C: the heads; those that do not require gradients cost nothing in backward.
        chunk: rows of logits in memory at a time; None picks it from the memory of a row.
    Returns:
        (float32 sum of the losses, number of supervised positions as an int64 tensor). Under autocast the products run in its dtype.
    """
    if labels_T.shape != hidden_TD.shape[:1]:
        raise ValueError(f"joint_cross_entropy: {hidden_TD.shape[0]} hidden states but labels {tuple(labels_T.shape)}")
    kind = hidden_TD.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_TD.dtype
    losses, count = [], 0
    with torch.autocast(kind, enabled=False):
        for index_R, targets_R, weight_VD, bias_V in _by_sort(labels_T, text_VD, speech_CD, speech_bias_C):
            losses.append(_HeadCrossEntropy.apply(hidden_TD.index_select(0, index_R), targets_R, weight_VD, bias_V, dtype, chunk))
            count += index_R.shape[0]
    return losses[0] + losses[1], torch.tensor(count, device=labels_T.device)


def distillation_kl(
    hidden_TD: Tensor,
    twins_P2: Tensor,
    labels_T: Tensor,
    text_VD: Tensor,
    speech_CD: Tensor,
    speech_bias_C: Tensor,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) of the next id, each among those of its sort (https://arxiv.org/abs/1503.02531, temperature 1).

    Args:
        hidden_TD: final hidden states; twins_P2: places in T of teacher and student; labels_T: shifted labels, which tell the sort.
        text_VD, speech_CD, speech_bias_C: the heads. The teacher's side gives no gradient, neither to hidden states nor to heads.
        chunk: rows whose logits are in memory at a time, formed again in backward; None picks it from the memory of a row.
    Returns:
        (float32 sum, number of pairs).
    """
    teacher_P, student_P = twins_P2.unbind(1)
    total = hidden_TD.new_zeros((), dtype=torch.float32)
    for index_R, _, weight_VD, bias_V in _by_sort(labels_T.index_select(0, student_P), text_VD, speech_CD, speech_bias_C):
        step = chunk or max(16, _CHUNK_BYTES // (8 * weight_VD.shape[0]))
        for rows in index_R.split(step):
            pair = hidden_TD.index_select(0, teacher_P[rows]).detach(), hidden_TD.index_select(0, student_P[rows])
            total = total + checkpoint(_kl_of_rows, *pair, weight_VD, bias_V, use_reentrant=False)
    return total, torch.tensor(len(twins_P2), device=twins_P2.device)


def _kl_of_rows(teacher_RD: Tensor, student_RD: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> Tensor:
    with torch.no_grad():  # detached weights: autocast would keep a copy made here for the student, whose gradient would end at it
        frozen = weight_VD.detach(), None if bias_V is None else bias_V.detach()
        teacher_RV = F.log_softmax(F.linear(teacher_RD, *frozen).float(), -1)
    student_RV = F.log_softmax(F.linear(student_RD, weight_VD, bias_V).float(), -1)
    return F.kl_div(student_RV, teacher_RV, reduction="sum", log_target=True)


@torch.no_grad()
def score_positions(
    hidden_TD: Tensor, labels_T: Tensor, text_VD: Tensor, speech_CD: Tensor, speech_bias_C: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """For dev sets, without gradients: (loss_R, correct_R, index_R), one entry a supervised position; ``index_R`` are its places in T.

    ``correct_R`` is whether the likeliest id of its sort is the label: the token accuracy is its mean.
    """
    loss_T = torch.zeros(labels_T.shape, device=hidden_TD.device)
    correct_T = torch.zeros(labels_T.shape, dtype=torch.bool, device=hidden_TD.device)
    for index_R, targets_R, weight_VD, bias_V in _by_sort(labels_T, text_VD, speech_CD, speech_bias_C):
        rows = max(16, _CHUNK_BYTES // (4 * weight_VD.shape[0]))
        for index, targets in zip(index_R.split(rows), targets_R.split(rows), strict=True):
            logits_RV = F.linear(hidden_TD.index_select(0, index), weight_VD, bias_V).float()
            loss_T[index] = F.cross_entropy(logits_RV, targets, reduction="none")
            correct_T[index] = logits_RV.argmax(1) == targets
    index_R = (labels_T != IGNORE).nonzero().squeeze(1)
    return loss_T[index_R], correct_T[index_R], index_R


def ctc_loss(logits_EC: Tensor, frame_lens: Sequence[int], ctc_ids: Tensor, ctc_lens_B: Tensor) -> tuple[Tensor, Tensor]:
    """CTC (Graves et al., 2006) of packed encoder frames, summed over the utterances that have a transcript.

    Args:
        logits_EC: packed frames; the last column is the blank, so target ids are used unchanged.
        frame_lens: frames of each utterance; ctc_ids: their transcripts, concatenated; ctc_lens_B: ids of each, 0 = no transcript.
    Returns:
        (sum, number of target ids). An utterance with fewer frames than its transcript needs has an infinite loss: it adds zero but is
        counted.
    """
    if logits_EC.shape[0] != sum(frame_lens) or ctc_lens_B.shape[0] != len(frame_lens):
        raise ValueError(
            f"ctc_loss: {logits_EC.shape[0]} frames and {ctc_lens_B.shape[0]} transcripts for {len(frame_lens)} utterances "
            f"of {sum(frame_lens)} frames"
        )
    target_lens = ctc_lens_B.tolist()
    rows = [row for row, length in enumerate(target_lens) if length > 0]
    count = torch.tensor(sum(target_lens), device=logits_EC.device)
    if not rows:
        return logits_EC.float().sum() * 0.0, count
    ends = list(accumulate(frame_lens))
    used_lens = torch.tensor([frame_lens[row] for row in rows])
    frames = torch.cat([torch.arange(ends[row] - frame_lens[row], ends[row]) for row in rows])
    steps = torch.cat([torch.arange(frame_lens[row]) for row in rows])
    columns = torch.repeat_interleave(torch.arange(len(rows)), used_lens)
    log_probs_EC = F.log_softmax(logits_EC, -1, dtype=torch.float32)
    if len(rows) < len(frame_lens):
        log_probs_EC = log_probs_EC.index_select(0, frames.to(logits_EC.device))
    # One scatter: padding each utterance for itself would cost a full-size gradient per utterance.
    padded_EBC = log_probs_EC.new_zeros(int(used_lens.max()), len(rows), logits_EC.shape[1])
    padded_EBC.index_put_((steps.to(logits_EC.device), columns.to(logits_EC.device)), log_probs_EC)
    loss = F.ctc_loss(
        padded_EBC,
        ctc_ids,
        used_lens,
        torch.tensor([target_lens[row] for row in rows]),
        blank=logits_EC.shape[1] - 1,
        reduction="sum",
        zero_infinity=True,
    )
    return loss, count
