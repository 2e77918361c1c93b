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
    assert quantized.vectors_ND.abs().max() <= 1 and float(quantized.commitment) == 0.0
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


def _vq(size=16, width=4, decay=0.9):
    torch.manual_seed(0)
    return VectorQuantizer(size, width, decay)


def test_vq_finds_the_nearest_vector():
    quantizer = _vq(37, 5).eval()
    z = torch.randn(300, 5, generator=torch.Generator().manual_seed(1))
    distances = ((z[:, None].double() - quantizer.codebook_CD[None].double()) ** 2).sum(2)
    quantized = quantizer(z)
    assert torch.equal(quantized.codes_N, distances.argmin(1))
    assert torch.equal(quantized.vectors_ND, quantizer.codebook_CD[distances.argmin(1)])
    torch.testing.assert_close(quantized.commitment.double(), distances.min(1).values.mean() / 5)


def test_vq_search_in_blocks_is_the_search(monkeypatch):
    quantizer = _vq().eval()
    z = torch.randn(100, 4, generator=torch.Generator().manual_seed(1))
    whole = quantizer.codes(z)
    monkeypatch.setattr("osum_echat.token2wav.quantizer._BLOCK", 7 * 16)
    assert torch.equal(quantizer.codes(z), whole)


def test_vq_gradients_go_to_the_input_only():
    quantizer = _vq()
    z = torch.randn(10, 4, requires_grad=True)
    weights = torch.randn(10, 4)
    (quantizer(z).vectors_ND * weights).sum().backward()
    assert torch.equal(z.grad, weights)
    z.grad = None
    quantized = quantizer.eval()(z)
    quantized.commitment.backward()
    torch.testing.assert_close(z.grad, 2 * (z.detach() - quantized.vectors_ND.detach()) / z.numel())
    assert not list(quantizer.parameters())


def test_vq_moving_averages_follow_the_formula():
    """arXiv:1711.00937 (6) to (8), one code at a time in plain Python floats."""
    quantizer = _vq(size=3, width=2, decay=0.9)
    book = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    quantizer.codebook_CD.copy_(book)
    quantizer.cluster_size_C.copy_(torch.tensor([4.0, 5.0, 6.0]))
    quantizer.cluster_sum_CD.copy_(book * torch.tensor([[4.0], [5.0], [6.0]]))
    batch = [[1.0, 1.0], [-1.0, 2.0], [9.0, 1.0], [0.5, 0.0]]
    quantizer.train()(torch.tensor(batch))
    chosen = {0: [batch[0], batch[1], batch[3]], 1: [batch[2]], 2: []}
    sizes = [0.9 * n + 0.1 * len(chosen[c]) for c, n in enumerate((4.0, 5.0, 6.0))]
    for code, size in enumerate(sizes):
        old = (4.0, 5.0, 6.0)[code]
        total = [0.9 * old * float(book[code, d]) + 0.1 * sum(v[d] for v in chosen[code]) for d in range(2)]
        smooth = (size + 1e-5) / (sum(sizes) + 3e-5) * sum(sizes)
        assert quantizer.cluster_size_C[code].item() == pytest.approx(size, rel=1e-6)
        assert quantizer.codebook_CD[code].tolist() == pytest.approx([t / smooth for t in total], rel=1e-5)


def test_vq_starts_on_the_data_and_moves_what_nobody_chooses():
    quantizer = _vq(size=8, width=2, decay=0.5)
    z = 100 + torch.randn(64, 2, generator=torch.Generator().manual_seed(0))  # far from the random codebook
    quantizer.train()(z)
    assert (quantizer.codebook_CD - 100).abs().max() < 5, "every vector lies in the data after one batch"
    for _ in range(30):
        quantizer(z)
    assert len(quantizer.eval()(z).codes_N.unique()) == 8
    before = quantizer.codebook_CD.clone()
    quantizer(-z)
    assert torch.equal(quantizer.codebook_CD, before), "nothing moves outside of training"


def test_vq_state_survives_a_checkpoint():
    quantizer = _vq()
    quantizer.train()(torch.randn(30, 4))
    twin = VectorQuantizer(16, 4, 0.9)
    twin.load_state_dict(quantizer.state_dict())
    z = torch.randn(20, 4)
    torch.manual_seed(5)
    quantizer(z)
    torch.manual_seed(5)
    twin(z)
    assert all(torch.equal(a, b) for a, b in zip(quantizer.buffers(), twin.buffers(), strict=True))


def test_table_is_total():
    fsq = make_quantizer(QuantizerConfig(codebook_size=512, levels=[8, 8, 8]))
    vq = make_quantizer(QuantizerConfig(kind="vq", codebook_size=100, width=6))
    assert (fsq.codebook_size, fsq.width, vq.codebook_size, vq.width) == (512, 3, 100, 6)
    assert all(isinstance(q, nn.Module) for q in (fsq, vq))


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
