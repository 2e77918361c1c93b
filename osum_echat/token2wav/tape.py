"""Convolutions that run over a whole signal or over its pieces with exactly the same result.

A layer is called with a ``Tape``. For a whole signal the tape is ``WHOLE`` and nothing is kept. For a stream, every layer takes what it
kept of the previous push from the tape and puts down what the next one needs; layers always run in the same order, so the state of a
whole network is one flat tuple of tensors, a value that a caller owns. A layer that looks ahead hands out only what can no longer change
(maybe nothing), and ``last`` makes it hand out the rest: no network output is computed twice, nothing is cross-faded.

Shape legend: B streams, C channels, T time steps of whatever rate, N samples of a Fourier window, K its bins.

Left out: batches whose streams have different lengths.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Tails = tuple[Tensor | None, ...]


class Tape:
    """One pass of a network over one piece of a stream.

    Args:
        tails: ``kept()`` of the previous piece; None for the first.
        last: nothing follows this piece.
    """

    def __init__(self, tails: Tails | None, last: bool) -> None:
        self.first = tails is None
        self.last = last
        self._tails = tails or ()
        self._kept: list[Tensor | None] = []

    def kept(self) -> Tails:
        return tuple(self._kept)

    def take(self) -> Tensor | None:
        return None if self.first else self._tails[len(self._kept)]

    def keep(self, tail: Tensor | None) -> None:
        self._kept.append(tail)

    def window(self, x_BCT: Tensor, left: int, right: int, span: int, stride: int = 1) -> Tensor:
        """What the outputs that are ready now can see: a window of ``span`` steps slides over the signal in steps of ``stride``.

        The signal has ``left`` zeros before its start and ``right`` behind its end. The result may be too short for any output: length 0.
        """
        tail = x_BCT.new_zeros(x_BCT.shape[0], x_BCT.shape[1], left) if self.first else self.take()
        assert tail is not None
        x_BCT = _joined(tail, x_BCT)
        if self.last:
            x_BCT = F.pad(x_BCT, (0, right))
        ready_BCT, rest_BCT = _ready(x_BCT, span, stride)
        self.keep(rest_BCT)
        return ready_BCT

    def aligned(self, *signals: Tensor) -> tuple[Tensor, ...]:
        """Signals of the same clock but different delay, cut to what all of them have; the rest waits for the next piece."""
        if not self.first:
            waiting = [self._tails[len(self._kept) + place] for place in range(len(signals))]
            signals = tuple(_joined(tail, x) for tail, x in zip(waiting, signals, strict=True) if tail is not None)
        even, rest = _even(list(signals))
        for x in rest:
            self.keep(x)
        return tuple(even)

    def reflect_start(self, x_BCT: Tensor, count: int) -> Tensor:
        """The signal with its first ``count`` steps mirrored before it, once they are there."""
        pending = self.take()
        if not self.first and pending is None:
            self.keep(None)
            return x_BCT
        if pending is not None:
            x_BCT = torch.cat((pending, x_BCT), 2)
        if x_BCT.shape[2] <= count:
            self.keep(x_BCT)
            return x_BCT[..., :0]
        return self.mirrored(x_BCT, count)

    def mirrored(self, x_BCT: Tensor, count: int) -> Tensor:
        """``reflect_start`` of a first piece of more than ``count`` steps: later ones pass as they are."""
        self.keep(None)
        return torch.cat((x_BCT[..., 1 : count + 1].flip(2), x_BCT), 2)

    def reflect_end(self, x_BCT: Tensor, count: int) -> Tensor:
        """The signal, and behind its end its last ``count`` steps mirrored."""
        before = self.take()
        seen_BCT = x_BCT if before is None else torch.cat((before, x_BCT), 2)
        self.keep(seen_BCT[..., -count - 1 :])
        return torch.cat((x_BCT, seen_BCT[..., -count - 1 : -1].flip(2)), 2) if self.last else x_BCT


# What lengths decide is in functions of tensors alone: a trace (export/) keeps their branches instead of the one it happened to take.
# None of them may return the very tensor it was given: the trace would take every later use of it for a use of what was returned.


@torch.jit.script_if_tracing
def _joined(tail_BCT: Tensor, x_BCT: Tensor) -> Tensor:
    """One behind the other, without a copy where nothing was kept: causal layers of one rate never wait for each other."""
    return torch.cat((tail_BCT, x_BCT), 2) if tail_BCT.shape[2] > 0 else x_BCT[:, :, :]


@torch.jit.script_if_tracing
def _ready(x_BCT: Tensor, span: int, stride: int) -> tuple[Tensor, Tensor]:
    """(what all windows of ``span`` steps see that fit into the signal, what the next ones will), the first of length 0 for no window."""
    num_ready = max(0, (x_BCT.shape[2] - span) // stride + 1)
    end = (num_ready - 1) * stride + span if num_ready > 0 else 0
    return x_BCT[:, :, :end], x_BCT[:, :, num_ready * stride :]


@torch.jit.script_if_tracing
def _even(signals: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """(signals cut to the shortest, the rest of each)"""
    length = min([x.shape[2] for x in signals])
    return [x[:, :, :length] for x in signals], [x[:, :, length:] for x in signals]


@torch.jit.script_if_tracing
def _convolved(x_BCT: Tensor, weight: Tensor, bias: Tensor | None, stride: int, dilation: int) -> Tensor:
    """Convolution without padding; of nothing, nothing."""
    if x_BCT.shape[2] == 0:
        return x_BCT.new_zeros(x_BCT.shape[0], weight.shape[0], 0)
    return F.conv1d(x_BCT, weight, bias, stride, 0, dilation)


@torch.jit.script_if_tracing
def _upsampled(x_BCT: Tensor, weight: Tensor, bias: Tensor | None, rate: int, first: int, margin: int) -> Tensor:
    """Transposed convolution from output step ``first`` on, ``rate`` steps for every input but ``margin`` of them; of nothing, nothing."""
    if x_BCT.shape[2] == 0:
        return x_BCT.new_zeros(x_BCT.shape[0], weight.shape[1], 0)
    return F.conv_transpose1d(x_BCT, weight, bias, rate)[:, :, first : first + (x_BCT.shape[2] - margin) * rate]


class _Whole(Tape):
    """The tape of a whole signal in one piece: pads at once and keeps nothing."""

    def __init__(self) -> None:
        super().__init__(None, last=True)

    def keep(self, tail: Tensor | None) -> None:
        pass

    def window(self, x_BCT: Tensor, left: int, right: int, span: int, stride: int = 1) -> Tensor:
        return F.pad(x_BCT, (left, right))


WHOLE = _Whole()


class StreamConv1d(nn.Conv1d):
    """Convolution whose output has the length of its input (stride 1) or one step per full stride.

    ``causal`` puts all padding before the signal. ``left`` and ``right`` set it by hand.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        causal: bool = False,
        dilation: int = 1,
        stride: int = 1,
        pad: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, dilation=dilation)
        reach = (kernel_size - 1) * dilation
        self.pad = pad or ((reach, 0) if causal else (reach // 2, reach - reach // 2))
        self.span = reach + 1

    def forward(self, x_BCT: Tensor, tape: Tape = WHOLE) -> Tensor:
        if tape is WHOLE and self.pad[0] == self.pad[1]:  # the kernel pads for free
            return F.conv1d(x_BCT, self.weight, self.bias, self.stride, self.pad[0], self.dilation)
        x_BCT = tape.window(x_BCT, *self.pad, self.span, self.stride[0])
        return _convolved(x_BCT, self.weight, self.bias, self.stride[0], self.dilation[0])


class StreamConvTranspose1d(nn.ConvTranspose1d):
    """Upsampling by ``rate``: one input step becomes exactly ``rate`` output steps.

    The kernel covers ``kernel_size - rate`` steps too many; they are cut half at each end, or all at the end when ``causal``.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, rate: int, causal: bool = False) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=rate)
        self.cut = 0 if causal else (kernel_size - rate) // 2
        self.before = (kernel_size - 1 - self.cut) // rate  # input steps before and after its own that an output block depends on
        self.after = math.ceil(self.cut / rate)

    def forward(self, x_BCT: Tensor, tape: Tape = WHOLE) -> Tensor:  # type: ignore[override]
        rate, margin = self.stride[0], self.before + self.after
        x_BCT = tape.window(x_BCT, self.before, self.after, margin + 1)
        return _upsampled(x_BCT, self.weight, self.bias, rate, self.before * rate + self.cut, margin)


class Stft(nn.Module):
    """``samples_B1T -> (B, 2K, T / hop + 1)``, real parts then imaginary parts: ``torch.stft`` with a Hann window and reflected ends."""

    basis: Tensor

    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        window_N = torch.hann_window(n_fft, dtype=torch.float64)
        angle_KN = _angles(n_fft)
        basis = torch.cat((angle_KN.cos(), -angle_KN.sin())) * window_N
        self.register_buffer("basis", basis.unsqueeze(1).float(), persistent=False)

    def forward(self, samples_B1T: Tensor, tape: Tape = WHOLE) -> Tensor:
        half = self.n_fft // 2
        x_B1T = tape.reflect_end(tape.reflect_start(samples_B1T, half), half)
        return _convolved(tape.window(x_B1T, 0, 0, self.n_fft, self.hop), self.basis, None, self.hop, 1)


class Istft(nn.Module):
    """``(B, 2K, F + 1) -> samples_B1T`` of F * hop samples: ``torch.istft``, the inverse of ``Stft`` (Griffin and Lim, 1984).

    Each frame is transformed back, windowed and added; the sum is divided by the sum of the squared windows. At the ends fewer windows
    overlap, so that sum is computed from the frames that exist.
    """

    basis: Tensor
    envelope: Tensor

    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        window_N = torch.hann_window(n_fft, dtype=torch.float64)
        angle_KN = _angles(n_fft)
        twice_K1 = torch.full((n_fft // 2 + 1, 1), 2.0, dtype=torch.float64)
        twice_K1[0] = twice_K1[-1] = 1.0  # the other bins stand for their conjugates, too
        basis = torch.cat((twice_K1 * angle_KN.cos(), -twice_K1 * angle_KN.sin())) * window_N / n_fft
        self.register_buffer("basis", basis.unsqueeze(1).float(), persistent=False)
        self.register_buffer("envelope", window_N.square().view(1, 1, -1).float(), persistent=False)

    def forward(self, spectrum_BCT: Tensor, tape: Tape = WHOLE) -> Tensor:
        reach = self.n_fft // (2 * self.hop)
        exists_B1T = torch.ones_like(spectrum_BCT[:, :1])
        x_BCT = tape.window(torch.cat((spectrum_BCT, exists_B1T), 1), reach - 1, reach - 1, 2 * reach)
        first, margin = self.n_fft - self.hop, 2 * reach - 1  # before it, windows that are not in this piece are missing
        sum_B1T = _upsampled(x_BCT[:, :-1], self.basis, None, self.hop, first, margin)
        return sum_B1T / _upsampled(x_BCT[:1, -1:], self.envelope, None, self.hop, first, margin)


def _angles(n_fft: int) -> Tensor:
    """2 pi k n / n_fft, (K, N), reduced in integers first: the products of large k and n would lose digits."""
    index_KN = torch.outer(torch.arange(n_fft // 2 + 1), torch.arange(n_fft)) % n_fft
    return 2.0 * math.pi * index_KN.double() / n_fft
