"""Chunk masks against a naive reading of their definition; blocks with masks against rows alone."""

import random

import pytest
import torch

from osum_echat.token2wav.blocks import FrameNorm, Scope, TimeConv, padding_scope
from osum_echat.token2wav.chunks import Cache, ChunkGrid


def naive_chunks(prompt, first, later, length):
    """Chunk number of every position."""
    numbers = []
    for position in range(length):
        if position < prompt:
            numbers.append(0)
        elif position < prompt + first:
            numbers.append(1)
        else:
            numbers.append(2 + (position - prompt - first) // later)
    return numbers


@pytest.mark.parametrize("see_prompt", [False, True])
def test_mask_is_what_the_definition_says(see_prompt):
    rng = random.Random(0)
    for _ in range(20):
        lens = [rng.randint(1, 40) for _ in range(3)]
        grid = [(rng.randint(0, min(12, n - 1)), rng.randint(1, 9), rng.randint(1, 9)) for n in lens]
        left = rng.randint(1, 15)
        mask = ChunkGrid(*(torch.tensor(x) for x in zip(*grid, strict=True))).mask(torch.tensor(lens), max(lens), left, see_prompt)
        for row, (length, (prompt, first, later)) in enumerate(zip(lens, grid, strict=True)):
            chunks = naive_chunks(prompt, first, later, length)
            for query in range(length):
                begin = chunks.index(chunks[query])
                want = [chunks[key] <= chunks[query] and (key >= begin - left or (see_prompt and key < prompt)) for key in range(length)]
                assert mask[row, query].tolist() == want + [False] * (max(lens) - length)
        assert mask.any(2).all()  # also padded queries see something: no empty softmax


def test_scaling_the_grid_scales_the_mask():
    grid = ChunkGrid(torch.tensor([3]), torch.tensor([2]), torch.tensor([4]))
    tokens = grid.mask(torch.tensor([14]), 14, 5, True)
    frames = grid.scaled(2).mask(torch.tensor([28]), 28, 10, True)
    assert torch.equal(frames, tokens.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_cache_shows_what_the_mask_shows():
    left, sink = 5, 3
    sizes = [3, 2, 4, 4, 1]
    values = torch.arange(14.0).view(1, 14, 1)
    grid = ChunkGrid(torch.tensor([3]), torch.tensor([2]), torch.tensor([4]))
    mask = grid.mask(torch.tensor([14]), 14, left, True)[0]
    old, begin = [], 0
    for size in sizes:
        cache = Cache(old, left, sink)
        seen = cache.window(values[:, begin : begin + size])
        assert seen.flatten().tolist() == mask[begin].nonzero().flatten().tolist()
        old, begin = cache.new, begin + size


def test_convolution_in_pieces_is_the_whole_and_looks_back_only():
    torch.manual_seed(0)
    conv = TimeConv(3, 5, causal=True)
    x = torch.randn(1, 3, 12)
    whole = conv(x, Scope())
    old, pieces = [], []
    for piece in x.split([1, 1, 4, 6], 2):
        cache = Cache(old, 1)
        pieces.append(conv(piece, Scope(cache=cache)))
        old = cache.new
    torch.testing.assert_close(torch.cat(pieces, 2), whole, rtol=1e-5, atol=1e-6)
    changed = x.clone()
    changed[:, :, 7:] = 9.0
    assert torch.equal(conv(changed, Scope())[:, :, :7], whole[:, :, :7])


def test_masked_norm_of_a_padded_row_is_torchs_group_norm_of_the_row_alone():
    torch.manual_seed(0)
    norm = FrameNorm(2, 6, causal=False)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    rows = [torch.randn(1, 6, n) * 3 + 1 for n in (9, 4)]
    batch = torch.full((2, 6, 9), 100.0)
    for i, row in enumerate(rows):
        batch[i, :, : row.shape[2]] = row[0]
    got = norm(batch, padding_scope(torch.tensor([9, 4]), 9))
    for i, row in enumerate(rows):
        want = torch.nn.functional.group_norm(row, 2, norm.weight, norm.bias)
        torch.testing.assert_close(got[i : i + 1, :, : row.shape[2]], want, rtol=1e-5, atol=1e-5)


def test_causal_norm_is_torchs_group_norm_of_every_frame_alone():
    norm = FrameNorm(2, 6, causal=True)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 6, 5)
    want = torch.stack([torch.nn.functional.group_norm(x[:, :, f], 1, norm.weight, norm.bias) for f in range(5)], 2)
    torch.testing.assert_close(norm(x, Scope()), want, rtol=1e-5, atol=1e-5)
