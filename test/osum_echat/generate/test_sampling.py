"""Sampling: filters by hand, frequencies against probabilities, independence of the batch."""

from dataclasses import replace

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


STUCK = torch.tensor([8.0, 2.0, 1.0, 0.0, -1.0])
NUCLEUS = Sampler(temperature=1.0, top_p=0.9)  # only id 0 is left: for ever


def sample(sampler: Sampler, steps: int, key: str = "k") -> list[int]:
    ids: list[int] = []
    generator = request_generator(3, key)
    for _ in range(steps):
        ids.append(int(sampler.choose(STUCK[None], [generator], [ids])))
    return ids


def test_repetition_aware_sampling_leaves_the_nucleus_that_holds_it() -> None:
    assert set(sample(NUCLEUS, 2000)) == {0}
    aware = sample(replace(NUCLEUS, repeat_window=10), 20_000)
    others = sum(token != 0 for token in aware) / len(aware)
    expected = 1 - float(STUCK.softmax(-1)[0])  # all but every draw repeats, and is then drawn from the whole distribution
    assert others == pytest.approx(expected, rel=0.35) and expected > 0.003


def test_repetition_is_counted_in_the_window_only() -> None:
    sampler = Sampler(temperature=1.0, top_k=1, repeat_window=4, repeat_share=0.5)
    flat = torch.tensor([[1.0, 0.999, 0.999]])  # drawn again, it is nearly uniform

    def again(history: list[int]) -> float:
        drawn = [int(sampler.choose(flat, [request_generator(1, str(at))], [history])) for at in range(600)]
        return sum(token != 0 for token in drawn) / 600

    assert again([0, 0, 0, 0, 1, 1, 0, 0]) == 0  # two of four are no more than half
    assert again([0, 1, 0, 0, 0]) == pytest.approx(2 / 3, abs=0.08)
    assert again([0, 0]) == 0


def test_drawing_again_keeps_rows_independent() -> None:
    sampler = Sampler(temperature=1.0, top_p=0.9, repeat_window=10)
    torch.manual_seed(1)
    logits = torch.randn(8, 12) * 3
    history = [[row] * row for row in range(8)]
    batched = sampler.choose(logits, [request_generator(2, str(row)) for row in range(8)], history)
    alone = [int(sampler.choose(logits[row][None], [request_generator(2, str(row))], [history[row]])) for row in range(8)]
    assert batched.tolist() == alone
    with pytest.raises(ConfigError, match="repeat_window"):
        Sampler(repeat_window=-1)
