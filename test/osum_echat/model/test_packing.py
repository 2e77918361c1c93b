"""Packed attention against one sequence at a time."""

import pytest
import torch
import torch.nn.functional as F

from osum_echat.model import packing as packing_module
from osum_echat.model.packing import Packing, packed_attention


def _one_by_one(q, k, v, lens, causal):
    outputs = []
    for a, b, c in zip(q.split(lens), k.split(lens), v.split(lens), strict=True):
        b, c = (x.repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(0, 1) for x in (b, c))
        outputs.append(F.scaled_dot_product_attention(a.transpose(0, 1), b, c, is_causal=causal).transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("lens", [[7], [5, 5, 5], [3, 20, 1, 19, 2, 18, 9]])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
@pytest.mark.parametrize("fused", [False, True])
def test_equals_unpacked_with_gradients(lens, causal, heads, fused, monkeypatch):
    if fused:
        monkeypatch.setattr(packing_module, "_MAX_SCORE_ELEMENTS", 0)
    torch.manual_seed(0)
    q, k, v = (torch.randn(sum(lens), n, 8, requires_grad=True) for n in (heads[0], heads[1], heads[1]))
    weight = torch.randn(sum(lens), heads[0], 8)
    got = packed_attention(q, k, v, Packing.from_lens(lens), causal)
    want = _one_by_one(q, k, v, lens, causal)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    got_grads, want_grads = (torch.autograd.grad((y * weight).sum(), (q, k, v)) for y in (got, want))
    for a, b in zip(got_grads, want_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_rows_and_offsets_of_positions():
    packing = Packing.from_cu_seqlens(torch.tensor([0, 2, 3, 6], dtype=torch.int32))
    assert packing.lens == (2, 1, 3) and packing.max_seqlen == 3 and packing.total == 6
    assert packing.row_T.tolist() == [0, 0, 1, 2, 2, 2]
    assert packing.offset_T.tolist() == [0, 1, 0, 0, 1, 2]


def test_empty_sequence_and_wrong_total_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        Packing.from_lens([3, 0])
    q = torch.randn(4, 2, 8)
    with pytest.raises(ValueError, match="4 positions"):
        packed_attention(q, q, q, Packing.from_lens([3]), True)


def test_bfloat16_is_close():
    torch.manual_seed(0)
    lens = [12, 3, 7]
    q, k, v = (torch.randn(sum(lens), 2, 8) for _ in range(3))
    got = packed_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), Packing.from_lens(lens), True)
    assert got.dtype == torch.bfloat16
    assert float((got.float() - _one_by_one(q, k, v, lens, True)).abs().max()) < 0.05
