"""Sampling: filters by hand, frequencies against probabilities, independence of the batch."""

import pytest
import torch

from osum_echat.errors import ConfigError
from osum_echat.generate.sampling import Sampler, invert_cdf, keep_top_k, keep_top_p, request_generator


def kept(logits: torch.Tensor) -> list[list[int]]:
    return [torch.isfinite(row).nonzero()[:, 0].tolist() for row in logits]


def test_top_k_keeps_exactly_k_also_among_ties() -> None:
    assert kept(keep_top_k(torch.tensor([[1.0, 3.0, 2.0, 0.0], [5.0, 0.0, 1.0, 6.0]]), 2)) == [[1, 2], [0, 3]]
    assert len(kept(keep_top_k(torch.zeros(1, 5), 2))[0]) == 2
    assert kept(keep_top_k(torch.zeros(1, 3), 0)) == [[0, 1, 2]]


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()[:, [2, 0, 3, 1]]  # shuffled: ids 1, 3, 0, 2 by probability
    assert kept(keep_top_p(logits, 0.4)) == [[1]]
    assert kept(keep_top_p(logits, 0.6)) == [[1, 3]]
    assert kept(keep_top_p(logits, 0.9)) == [[0, 1, 3]]
    assert kept(keep_top_p(logits, 1.0)) == [[0, 1, 2, 3]]
    assert kept(keep_top_p(logits, 1e-9)) == [[1]]


def test_frequencies_follow_the_tempered_distribution() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0])
    sampler = Sampler(temperature=0.7, top_k=3)
    generators = [request_generator(1, str(row)) for row in range(20_000)]
    ids = sampler.choose(logits.expand(20_000, 4), generators)
    expected = keep_top_k(logits[None] / 0.7, 3).softmax(-1)[0]
    assert torch.allclose(torch.bincount(ids, minlength=4) / 20_000, expected, atol=0.012)
    assert (ids != 2).all()


def test_a_request_draws_the_same_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 50)
    sampler = Sampler(temperature=1.0, top_p=0.9)
    batched = sampler.choose(logits, [request_generator(7, f"k{row}") for row in range(6)])
    alone = [sampler.choose(logits[row : row + 1], [request_generator(7, f"k{row}")]).item() for row in range(6)]
    assert batched.tolist() == alone
    other = sampler.choose(logits, [request_generator(8, f"k{row}") for row in range(6)])
    assert batched.tolist() != other.tolist()


def test_impossible_ids_are_never_drawn_even_at_the_ends() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, 0.0, float("-inf")]] * 2)
    assert invert_cdf(logits, torch.tensor([0.0, 1.0 - 1e-16], dtype=torch.float64)).tolist() == [1, 2]


def test_greedy_needs_no_generator_and_nonsense_is_refused() -> None:
    assert Sampler().choose(torch.tensor([[0.0, 2.0, 1.0]]), []).tolist() == [1]
    with pytest.raises(ConfigError, match="top_p"):
        Sampler(temperature=1.0, top_p=0.0)
