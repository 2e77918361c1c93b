"""The source: exact phase over long streams, continuity over pieces, harmonics at the right places, noise of a request its own."""

import math

import numpy as np
import pytest
import torch

from osum_echat.config_token2wav import VocoderConfig
from osum_echat.token2wav.source import HarmonicSource, SourceState

RATE, HOP = 24000, 480


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def source(num_harmonics: int = 3, noise_std: float = 0.0) -> HarmonicSource:
    return HarmonicSource(VocoderConfig(num_harmonics=num_harmonics, noise_std=noise_std), RATE, HOP)


def sine_of(module: HarmonicSource, f0_BF: torch.Tensor, state: SourceState, index: int) -> np.ndarray:
    """One sine of the source before it is mixed: the mixing layer picks it, the tanh is undone."""
    with torch.no_grad():
        module.l_linear.weight.zero_()
        module.l_linear.weight[0, index] = 1.0
        module.l_linear.bias.zero_()
        return torch.atanh(module(f0_BF, state)[0].double())[0, 0].numpy()


@pytest.mark.parametrize("index", [0, 1, 3])
def test_sines_equal_accumulated_phase_in_float64(index: int) -> None:
    module = source()
    state = module.init_state(1, generators(5))
    f0_F = 150.0 + 100.0 * torch.rand(200, generator=torch.Generator().manual_seed(1))
    got = sine_of(module, f0_F.unsqueeze(0), state, index)
    cycles = np.cumsum(np.repeat(f0_F.double().numpy(), HOP) / RATE)
    expected = 0.1 * np.sin(2 * np.pi * (index + 1) * cycles + state.offset_BN[0, index].item())
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_fundamental_starts_at_phase_zero_and_harmonics_anywhere() -> None:
    offset_BN = source(8).init_state(2, generators(1, 2)).offset_BN
    assert not offset_BN[:, 0].any()
    assert (offset_BN.abs() <= math.pi).all() and offset_BN[:, 1:].unique().numel() == 16


def test_phase_is_exact_after_ten_minutes() -> None:
    module = source()
    state = module.init_state(1, generators(0))
    hz, frames = 203.7, 30000
    # what the state carries, without generating the samples
    step = torch.tensor([hz]).double() / RATE * HOP
    late = SourceState((step * frames).remainder(1.0), state.offset_BN, None)
    got = sine_of(module, torch.full((1, 2), hz), late, 2)
    f32 = float(torch.tensor(hz))
    sample = frames * HOP + np.arange(1, 2 * HOP + 1)
    np.testing.assert_allclose(got, 0.1 * np.sin(2 * np.pi * 3 * (f32 / RATE) * sample + state.offset_BN[0, 2].item()), atol=5e-6)
    walked = module.init_state(1, generators(0))
    for _ in range(30):
        _, walked = module._sines(torch.full((1, 100), hz), walked)
    assert abs(walked.phase_B.item() - float((step * 3000).remainder(1.0))) < 1e-9


@pytest.mark.parametrize("hop", [HOP, 105])  # torch draws normal numbers in blocks of 16: 4 x 105 is no multiple
def test_cut_anywhere_it_goes_on_in_phase_and_with_the_same_noise(hop: int) -> None:
    torch.manual_seed(0)  # of the weights: with some, one in thirty, a voiced sample jumps by more than 0.1
    module = HarmonicSource(VocoderConfig(num_harmonics=3), RATE, hop)
    f0_BF = torch.tensor([[0.0, 120, 121, 0, 0, 250, 240, 230, 5, 180]])
    whole, _ = module(f0_BF, module.init_state(1, generators(3)))
    for cuts in ([1] * 10, [3, 0, 6, 1], [9, 1]):
        state, pieces = module.init_state(1, generators(3)), []
        for piece in f0_BF.split(cuts, 1):
            samples, state = module(piece, state)
            pieces.append(samples)
        torch.testing.assert_close(torch.cat(pieces, 2), whole, atol=1e-6, rtol=0)
    jumps = whole[0, 0].diff().abs()[6 * hop : 8 * hop]  # inside voiced frames, over their borders
    assert jumps.max() < 0.1


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    module = source(noise_std=0.003)
    f0_BF = torch.tensor([[100.0, 0.0, 50.0], [0.0, 200.0, 210.0]])
    both, _ = module(f0_BF, module.init_state(2, generators(7, 8)))
    alone, _ = module(f0_BF[1:], module.init_state(1, generators(8)))
    torch.testing.assert_close(both[1:], alone, atol=1e-7, rtol=0)
    other, _ = module(f0_BF[1:], module.init_state(1, generators(9)))
    assert (other - alone).abs().max() > 1e-3


def test_voiced_is_sines_and_unvoiced_is_noise_of_a_third() -> None:
    module = source(noise_std=0.003)
    state = module.init_state(1, None)
    unvoiced = sine_of(module, torch.full((1, 60), 9.0), state, 1)
    assert unvoiced.std() == pytest.approx(0.1 / 3, rel=0.03) and abs(np.corrcoef(unvoiced[1:], unvoiced[:-1])[0, 1]) < 0.03
    voiced = sine_of(module, torch.full((1, 60), 100.0), state, 1)
    spectrum = np.abs(np.fft.rfft(voiced))
    assert spectrum.argmax() * RATE / len(voiced) == pytest.approx(200.0)
    assert voiced.std() == pytest.approx(math.sqrt(0.1**2 / 2 + 0.003**2), rel=0.01)


def test_no_frames_give_no_samples_and_keep_the_state() -> None:
    module = source()
    state = module.init_state(2, generators(1, 2))
    samples, after = module(torch.zeros(2, 0), state)
    assert samples.shape == (2, 1, 0) and torch.equal(after.phase_B, state.phase_B)
