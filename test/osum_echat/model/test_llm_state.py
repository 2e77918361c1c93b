"""The key/value state: many positions at once = one by one = all in one prefill; growing keeps what is there."""

import pytest
import torch

from osum_echat.config import LlmConfig
from osum_echat.model.llm import KVState, Llm
from osum_echat.model.packing import Packing

LENGTH = 17


@pytest.fixture(params=["qwen2", "qwen3"])
def llm(request: pytest.FixtureRequest) -> Llm:
    torch.manual_seed(0)
    cfg = LlmConfig(kind=request.param, vocab_size=50, width=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_width=48)
    return Llm(cfg).eval().double()


@pytest.fixture
def x_TD(llm: Llm) -> torch.Tensor:
    return torch.randn(LENGTH, 32, dtype=torch.float64)


def read(llm: Llm, x_TD: torch.Tensor, cuts: list[int], capacity: int = LENGTH + 3) -> tuple[torch.Tensor, KVState]:
    state = llm.init_state(1, capacity)
    with torch.inference_mode():
        parts = [llm.extend(part, state) for part in x_TD.tensor_split(cuts)]
    return torch.cat(parts), state


@pytest.mark.parametrize("cuts", [[], [1], [5, 6, 12], list(range(1, LENGTH))])
def test_reading_in_pieces_equals_reading_at_once(llm: Llm, x_TD: torch.Tensor, cuts: list[int]) -> None:
    hidden_TD, state = read(llm, x_TD, cuts)
    with torch.inference_mode():
        whole_TD = llm(x_TD, torch.arange(LENGTH), Packing.from_lens([LENGTH]))
    torch.testing.assert_close(hidden_TD, whole_TD, rtol=0, atol=1e-12)
    assert state.row_lens == [LENGTH] and state.lens_B.tolist() == [LENGTH]


def test_steps_go_on_behind_and_growing_changes_nothing(llm: Llm, x_TD: torch.Tensor) -> None:
    _, roomy = read(llm, x_TD[:-2], [4])
    _, tight = read(llm, x_TD[:-2], [], capacity=LENGTH - 2)
    grown = tight.grown(LENGTH)
    assert grown.capacity == LENGTH and grown.grown(3) is grown
    with torch.inference_mode():
        for at in (-2, -1):
            torch.testing.assert_close(llm.step(x_TD[at][None], grown), llm.step(x_TD[at][None], roomy), rtol=0, atol=1e-12)


def test_a_full_state_is_refused(llm: Llm, x_TD: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="extend to 17 positions in a state of capacity 16"):
        llm.extend(x_TD, llm.init_state(1, 16))
