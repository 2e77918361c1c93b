"""Flow matching without a model: values that can be worked out by hand."""

import math

import pytest
import torch

from osum_echat.token2wav.matching import cosine_time, draw_noise, euler, gaussian_velocity, path, squared_error


def test_cosine_time_is_the_published_schedule():
    got = cosine_time(torch.linspace(0, 1, 5, dtype=torch.float64)).tolist()
    assert got == pytest.approx([1 - math.cos(math.pi / 2 * i / 4) for i in range(5)], abs=1e-15)
    assert got[0] == 0.0 and got[4] == pytest.approx(1.0) and got[1] < 0.25


def test_path_begins_in_noise_ends_at_the_target_and_has_the_stated_velocity():
    target, noise = torch.randn(3, 5, 2, dtype=torch.float64), torch.randn(3, 5, 2, dtype=torch.float64)
    sigma = 0.1
    t = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    point, velocity = path(target, noise, t, sigma)
    torch.testing.assert_close(point[0], noise[0])
    torch.testing.assert_close(point[2], target[2] + sigma * noise[2])
    later, _ = path(target, noise, t + 1e-6, sigma)
    torch.testing.assert_close((later - point) / 1e-6, velocity, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("std", [0.1, 1.0])
@pytest.mark.parametrize("t", [0.0, 0.3, 0.9, 1.0])
def test_expected_velocity_is_the_regression_on_points_of_gaussian_targets(std, t):
    """Least squares over many draws finds the same line, and the same scatter around it."""
    draw, sigma, mean = torch.Generator().manual_seed(0), 0.01, 0.7
    target = mean + std * torch.randn(1, 200_000, 1, generator=draw, dtype=torch.float64)
    noise = torch.randn(1, 200_000, 1, generator=draw, dtype=torch.float64)
    time = torch.tensor([t], dtype=torch.float64)
    point, velocity = path(target, noise, time, sigma)
    expected, left = gaussian_velocity(point, torch.full_like(point, mean), torch.tensor([std], dtype=torch.float64), time, sigma)
    rest = (velocity - expected).flatten()
    assert rest.mean().abs() < 0.01 and rest.std().item() == pytest.approx(left.item(), rel=0.01)
    assert torch.corrcoef(torch.stack([rest, point.flatten()]))[0, 1].abs() < 0.01, "nothing of the point is left in the rest"


def test_error_of_a_linear_toy_has_its_analytic_value():
    """Target 0 and a model that answers a * y + b: the error is ((a (1 - (1 - s) t) + (1 - s)) z + b)^2, summed over real frames."""
    noise = torch.randn(2, 4, 3, dtype=torch.float64)
    t, sigma, a, b = torch.tensor([0.25, 0.5], dtype=torch.float64), 0.2, 0.7, 0.3
    point, velocity = path(torch.zeros_like(noise), noise, t, sigma)
    lens = torch.tensor([4, 2])
    total, count = (x.sum() for x in squared_error(a * point + b, velocity, lens))
    want = 0.0
    for row, length in enumerate(lens.tolist()):
        factor = a * (1 - (1 - sigma) * t[row].item()) + (1 - sigma)
        want += sum((factor * z + b) ** 2 for z in noise[row, :length].flatten().tolist())
    assert total.item() == pytest.approx(want, rel=1e-6) and count.item() == 6 * 3
    assert total.dtype == torch.float32 and count.dtype == torch.int64


def test_padding_counts_nothing_even_when_it_is_not_a_number():
    predicted = torch.zeros(1, 3, 2)
    predicted[0, 2] = float("nan")
    predicted.requires_grad_()
    total, count = squared_error(predicted, torch.ones(1, 3, 2), torch.tensor([2]))
    total.backward()
    assert total.item() == 4.0 and count.item() == 4 and predicted.grad[0].tolist() == [[-2.0, -2.0], [-2.0, -2.0], [0.0, 0.0]]


@pytest.mark.parametrize("num_steps", [1, 2, 7, 10])
def test_euler_is_exact_on_a_constant_velocity(num_steps):
    noise, velocity = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    got = euler(lambda step, x, t: velocity, noise, num_steps)
    torch.testing.assert_close(got, noise + velocity, rtol=1e-12, atol=1e-12)


def test_euler_visits_the_schedule_and_converges_to_the_exponential():
    times = []

    def velocity(step, x, t):
        assert step == len(times)
        times.append(t.item())
        return x

    noise = torch.ones(1, 1, 1, dtype=torch.float64)
    euler(velocity, noise, 10)
    assert times == pytest.approx([1 - math.cos(math.pi / 20 * i) for i in range(10)])
    errors = [abs(euler(lambda step, x, t: x, noise, n).item() - math.e) for n in (50, 100)]
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.02)  # first order


def test_noise_does_not_depend_on_how_many_frames_are_drawn_at_once():
    whole = draw_noise(torch.Generator().manual_seed(3), 40, 10)
    generator = torch.Generator().manual_seed(3)
    pieces = torch.cat([draw_noise(generator, n, 10) for n in (1, 0, 7, 32)])
    assert torch.equal(whole, pieces) and not torch.equal(whole[0], whole[1])
    assert abs(draw_noise(torch.Generator().manual_seed(0), 400, 80).std().item() - 1) < 0.02
