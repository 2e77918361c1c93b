"""Norms, positions and LoRA against their formulas."""

import torch
import torch.nn.functional as F

from osum_echat.model.layers import LoraLinear, RmsNorm, interleaved_sinusoids, rotary_angles, rotate, whisper_sinusoids


def test_rms_norm_and_its_gradients():
    torch.manual_seed(0)
    norm = RmsNorm(6, 1e-6)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(5, 3, 6, requires_grad=True)
    got, want = norm(x), F.rms_norm(x, (6,), norm.weight, 1e-6)
    torch.testing.assert_close(got, want)
    weight = torch.randn_like(x)
    grads = [torch.autograd.grad((y * weight).sum(), (x, norm.weight)) for y in (got, want)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_rms_norm_hands_out_the_autocast_dtype_and_float32_gradients():
    norm = RmsNorm(6, 1e-6)
    x = torch.randn(5, 6, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norm(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16 and x.grad.dtype == torch.float32 and norm.weight.grad.dtype == torch.float32


def test_rotation_is_the_complex_product_and_its_gradient():
    x = torch.randn(4, 2, 6, dtype=torch.float64, requires_grad=True)
    cos, sin = rotary_angles(torch.tensor([0, 1, 5, 9]), 6, 100.0, torch.float64)
    rates = torch.tensor([1.0, 100.0 ** (-1 / 3), 100.0 ** (-2 / 3)], dtype=torch.float64)
    turn = torch.polar(torch.ones(4, 3, dtype=torch.float64), torch.tensor([[0.0], [1.0], [5.0], [9.0]], dtype=torch.float64) * rates)
    want = torch.complex(x[..., :3], x[..., 3:]) * turn.unsqueeze(1)
    torch.testing.assert_close(rotate(x, cos, sin), torch.cat((want.real, want.imag), -1), rtol=1e-5, atol=1e-5)
    assert torch.autograd.gradcheck(lambda z: rotate(z, cos, sin), x)


def test_sinusoids_of_any_length():
    table = whisper_sinusoids(4000, 8, torch.device("cpu"))
    assert table.shape == (4000, 8)
    torch.testing.assert_close(table[7, 3], torch.sin(torch.tensor(7 / 10000.0)))
    torch.testing.assert_close(table[7, 4], torch.cos(torch.tensor(7.0)))
    table = interleaved_sinusoids(6000, 8, torch.device("cpu"))
    torch.testing.assert_close(table[7, 2], torch.sin(torch.tensor(7 * 10000.0**-0.25)))
    torch.testing.assert_close(table[7, 3], torch.cos(torch.tensor(7 * 10000.0**-0.25)))


def test_lora_starts_as_its_base_and_merges():
    torch.manual_seed(0)
    layer = LoraLinear(6, 5, True, rank=2, alpha=4.0, dropout=0.5)
    torch.nn.init.normal_(layer.lora_a)
    x = torch.randn(3, 6)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
    torch.nn.init.normal_(layer.lora_b)
    layer.eval()
    torch.testing.assert_close(layer(x), F.linear(x, layer.merged_weight(), layer.bias), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.merged_weight() - layer.weight, layer.lora_b @ layer.lora_a * 2, rtol=1e-5, atol=1e-5)
