"""Token encoder against a naive reading of its formulas, and what it may see."""

import math

import torch
import torch.nn.functional as F

from osum_echat.config_token2wav import TokenEncoderConfig
from osum_echat.token2wav.chunks import ChunkGrid
from osum_echat.token2wav.encoder import LookAhead, RelativeAttention, TokenEncoder, distance_sinusoids

CFG = TokenEncoderConfig(width=12, num_layers=2, num_heads=3, ffn_width=20, dropout=0.0)


def naive_attention(layer, x_TD, visible_QK):
    """One query, one key, one head at a time."""
    length, width = x_TD.shape
    size = width // layer.num_heads
    q, k, v = layer.q_proj(x_TD), layer.k_proj(x_TD), layer.v_proj(x_TD)
    y = torch.zeros_like(x_TD)
    for head in range(layer.num_heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(length):
            scores = []
            for j in range(length):
                sinusoid = torch.tensor([(math.sin, math.cos)[c % 2]((i - j) * 10000 ** (-(c - c % 2) / width)) for c in range(width)])
                p = (layer.pos_proj.weight @ sinusoid)[part]
                score = (q[i, part] + layer.pos_bias_u[head]) @ k[j, part] + (q[i, part] + layer.pos_bias_v[head]) @ p
                scores.append(score / math.sqrt(size) if visible_QK[i, j] else torch.tensor(-math.inf))
            y[i, part] = torch.softmax(torch.stack(scores), 0) @ v[:, part]
    return layer.o_proj(y)


@torch.no_grad()
def test_relative_attention_is_its_formula():
    torch.manual_seed(0)
    layer = RelativeAttention(12, 3)
    x = torch.randn(1, 7, 12) * 2
    visible = ChunkGrid(*(torch.tensor([n]) for n in (0, 3, 2))).mask(torch.tensor([7]), 7, 4, False)
    torch.testing.assert_close(layer(x, visible, None)[0], naive_attention(layer, x[0], visible[0]), rtol=1e-4, atol=1e-5)
    everything = torch.ones(7, 7, dtype=torch.bool)
    torch.testing.assert_close(layer(x, None, None)[0], naive_attention(layer, x[0], everything), rtol=1e-4, atol=1e-5)


def test_sinusoids_of_distances_are_odd_and_even():
    table = distance_sinusoids(torch.arange(5, -6, -1), 8)
    torch.testing.assert_close(table[:, ::2], -table.flip(0)[:, ::2])
    torch.testing.assert_close(table[:, 1::2], table.flip(0)[:, 1::2])
    assert abs(table[3, 2].item() - math.sin(2 * 10000 ** (-0.25))) < 1e-6


@torch.no_grad()
def test_encoder_is_its_formula():
    torch.manual_seed(0)
    encoder = TokenEncoder(CFG, lookahead=0).eval()
    x = torch.randn(1, 6, 12)
    everything = torch.ones(6, 6, dtype=torch.bool)
    h = F.layer_norm(encoder.embed(x), (12,), encoder.embed_norm.weight, encoder.embed_norm.bias)[0] * math.sqrt(12)
    for layer in encoder.layers:
        h = h + naive_attention(layer.attention, F.layer_norm(h, (12,), layer.norm1.weight, layer.norm1.bias, 1e-12), everything)
        z = layer.up_proj(F.layer_norm(h, (12,), layer.norm2.weight, layer.norm2.bias, 1e-12))
        h = h + layer.down_proj(z * torch.sigmoid(z))
    want = F.layer_norm(h, (12,), encoder.after_norm.weight, encoder.after_norm.bias)
    torch.testing.assert_close(encoder(x)[0], want, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_look_ahead_is_a_convolution_and_stops_at_the_end_of_what_it_belongs_to():
    torch.manual_seed(0)
    layer = LookAhead(4, 2)
    x = torch.randn(1, 9, 4)
    weight = layer.proj.weight.view(4, 3, 4).transpose(1, 2)  # out, in, tap
    got = layer(x, torch.tensor([[5] * 5 + [9] * 4]))
    for part in (x[:, :5], x[:, 5:]):
        conv = F.conv1d(F.pad(part.transpose(1, 2), (0, 2)), weight, layer.proj.bias).transpose(1, 2)
        begin = 0 if part.shape[1] == 5 else 5
        torch.testing.assert_close(got[:, begin : begin + part.shape[1]], part + F.mish(conv), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_token_ahead_of_chunk_and_look_ahead_changes_nothing():
    torch.manual_seed(0)
    encoder = TokenEncoder(CFG, lookahead=2).eval()
    x = torch.randn(1, 20, 12)
    grid = ChunkGrid(*(torch.tensor([n]) for n in (0, 4, 6)))

    def run(x):
        return encoder(encoder.front(x, torch.full((1, 20), 20)), grid.mask(torch.tensor([20]), 20, 8, False))

    before = run(x)
    changed = x.clone()
    changed[:, 12:] += 1.0  # the second chunk is 4 … 9, its look-ahead 10 and 11
    after = run(changed)
    assert torch.equal(before[:, :10], after[:, :10])
    changed[:, 11] += 1.0
    assert not torch.equal(before[:, 9], run(changed)[:, 9]) and not torch.equal(before[:, 4], run(changed)[:, 4])
    assert torch.equal(before[:, :4], run(changed)[:, :4])
