"""Rules that keep ids out and end an answer."""

import pytest
import torch

from osum_echat.generate.rules import Below, Forbid, NoLoop, StopRule


def test_single_ids_are_barred_everywhere_and_the_input_is_not_changed() -> None:
    logits = torch.zeros(2, 4)
    out = Forbid(((2,),))(logits, [[], [1]])
    assert torch.isinf(out[:, 2]).all() and torch.isfinite(out[:, [0, 1, 3]]).all() and torch.isfinite(logits).all()


def test_a_sequence_is_barred_only_where_it_would_be_completed() -> None:
    out = Forbid(((3, 1, 2),))(torch.zeros(4, 5), [[3, 1], [0, 3, 1], [3], [1, 3]])
    assert torch.isinf(out).nonzero().tolist() == [[0, 2], [1, 2]]


def test_stop_rule() -> None:
    stop = StopRule(end_id=9, max_new=3)
    assert stop.is_end(9) and not stop.is_end(8)
    assert stop.is_full(3) and not stop.is_full(2)


def test_rows_of_the_head_without_a_token_are_never_answers() -> None:
    logits = torch.zeros(1, 5)
    assert torch.isinf(Below(3)(logits, [[]])).tolist() == [[False, False, False, True, True]]
    assert Below(5)(logits, [[]]) is logits


def run_greedy(logits: list[float], rule: NoLoop | None, steps: int) -> list[int]:
    """Greedy decoding of a model that says the same at every step."""
    ids: list[int] = []
    for _ in range(steps):
        logits_BV = torch.tensor([logits])
        ids.append(int((logits_BV if rule is None else rule(logits_BV, [ids])).argmax()))
    return ids


def longest_stretch(ids: list[int], period: int) -> int:
    """Ids of the longest stretch that repeats with this period; 0 when nothing does."""
    best = run = 0
    for at in range(period, len(ids)):
        run = run + 1 if ids[at] == ids[at - period] else 0
        best = max(best, run)
    return best + period if best else 0


def test_a_model_stuck_on_one_code_is_moved_on() -> None:
    rule = NoLoop(end_id=3, max_length=5, max_period=2)
    assert run_greedy([3.0, 2.0, 1.0, 0.0], None, 12) == [0] * 12
    assert run_greedy([3.0, 2.0, 1.0, 0.0], rule, 12) == [0] * 5 + [1] + [0] * 5 + [1]


@pytest.mark.parametrize("period", [1, 2, 3, 5, 8])
def test_no_cycle_gets_longer_than_allowed(period: int) -> None:
    """A model that copies what stood `period` codes ago would do so for ever."""
    rule, ids = NoLoop(end_id=99), list(range(period))
    for _ in range(400):
        logits_BV = torch.zeros(1, 100)
        logits_BV[0, ids[-period]] = 9.0
        logits_BV[0, 50 + len(ids) % 40] = 1.0  # the next likeliest
        ids.append(int(rule(logits_BV, [ids]).argmax()))
    assert 3 * period <= longest_stretch(ids, period) <= max(25, 3 * period)
    assert len(set(ids)) > period


def test_speech_that_does_not_loop_is_left_alone_and_so_is_the_end() -> None:
    rule = NoLoop(end_id=3, max_length=6, max_period=2)
    logits_BV = torch.zeros(4, 4)
    assert rule(logits_BV, [[0] * 5, [0, 1, 0, 1, 0], [0, 0, 0, 1, 0, 0], []]) is logits_BV
    out = rule(logits_BV, [[2] * 6, [3] * 6, [1, 2] * 3, [0, 1, 2, 0, 1, 2]])
    assert torch.isinf(out).nonzero().tolist() == [[0, 2], [2, 1]]


def test_twice_the_same_word_is_no_loop() -> None:
    word = [5, 6, 7, 8, 9, 10, 11, 12]
    logits_BV = torch.zeros(1, 20)
    assert NoLoop(end_id=19, max_length=10)(logits_BV, [word + word[:7]]) is logits_BV
