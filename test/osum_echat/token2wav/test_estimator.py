"""Velocity estimator: the published form against a functional reading of the published keys, the causal form against its promises."""

import math

import pytest
import torch
import torch.nn.functional as F

from osum_echat.config_token2wav import EstimatorConfig
from osum_echat.token2wav.blocks import Scope, padding_scope
from osum_echat.token2wav.chunks import ChunkGrid
from osum_echat.token2wav.estimator import VelocityEstimator, time_sinusoids

CFG = EstimatorConfig(channels=[16, 24], num_blocks=2, num_mid_blocks=2, num_heads=2, head_dim=8)


def build(causal, channels=(16, 24)):
    torch.manual_seed(0)
    return VelocityEstimator(CFG.model_copy(update={"channels": list(channels)}), 4, causal).eval()


def inputs(batch, frames, seed=0):
    draw = torch.Generator().manual_seed(seed)
    mels = [torch.randn(batch, frames, 4, generator=draw) for _ in range(3)]
    return mels[0], mels[1], torch.randn(batch, 4, generator=draw), mels[2], torch.rand(batch, generator=draw)


def reference(w, x, mu, speaker, prompt, t):
    """The U-Net of the published flow for one row without padding, from a table of weights alone; two levels."""

    def block(x, name):
        y = F.conv1d(x, w[f"{name}.conv.weight"], w[f"{name}.conv.bias"], padding=1)
        y = F.group_norm(y, 8, w[f"{name}.norm.weight"], w[f"{name}.norm.bias"])
        return y * torch.tanh(F.softplus(y))

    def linear(x, name):
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    def attention(x, name):
        q, k, v = (linear(x, f"{name}.{part}_proj").view(*x.shape[:2], 2, 8) for part in "qkv")
        scores = torch.einsum("bqnh,bknh->bnqk", q, k) / math.sqrt(8)
        return linear(torch.einsum("bnqk,bknh->bqnh", scores.softmax(-1), v).flatten(2), f"{name}.o_proj")

    def stage(x, time, name):
        h = block(x, f"{name}.residual.block1")
        h = h + linear(time * torch.tanh(F.softplus(time)), f"{name}.residual.time_proj")[:, :, None]
        h = block(h, f"{name}.residual.block2") + F.conv1d(x, w[f"{name}.residual.skip.weight"], w[f"{name}.residual.skip.bias"])
        h = h.transpose(1, 2)
        for i in range(2):
            inner = f"{name}.blocks.{i}"
            h = h + attention(norm(h, f"{inner}.norm1"), inner)
            z = linear(norm(h, f"{inner}.norm2"), f"{inner}.up_proj")
            h = h + linear(z * 0.5 * (1 + torch.erf(z / math.sqrt(2))), f"{inner}.down_proj")
        return h.transpose(1, 2)

    def conv(x, name, stride=1):
        return F.conv1d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=stride, padding=1)

    rates = torch.tensor([10000 ** (-i / 7) for i in range(8)])
    sinusoids = torch.cat((torch.sin(1000 * t[:, None] * rates), torch.cos(1000 * t[:, None] * rates)), 1)
    time = linear(F.silu(linear(sinusoids, "time_in")), "time_out")
    x = torch.cat((x, mu, speaker[:, None].expand_as(x), prompt), 2).transpose(1, 2)
    full = stage(x, time, "down.0")
    half = stage(conv(full, "down.0.resample", 2), time, "down.1")
    x = conv(half, "down.1.resample")
    for i in range(2):
        x = stage(x, time, f"mid.{i}")
    x = stage(torch.cat((x, half), 1), time, "up.0")
    x = F.conv_transpose1d(x, w["up.0.resample.weight"], w["up.0.resample.bias"], stride=2, padding=1)
    x = conv(stage(torch.cat((x[:, :, : full.shape[2]], full), 1), time, "up.1"), "up.1.resample")
    x = block(x, "final_block")
    return F.conv1d(x, w["final_proj.weight"], w["final_proj.bias"]).transpose(1, 2)


@pytest.mark.parametrize("frames", [1, 2, 9, 24])
@torch.no_grad()
def test_published_form_is_its_formula(frames):
    estimator = build(causal=False)
    args = inputs(2, frames)
    torch.testing.assert_close(estimator(*args, Scope()), reference(estimator.state_dict(), *args), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padded_rows_are_the_rows_alone():
    estimator = build(causal=False)
    lens = [11, 5, 8, 1]
    args = inputs(4, 11)
    together = estimator(*args, padding_scope(torch.tensor(lens), 11))
    for row, length in enumerate(lens):
        alone = estimator(*(x[row : row + 1, :length] if x.dim() == 3 else x[row : row + 1] for x in args), Scope())
        torch.testing.assert_close(together[row : row + 1, :length], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [(16,), (16, 24)])
@torch.no_grad()
def test_causal_form_does_not_see_the_next_chunk(channels):
    estimator = build(causal=True, channels=channels)
    args = inputs(1, 20)
    grid = ChunkGrid(*(torch.tensor([n]) for n in (4, 6, 8)))
    scope = Scope(None, grid.mask(torch.tensor([20]), 20, 50, True))
    before = estimator(*args, scope)
    for end, change in ((4, 4), (10, 10), (18, 18)):
        later = [x.clone() for x in args]
        for i in (0, 1, 3):
            later[i][:, change:] += 1.0
        after = estimator(*later, scope)
        assert torch.equal(after[:, :end], before[:, :end]) and not torch.equal(after[:, end:], before[:, end:])
    inside = [x.clone() for x in args]
    inside[0][:, 9] += 1.0  # the last frame of the second chunk is seen by its first
    assert not torch.equal(estimator(*inside, scope)[:, 4], before[:, 4])


def test_time_sinusoids_tell_close_times_apart():
    table = time_sinusoids(torch.tensor([0.0, 0.001, 1.0]), 8)
    assert table[0].tolist() == [0.0] * 4 + [1.0] * 4
    assert table[1, 0].item() == pytest.approx(math.sin(1.0), abs=1e-6)
    assert table[2, 7].item() == pytest.approx(math.cos(1000 / 10000), abs=1e-6)


def test_every_parameter_gets_a_gradient():
    for causal in (True, False):
        estimator = build(causal)
        estimator(*inputs(2, 9), Scope()).square().sum().backward()
        # A bias in front of a norm of one group moves nothing; all others matter.
        silent = [n for n, p in estimator.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9]
        assert not silent, silent
