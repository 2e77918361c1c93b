"""FSQ against a table of all its values, VQ against brute force and the published formulas, usage against a hand count."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from osum_echat.config_token2wav import QuantizerConfig
from osum_echat.token2wav.quantizer import CodebookUsage, FiniteScalarQuantizer, VectorQuantizer, make_quantizer

LEVELS = [(3, 3), (8, 8, 8), (8, 5, 5, 5), (7, 4, 3)]


@pytest.mark.parametrize("levels", LEVELS)
def test_fsq_codes_and_vectors_are_a_bijection(levels):
    """All codes give different vectors, exactly the grid of all levels, and come back from values anywhere in the cell."""
    quantizer = FiniteScalarQuantizer(levels)
    codes = torch.arange(quantizer.codebook_size)
    vectors = quantizer.vectors(codes)
    grid = {tuple((v - n // 2) / (n // 2) for v, n in zip(row, levels, strict=True)) for row in itertools.product(*map(range, levels))}
    assert {tuple(row) for row in vectors.double().tolist()} == {tuple(np.float32(v).item() for v in row) for row in grid}
    # The inverse of the squashing, in double precision, of points well inside each cell.
    half = torch.tensor([(n - 1) / 2 * (1 - 1e-3) for n in levels], dtype=torch.float64)
    offset = torch.tensor([0.5 if n % 2 == 0 else 0.0 for n in levels], dtype=torch.float64)
    integers = vectors.double() * torch.tensor([n // 2 for n in levels])
    for shift in (-0.4, 0.0, 0.4):
        inside = ((integers + shift + offset) / half).clamp(-0.9999, 0.9999)
        z = inside.atanh() - (offset / half).atanh()
        assert torch.equal(quantizer.codes(z.float()), codes)
        assert torch.equal(quantizer(z.float()).codes_N, codes)


@pytest.mark.parametrize("levels", LEVELS)
def test_fsq_hands_on_the_vector_of_its_code_and_reaches_every_code(levels):
    quantizer = FiniteScalarQuantizer(levels)
    z = 1.5 * torch.randn(40000, len(levels), generator=torch.Generator().manual_seed(0))
    quantized = quantizer(z)
    assert torch.equal(quantized.vectors_ND, quantizer.vectors(quantized.codes_N))
    assert quantized.vectors_ND.abs().max() <= 1 and float(quantized.loss) == 0.0
    assert len(quantized.codes_N.unique()) == quantizer.codebook_size
    assert torch.equal(quantizer(torch.full((1, len(levels)), 1e9)).codes_N, torch.tensor([quantizer.codebook_size - 1]))
    assert torch.equal(quantizer(torch.full((1, len(levels)), -1e9)).codes_N, torch.tensor([0]))
    zero = quantizer.vectors(quantizer.codes(torch.zeros(1, len(levels))))
    assert torch.equal(zero, torch.zeros(1, len(levels))), "zero in, zero out, for odd and even numbers of levels"


def test_fsq_gradient_goes_straight_through():
    """The gradient is that of the squashing alone, as if nothing had been rounded; checked against finite differences of tanh."""
    quantizer = FiniteScalarQuantizer((8, 5))
    z = torch.randn(50, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weights = torch.randn(50, 2, generator=torch.Generator().manual_seed(2))
    (quantizer(z).vectors_ND * weights).sum().backward()

    def squashed(x):
        half = torch.tensor([3.5, 2.0], dtype=torch.float64) * (1 - 1e-3)
        shift = torch.tensor([math.atanh(0.5 / float(half[0])), 0.0], dtype=torch.float64)
        return (x + shift).tanh() * half / torch.tensor([4.0, 2.0])

    x, step = z.detach().double(), 1e-5
    slope = (squashed(x + step) - squashed(x - step)) / (2 * step)
    torch.testing.assert_close(z.grad.double(), slope * weights, rtol=1e-4, atol=1e-6)


def test_fsq_under_autocast_counts_in_float32():
    quantizer = FiniteScalarQuantizer((8, 8, 8))
    z = torch.randn(200, 3, generator=torch.Generator().manual_seed(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer(z).codes_N, quantizer.codes(z))


def _vq(size=16, width=4, commitment=0.25):
    quantizer = VectorQuantizer(width, size, commitment)
    nn.init.normal_(quantizer.codebook_CD, generator=torch.Generator().manual_seed(0))
    return quantizer


def test_vq_finds_the_nearest_vector_and_its_loss_is_that_of_the_paper():
    quantizer = _vq(37, 5)
    z = torch.randn(300, 5, generator=torch.Generator().manual_seed(1))
    distances = ((z[:, None].double() - quantizer.codebook_CD[None].double()) ** 2).sum(2)
    quantized = quantizer(z)
    assert torch.equal(quantized.codes_N, distances.argmin(1)) and torch.equal(quantizer.codes(z), distances.argmin(1))
    torch.testing.assert_close(quantized.vectors_ND, quantizer.codebook_CD[distances.argmin(1)])
    torch.testing.assert_close(quantized.loss.double(), 1.25 * distances.min(1).values.mean() / 5)


def test_vq_search_in_blocks_is_the_search(monkeypatch):
    quantizer = _vq()
    z = torch.randn(100, 4, generator=torch.Generator().manual_seed(1))
    whole = quantizer.codes(z)
    monkeypatch.setattr("osum_echat.token2wav.quantizer._BLOCK", 7 * 16)
    assert torch.equal(quantizer.codes(z), whole)


def test_vq_gradients_pass_through_to_the_input_and_the_loss_pulls_both_sides():
    quantizer = _vq()
    z = torch.randn(10, 4, requires_grad=True)
    weights = torch.randn(10, 4)
    (quantizer(z).vectors_ND * weights).sum().backward()
    assert torch.equal(z.grad, weights) and quantizer.codebook_CD.grad is None
    z.grad = None
    quantized = quantizer(z)
    quantized.loss.backward()
    difference = 2 * (z.detach() - quantizer.codebook_CD.detach()[quantized.codes_N]) / z.numel()
    torch.testing.assert_close(z.grad, 0.25 * difference)
    torch.testing.assert_close(quantizer.codebook_CD.grad, torch.zeros(16, 4).index_add_(0, quantized.codes_N, -difference))


def test_vq_starts_in_the_middle_of_clusters():
    centres = 100 * torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    z = centres.repeat(20, 1) + torch.randn(160, 3, generator=torch.Generator().manual_seed(1))
    quantizer = VectorQuantizer(3, 8, 0.25)
    assert not quantizer.is_started
    quantizer.start(z, seed=5)
    assert quantizer.is_started
    means = z.view(20, 8, 3).mean(0)
    assert (quantizer.codebook_CD - means[:, None]).norm(dim=2).min(1).values.max() < 1e-3
    twin = VectorQuantizer(3, 8, 0.25)
    twin.start(z, seed=5)
    assert torch.equal(twin.codebook_CD, quantizer.codebook_CD)


def test_table_is_total():
    fsq = make_quantizer(QuantizerConfig(codebook_size=512, levels=[8, 8, 8]), 6)
    vq = make_quantizer(QuantizerConfig(kind="vq", codebook_size=100), 6)
    for quantizer, size in ((fsq, 512), (vq, 100)):
        z = torch.randn(50, 6)
        quantized = quantizer(z)
        assert quantizer.codebook_size == size and quantized.vectors_ND.shape == (50, 6)
        assert torch.equal(quantizer.codes(z), quantized.codes_N)
    assert len(fsq(torch.randn(500, 6)).codes_N.unique()) > 20, "the projection spreads over the levels"


def test_usage_and_perplexity():
    usage = CodebookUsage(8)
    assert usage.perplexity == 0.0 and usage.used == 0.0
    usage.add([0, 0, 1, 1])
    usage.add([])
    usage.add(np.array([2, 2, 3, 3]))
    assert usage.num_tokens == 8 and usage.used == 0.5 and usage.perplexity == pytest.approx(4.0)
    usage.add([0] * 8)
    entropy = -(10 / 16 * math.log(10 / 16) + 3 * 2 / 16 * math.log(2 / 16))
    assert usage.perplexity == pytest.approx(math.exp(entropy))
    for wrong in ([8], [-1]):
        with pytest.raises(ValueError, match="codebook of 8"):
            usage.add(wrong)
