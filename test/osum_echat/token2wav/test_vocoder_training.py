"""Losses by hand and against numpy, segments in step with their features, training that learns, with and without discriminators."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from osum_echat.audio.mel import MelSpectrogram
from osum_echat.audio.pitch import track_pitch
from osum_echat.config import DataConfig, SourceConfig, TrainConfig, VocoderRun
from osum_echat.config_token2wav import AdversarialConfig, MelConfig, VocoderConfig, VocoderLossConfig
from osum_echat.errors import DataError
from osum_echat.token2wav.vocoder import VocoderOutput
from osum_echat.token2wav.vocoder_losses import MultiResolutionStftLoss, VocoderLoss
from osum_echat.token2wav.vocoder_training import VocoderBatch, VocoderTraining, draw_segment

MEL = MelConfig(num_mels=20, n_fft=240, hop=60, sample_rate=6000, high_hz=2500.0)
SMALL = VocoderConfig(
    channels=32,
    upsample_rates=[5, 3],
    upsample_kernels=[11, 7],
    resblock_kernels=[3],
    resblock_dilations=[1, 3],
    source_kernels=[3, 3],
    num_harmonics=14,
    f0_channels=32,
)
JUDGED = VocoderLossConfig(stft_sizes=[64, 128], adversarial=AdversarialConfig(periods=[2, 3], num_scales=1, channels=128))


def make_model(loss: VocoderLossConfig | None = None, seed: int = 0) -> VocoderTraining:
    torch.manual_seed(seed)
    data, train = DataConfig(train=[SourceConfig(list="none")]), TrainConfig(max_steps=1)
    loss = loss or VocoderLossConfig(stft_sizes=[64, 128, 256])
    return VocoderTraining(VocoderRun(mel=MEL, model=SMALL, loss=loss, data=data, train=train)).train()


def make_batch(rows: int = 4, seed: int = 0) -> VocoderBatch:
    rng = np.random.default_rng(seed)
    segments = [draw_segment(voice(), MelSpectrogram(MEL), 40, rng) for _ in range(rows)]
    names, tensors = [""] * rows, {"mel_BFM": "mel_FM", "f0_BF": "f0_F", "samples_BS": "samples_S"}
    seeds = rng.integers(1000, size=rows).tolist()
    return VocoderBatch(names, names, seeds, **{key: torch.stack([getattr(x, name) for x in segments]) for key, name in tensors.items()})


def voice(seconds: float = 2.0, rate: int = MEL.sample_rate) -> np.ndarray:
    """A gliding voice with two formants; over the noise of a room, alone in the first tenth."""
    time = np.arange(int(seconds * rate)) / rate
    hz = 150 * 2 ** (0.3 * np.sin(2 * np.pi * 1.1 * time))
    phase = 2 * np.pi * np.cumsum(hz) / rate
    formants = lambda f: np.exp(-(((f - 500) / 250) ** 2)) + 0.5 * np.exp(-(((f - 1700) / 400) ** 2)) + 0.01  # noqa: E731
    samples = sum(formants(h * hz) * np.sin(h * phase) for h in range(1, 15)) * 0.2
    samples[: len(samples) // 10] = 0.0
    return samples + 0.005 * np.random.default_rng(0).standard_normal(len(samples))


def slow_stft_loss(generated: np.ndarray, recorded: np.ndarray, size: int) -> float:
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)

    def magnitude(x: np.ndarray) -> np.ndarray:
        x = np.pad(x, size // 2, mode="reflect")
        frames = [x[start : start + size] * window for start in range(0, len(x) - size + 1, size // 4)]
        return np.sqrt(np.maximum(np.abs(np.fft.rfft(np.array(frames))) ** 2, 1e-7))

    a, b = magnitude(generated), magnitude(recorded)
    return np.sqrt(((b - a) ** 2).sum()) / np.sqrt((b**2).sum()) + np.abs(np.log(a) - np.log(b)).mean()


def test_stft_loss_equals_numpy_and_doubling_costs_one_plus_log_two() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 1500)).astype(np.float32)
    loss = MultiResolutionStftLoss([64, 128])
    expected = (slow_stft_loss(a, b, 64) + slow_stft_loss(a, b, 128)) / 2
    assert loss(torch.from_numpy(a)[None], torch.from_numpy(b)[None]).item() == pytest.approx(expected, rel=1e-4)
    recorded = torch.from_numpy(b)[None]
    assert loss(recorded, recorded).item() == 0.0
    assert loss(2 * recorded, recorded).item() == pytest.approx(1 + math.log(2), rel=1e-4)


def test_total_is_the_weighted_sum_of_its_parts() -> None:
    cfg = VocoderLossConfig(mel_weight=3.0, stft_weight=5.0, f0_weight=7.0, stft_sizes=[64])
    recorded_BS = 0.1 * torch.randn(1, 12000, generator=torch.Generator().manual_seed(0))
    output = VocoderOutput(2 * recorded_BS, torch.tensor([[110.0, 0.0]]))
    total, parts = VocoderLoss(cfg, MEL)(output, recorded_BS, torch.tensor([[100.0, 4.0]]))
    assert parts["f0"].item() == pytest.approx(7.0)
    assert parts["mel"].item() == pytest.approx(math.log(2), rel=1e-3)  # every bin is up by a factor of two
    assert set(parts) == {"mel", "stft", "f0"}
    assert total.item() == pytest.approx(3 * parts["mel"].item() + 5 * parts["stft"].item() + 7 * 7)


def test_mel_loss_hears_what_the_input_mel_leaves_out() -> None:
    time = torch.arange(6000) / 6000
    quiet = 0.1 * torch.randn(1, 6000, generator=torch.Generator().manual_seed(0)) * 0.01
    hiss = quiet + 0.3 * torch.sin(2 * torch.pi * 2850 * time)
    _, parts = VocoderLoss(VocoderLossConfig(stft_sizes=[64]), MEL)(VocoderOutput(hiss, torch.zeros(1, 1)), quiet, torch.zeros(1, 1))
    below = MelSpectrogram(MEL)
    assert parts["mel"].item() > 2 * (below(hiss) - below(quiet)).abs().mean().item()


def test_loss_of_a_silent_segment_is_bounded() -> None:
    generated_BS = 0.1 * torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))
    recorded_BS = torch.stack((torch.zeros(3000), 0.1 * torch.randn(3000, generator=torch.Generator().manual_seed(1))))
    silent, loud = MultiResolutionStftLoss([64, 128])(generated_BS, recorded_BS).tolist()
    assert math.log(1e3) < silent < 20 + math.log(1e4) and loud < 3


def test_segments_are_in_step_with_their_features() -> None:
    mel, rng = MelSpectrogram(MEL), np.random.default_rng(1)
    samples_S = voice()
    whole_FM, whole_F = mel.extract(torch.from_numpy(samples_S).float()), track_pitch(samples_S, MEL.sample_rate, MEL.hop)
    starts = set()
    for _ in range(20):
        segment = draw_segment(samples_S, mel, 40, rng)
        assert segment.mel_FM.shape == (40, 20) and segment.f0_F.shape == (40,) and segment.samples_S.shape == (2400,)
        (start,) = (
            (np.lib.stride_tricks.sliding_window_view(samples_S.astype(np.float32), 2400) == segment.samples_S.numpy()).all(1).nonzero()[0]
        )
        assert start % MEL.hop == 0
        here = slice(start // MEL.hop, start // MEL.hop + 40)
        torch.testing.assert_close(segment.mel_FM, whole_FM[here], atol=1e-4, rtol=0)
        torch.testing.assert_close(segment.f0_F, torch.from_numpy(whole_F[here]), atol=1.0, rtol=0)
        starts.add(here.start)
    assert min(starts) < 20 and max(starts) > 140 and len(starts) > 12


def test_silence_of_a_recording_is_silence_in_its_segments() -> None:
    """What is unvoiced because the recording is loud elsewhere stays so in a segment without anything loud."""
    samples_S = np.concatenate((1e-3 * voice(3.0), voice(0.5)))
    assert (
        not track_pitch(samples_S, MEL.sample_rate, MEL.hop)[:290].any() and track_pitch(samples_S[:12000], MEL.sample_rate, MEL.hop).any()
    )
    rng = np.random.default_rng(0)
    pitches = [draw_segment(samples_S, MelSpectrogram(MEL), 40, rng).f0_F for _ in range(12)]
    assert sum(not pitch_F.any() for pitch_F in pitches) > 6


def test_short_recordings_continue_in_silence_and_bad_ones_are_named() -> None:
    mel, rng = MelSpectrogram(MEL), np.random.default_rng(0)
    segment = draw_segment(voice(0.1), mel, 40, rng)
    assert len(segment.f0_F) == 40 and not segment.samples_S[600:].any() and not segment.f0_F[15:].any()
    with pytest.raises(DataError) as empty:
        draw_segment(np.zeros(0), mel, 40, rng)
    assert empty.value.reason == "empty_audio"
    with pytest.raises(DataError) as nan:
        draw_segment(np.full(6000, np.inf), mel, 40, rng)
    assert nan.value.reason == "nan_audio"


@pytest.mark.slow
def test_overfits_one_voiced_sound_and_follows_the_pitch() -> None:
    model = make_model(VocoderLossConfig(stft_sizes=[128, 256, 512], mel_weight=5.0, stft_weight=15.0))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, (0.8, 0.99))
    samples_S = torch.from_numpy(voice()).float()
    mel_FM, f0_F = MelSpectrogram(MEL).extract(samples_S), torch.from_numpy(track_pitch(voice(), MEL.sample_rate, MEL.hop))

    @torch.no_grad()
    def loss_of_whole(f0_F: Tensor) -> float:
        output = model.vocoder(mel_FM[None], f0_F[None], [torch.Generator().manual_seed(0)])
        return model.loss.stft(output.samples_BS, samples_S[None]).item()

    before = loss_of_whole(f0_F)
    for step in range(250):
        optimizer.zero_grad()
        model(make_batch(seed=step))["total"].mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    assert loss_of_whole(f0_F) < 0.5 * before
    assert loss_of_whole(1.2 * f0_F) > 1.5 * loss_of_whole(f0_F)  # the sines of the source carry the pitch
    with torch.no_grad():
        error_F = model.vocoder(mel_FM[None]).f0_BF[0] - f0_F
    assert error_F[f0_F > 0].abs().median() < 10.0  # of a glide from 122 to 185 Hz


def test_the_total_is_both_sides_of_the_game() -> None:
    losses = make_model(JUDGED)(make_batch())
    assert list(losses) == ["total", "mel", "stft", "f0", "adversarial", "features", "judge"]
    assert all(part.shape == (4,) and torch.isfinite(part).all() and (part > 0).all() for part in losses.values())
    weighted = 45 * losses["mel"] + losses["stft"] + losses["f0"] + losses["adversarial"] + 2 * losses["features"]
    torch.testing.assert_close(losses["total"], weighted + losses["judge"])


def test_each_side_learns_from_its_own_loss_alone() -> None:
    model, batch = make_model(JUDGED), make_batch()
    assert model.discriminators is not None
    judges, speaker = list(model.discriminators.parameters()), list(model.vocoder.parameters())
    losses = model(batch)
    grads = {
        name: torch.autograd.grad(losses[name].sum(), [*judges, *speaker], retain_graph=True, allow_unused=True)
        for name in ("total", "judge", "adversarial", "features")
    }
    assert all(
        grad is not None and torch.equal(grad, own) for grad, own in zip(grads["total"], grads["judge"][: len(judges)], strict=False)
    )
    assert all(grad is None for grad in grads["judge"][len(judges) :])
    for name in ("adversarial", "features"):
        assert all(grad is None for grad in grads[name][: len(judges)])
        assert sum(grad is not None and bool(grad.any()) for grad in grads[name][len(judges) :]) > 0.8 * len(speaker)
    assert all(judge.requires_grad for judge in judges)


def test_discriminators_that_are_not_trained_stay_so() -> None:
    model = make_model(JUDGED)
    assert model.discriminators is not None
    model.discriminators.requires_grad_(False)
    model(make_batch())["total"].sum().backward()
    assert all(judge.grad is None and not judge.requires_grad for judge in model.discriminators.parameters())


def test_evaluation_leaves_the_discriminators_out_and_predicts_the_pitch() -> None:
    model, batch = make_model(JUDGED).eval(), make_batch()
    with torch.no_grad():
        losses, again = model(batch), model(batch)
        output = model.vocoder(batch.mel_BFM, None, batch.generators())
    assert list(losses) == ["total", "mel", "stft", "f0"] and torch.equal(losses["total"], again["total"])
    torch.testing.assert_close(losses["total"], model.loss(output, batch.samples_BS, batch.f0_BF)[0])
