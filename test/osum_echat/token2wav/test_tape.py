"""Layers that run over pieces: equal to plain torch over the whole, for random pieces; the two Fourier transforms against torch's."""

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from osum_echat.token2wav.tape import WHOLE, Istft, Stft, StreamConv1d, StreamConvTranspose1d, Tape

Layer = Callable[[Tensor, Tape], Tensor]


def in_pieces(layer: Layer, x_BCT: Tensor, rng: random.Random, smallest: int = 0) -> Tensor:
    """The layer over random pieces, some of them empty, closed by an empty last one."""
    tails, outputs, start = None, [], 0
    while start < x_BCT.shape[2]:
        size = rng.randint(smallest, 9)
        tape = Tape(tails, last=False)
        outputs.append(layer(x_BCT[..., start : start + size], tape))
        tails, start = tape.kept(), start + size
    outputs.append(layer(x_BCT[..., :0], Tape(tails, last=True)))
    return torch.cat(outputs, 2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (7, 1), (3, 5), (11, 3)])
def test_convolution(kernel: int, dilation: int, causal: bool) -> None:
    conv = StreamConv1d(3, 4, kernel, causal, dilation).double()
    x = torch.randn(2, 3, 40, dtype=torch.float64)
    reach = (kernel - 1) * dilation
    padded = F.pad(x, (reach, 0) if causal else (reach // 2, reach // 2))
    expected = F.conv1d(padded, conv.weight, conv.bias, dilation=dilation)
    torch.testing.assert_close(conv(x), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(in_pieces(conv, x, random.Random(kernel)), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("rate", "pad"), [(8, (4, 4)), (15, (7, 7)), (3, (1, 1)), (8, (8, 0)), (3, (3, 0))])
def test_strided_convolution_has_one_step_for_each_full_stride(rate: int, pad: tuple[int, int]) -> None:
    conv = StreamConv1d(2, 3, 2 * rate, stride=rate, pad=pad).double()
    for steps in (1, 2, 5):
        x = torch.randn(1, 2, steps * rate + 1, dtype=torch.float64)
        expected = F.conv1d(F.pad(x, pad), conv.weight, conv.bias, stride=rate)
        assert expected.shape[2] == steps
        torch.testing.assert_close(conv(x), expected, atol=1e-12, rtol=0)
        torch.testing.assert_close(in_pieces(conv, x, random.Random(steps)), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("rate", "kernel"), [(8, 16), (5, 11), (3, 7), (4, 4), (2, 4)])
def test_transposed_convolution(rate: int, kernel: int, causal: bool) -> None:
    layer = StreamConvTranspose1d(3, 2, kernel, rate, causal).double()
    for steps in (1, 2, 17):
        x = torch.randn(2, 3, steps, dtype=torch.float64)
        full = F.conv_transpose1d(x, layer.weight, layer.bias, rate)
        cut = 0 if causal else (kernel - rate) // 2
        expected = full[..., cut : cut + steps * rate]
        torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)
        torch.testing.assert_close(in_pieces(layer, x, random.Random(steps)), expected, atol=1e-12, rtol=0)


FOURIER = [(16, 4), (16, 8), (48, 12), (96, 16)]


def torch_stft(x_B1T: Tensor, n_fft: int, hop: int) -> Tensor:
    spectrum = torch.stft(x_B1T[:, 0], n_fft, hop, window=torch.hann_window(n_fft, dtype=x_B1T.dtype), return_complex=True)
    return torch.cat((spectrum.real, spectrum.imag), 1)


@pytest.mark.parametrize(("n_fft", "hop"), FOURIER)
def test_stft_equals_torch(n_fft: int, hop: int) -> None:
    stft = Stft(n_fft, hop)
    for steps in (n_fft // hop, 23):
        x = torch.randn(2, 1, steps * hop)
        expected = torch_stft(x.double(), n_fft, hop).float()
        assert expected.shape[2] == steps + 1
        torch.testing.assert_close(stft(x), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(in_pieces(stft, x, random.Random(hop)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("n_fft", "hop"), FOURIER)
def test_istft_equals_torch_also_for_spectra_that_no_signal_has(n_fft: int, hop: int) -> None:
    istft, bins = Istft(n_fft, hop), n_fft // 2 + 1
    for steps in (1, 2, 30):
        x = torch.randn(2, 2 * bins, steps + 1)
        real, imag = x.double().chunk(2, 1)
        imag = imag.clone()
        imag[:, [0, -1]] = 0.0  # of a real signal; ours ignores them
        window = torch.hann_window(n_fft, dtype=torch.float64)
        expected = torch.istft(torch.complex(real, imag), n_fft, hop, window=window).float().unsqueeze(1)
        assert expected.shape[2] == steps * hop
        torch.testing.assert_close(istft(x), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(in_pieces(istft, x, random.Random(steps)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("n_fft", "hop"), FOURIER)
def test_istft_inverts_stft(n_fft: int, hop: int) -> None:
    x = torch.randn(2, 1, 50 * hop)
    torch.testing.assert_close(Istft(n_fft, hop)(Stft(n_fft, hop)(x)), x, atol=2e-6, rtol=0)


def test_signals_of_different_delay_are_aligned() -> None:
    late = StreamConv1d(1, 1, 7).double()
    x = torch.randn(1, 1, 50, dtype=torch.float64)

    def layer(piece: Tensor, tape: Tape = WHOLE) -> Tensor:
        skip, y = tape.aligned(piece, late(piece, tape))
        return skip * y

    torch.testing.assert_close(in_pieces(layer, x, random.Random(3)), layer(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(layer(x), x * late(x), atol=0, rtol=0)


def test_reflected_start_waits_for_what_it_mirrors() -> None:
    x = torch.arange(12.0).view(1, 1, -1)
    expected = F.pad(x, (4, 4), mode="reflect")
    layer = lambda piece, tape: tape.reflect_end(tape.reflect_start(piece, 4), 4)  # noqa: E731
    for seed in range(10):
        assert torch.equal(in_pieces(layer, x, random.Random(seed)), expected)
    assert torch.equal(layer(x, WHOLE), expected)
