"""Losses of training: joint cross-entropy at supervised positions, CTC, and the accuracy shown in logs. All return (sum, count).

The joint cross-entropy runs over one softmax of text and speech ids. The full (T, V) logits of 2,800 positions and 156,033 classes
would take gigabytes several times over; here the output layer is applied only where there is a label, a chunk of rows at a time, and the
gradients are formed in the same pass while the chunk's logits are in memory: no full logits, no recomputation.

Shape legend: T packed positions, R supervised rows, D width, V text classes, C speech classes, E packed encoder frames, B utterances.

Left out: label smoothing.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

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


class _OutputLayer:
    """The joint output layer seen as slices of rows, so that no second tensor of the size of the weights ever exists.

    The text rows and the speech rows (with their bias) are consecutive columns of the logits. Gradient sums are None where a weight is
    frozen.
    """

    def __init__(self, weights: tuple[Tensor, Tensor], bias_C: Tensor, need_weights: Sequence[bool], need_bias: bool) -> None:
        self.weights, self.bias_C = weights, bias_C
        self.num_text, self.num_classes = weights[0].shape[0], weights[0].shape[0] + weights[1].shape[0]
        self.grads = [torch.empty_like(weight) if need else None for weight, need in zip(weights, need_weights, strict=True)]
        self.grad_bias_C = torch.zeros_like(bias_C, dtype=torch.float32) if need_bias else None
        self.scratch = _Scratch()
        self._fresh = True  # the gradient tensors hold garbage until the first chunk has written them

    def _slices(self) -> Iterator[tuple[Tensor, Tensor | None, slice]]:
        """(rows of a weight, their gradient sum, their columns in the logits)."""
        for weight, grad, offset in zip(self.weights, self.grads, (0, self.num_text), strict=True):
            step = max(1, _SLICE_ELEMENTS[weight.device.type] // weight.shape[1])
            for start in range(0, weight.shape[0], step):
                stop = min(start + step, weight.shape[0])
                yield weight[start:stop], None if grad is None else grad[start:stop], slice(offset + start, offset + stop)

    def _cast(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        if weight.dtype == dtype:
            return weight
        return self.scratch.get("weight", weight.shape, dtype, weight.device).copy_(weight)

    def logits(self, rows_RD: Tensor, out_RV: Tensor) -> None:
        for weight, _, columns in self._slices():
            torch.mm(rows_RD, self._cast(weight, rows_RD.dtype).t(), out=out_RV[:, columns])
        out_RV[:, self.num_text :] += self.bias_C.to(out_RV.dtype)

    def backward(self, grad_RV: Tensor, rows_RD: Tensor, grad_rows_RD: Tensor | None) -> None:
        """Adds to the gradient sums of the weights and to ``grad_rows_RD`` (float32)."""
        for weight, grad, columns in self._slices():
            piece = grad_RV[:, columns]
            if grad_rows_RD is not None:
                product = self.scratch.get("rows", rows_RD.shape, piece.dtype, piece.device)
                grad_rows_RD += torch.mm(piece, self._cast(weight, piece.dtype), out=product)
            if grad is not None:
                self._add_weight_gradient(grad, piece, rows_RD)
        self._fresh = False
        if self.grad_bias_C is not None:
            self.grad_bias_C += grad_RV[:, self.num_text :].sum(0, dtype=torch.float32)

    def _add_weight_gradient(self, grad: Tensor, piece: Tensor, rows_RD: Tensor) -> None:
        if grad.dtype == piece.dtype:
            grad.addmm_(piece.t(), rows_RD, beta=0.0 if self._fresh else 1.0)
            return
        product = torch.mm(piece.t(), rows_RD, out=self.scratch.get("product", grad.shape, piece.dtype, piece.device))
        if self._fresh:
            grad.copy_(product)
        else:
            grad += product

    def finish(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        if self._fresh:
            for grad in self.grads:
                if grad is not None:
                    grad.zero_()
        return self.grads[0], self.grads[1], None if self.grad_bias_C is None else self.grad_bias_C.to(self.bias_C.dtype)


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


class _JointCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows_RD: Tensor, targets_R: Tensor, text_VD: Tensor, speech_CD: Tensor, bias_C: Tensor, dtype: torch.dtype, chunk: int
    ) -> Tensor:
        need_rows, _, need_text, need_speech, need_bias, *_ = ctx.needs_input_grad
        layer = _OutputLayer((text_VD, speech_CD), bias_C, (need_text, need_speech), need_bias)
        grad_RD = torch.zeros_like(rows_RD, dtype=torch.float32) if need_rows else None
        buffer = torch.empty(min(chunk, rows_RD.shape[0]), layer.num_classes, dtype=dtype, device=rows_RD.device)
        loss = torch.zeros((), dtype=torch.float32, device=rows_RD.device)
        for start in range(0, rows_RD.shape[0], chunk):
            rows = rows_RD[start : start + chunk].to(dtype)
            logits_RV = buffer[: rows.shape[0]]
            layer.logits(rows, logits_RV)
            loss += _softmax_minus_target_(logits_RV, targets_R[start : start + chunk], layer.scratch)
            layer.backward(logits_RV, rows, None if grad_RD is None else grad_RD[start : start + chunk])
        ctx.grads = (None if grad_RD is None else grad_RD.to(rows_RD.dtype), *layer.finish())
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("joint_cross_entropy: its gradients are handed out once; a second backward needs a second forward")
        rows, text, speech, bias = (None if grad is None else grad.mul_(grad_outputs[0]) for grad in ctx.grads)
        ctx.grads = None
        return rows, None, text, speech, bias, None, None


def joint_cross_entropy(
    hidden_TD: Tensor, labels_T: Tensor, text_VD: Tensor, speech_CD: Tensor, speech_bias_C: Tensor, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of joint ids at the positions whose label is not IGNORE.

    Args:
        hidden_TD: final hidden states; labels_T: joint output ids, already shifted (labels_T[t] is predicted from hidden_TD[t]).
        text_VD, speech_CD, speech_bias_C: the output layer; those that do not require gradients cost nothing in backward.
        chunk: rows of logits in memory at a time; None picks it from the memory of a row.
    Returns:
        (float32 sum of the losses, number of supervised positions as an int64 tensor). Under autocast the products run in its dtype.
    """
    if labels_T.shape != hidden_TD.shape[:1]:
        raise ValueError(f"joint_cross_entropy: {hidden_TD.shape[0]} hidden states but labels {tuple(labels_T.shape)}")
    kind = hidden_TD.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_TD.dtype
    if chunk is None:
        row_bytes = (text_VD.shape[0] + speech_CD.shape[0]) * torch.finfo(dtype).bits // 8
        chunk = max(16, _CHUNK_BYTES // row_bytes)
    index_R = (labels_T != IGNORE).nonzero().squeeze(1)
    rows_RD, targets_R = hidden_TD.index_select(0, index_R), labels_T.index_select(0, index_R)
    count = torch.tensor(index_R.shape[0], device=labels_T.device)
    with torch.autocast(kind, enabled=False):
        return _JointCrossEntropy.apply(rows_RD, targets_R, text_VD, speech_CD, speech_bias_C, dtype, chunk), count


@torch.no_grad()
def score_positions(
    hidden_TD: Tensor, labels_T: Tensor, text_VD: Tensor, speech_CD: Tensor, speech_bias_C: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """For dev sets, without gradients: (loss_R, correct_R, index_R), one entry a supervised position; ``index_R`` are its places in T.

    ``correct_R`` is whether the argmax over the joint classes is the label: the token accuracy is its mean.
    """
    index_R = (labels_T != IGNORE).nonzero().squeeze(1)
    losses, correct = [], []
    num_classes = text_VD.shape[0] + speech_CD.shape[0]
    for index in index_R.split(max(16, _CHUNK_BYTES // (4 * num_classes))):
        rows_RD, targets_R = hidden_TD.index_select(0, index), labels_T.index_select(0, index)
        speech_RC = F.linear(rows_RD, speech_CD, speech_bias_C)
        logits_RV = torch.cat((F.linear(rows_RD, text_VD), speech_RC), 1).float()
        losses.append(F.cross_entropy(logits_RV, targets_R, reduction="none"))
        correct.append(logits_RV.argmax(1) == targets_R)
    if not losses:
        return hidden_TD.new_zeros(0, dtype=torch.float32), torch.zeros(0, dtype=torch.bool, device=hidden_TD.device), index_R
    return torch.cat(losses), torch.cat(correct), index_R


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
