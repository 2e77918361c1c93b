"""Rules that keep ids out and end an answer."""

import torch

from osum_echat.generate.rules import Below, Forbid, StopRule


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
