"""Losses by hand and against numpy, segments in step with their features, training that learns, with and without discriminators."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from osum_echat.audio.mel import MelSpectrogram
from osum_echat.audio.pitch import track_pitch
from osum_echat.config_token2wav import AdversarialConfig, MelConfig, VocoderConfig, VocoderLossConfig, VocoderTrainConfig
from osum_echat.errors import DataError
from osum_echat.token2wav.vocoder import Vocoder, VocoderOutput
from osum_echat.token2wav.vocoder_losses import MultiResolutionStftLoss, VocoderLoss
from osum_echat.token2wav.vocoder_training import VocoderTrainer, draw_segments, make_example

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


def train_config(loss: VocoderLossConfig | None = None, lr: float = 3e-3) -> VocoderTrainConfig:
    return VocoderTrainConfig(segment_frames=40, batch_size=4, lr=lr, loss=loss or VocoderLossConfig(stft_sizes=[64, 128, 256]))


def make_trainer(cfg: VocoderTrainConfig, seed: int = 0) -> VocoderTrainer:
    torch.manual_seed(seed)
    return VocoderTrainer(Vocoder(SMALL, MEL), VocoderLoss(cfg.loss, MEL), cfg)


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


def test_segments_are_in_step_with_their_features() -> None:
    mel = MelSpectrogram(MEL)
    example = make_example(voice(), mel, 40)
    assert example.mel_FM.shape == (200, 20) and example.f0_F.shape == (200,) and example.samples_S.shape == (12000,)
    batch = draw_segments([example] * 8, 40, np.random.default_rng(1))
    assert batch.mel_BFM.shape == (8, 40, 20) and batch.f0_BF.shape == (8, 40) and batch.samples_BS.shape == (8, 2400)
    torch.testing.assert_close(mel(batch.samples_BS)[:, 2:-2], batch.mel_BFM[:, 2:-2], atol=1e-3, rtol=0)
    for row in range(8):
        heard_F = torch.from_numpy(track_pitch(batch.samples_BS[row].numpy(), MEL.sample_rate, MEL.hop))
        torch.testing.assert_close(heard_F[6:-6], batch.f0_BF[row, 6:-6], atol=1.0, rtol=0)
    assert len({tuple(row.tolist()) for row in batch.f0_BF}) > 4  # not the same place again and again


def test_short_recordings_continue_in_silence_and_bad_ones_are_named() -> None:
    mel = MelSpectrogram(MEL)
    example = make_example(voice(0.1), mel, 40)
    assert len(example.f0_F) == 40 and not example.samples_S[600:].any() and not example.f0_F[15:].any()
    draw_segments([example], 40, np.random.default_rng(0))
    with pytest.raises(DataError) as empty:
        make_example(np.zeros(0), mel, 40)
    assert empty.value.reason == "empty_audio"
    with pytest.raises(DataError) as nan:
        make_example(np.full(6000, np.inf), mel, 40)
    assert nan.value.reason == "nan_audio"


@pytest.mark.slow
def test_overfits_one_voiced_sound_and_follows_the_pitch() -> None:
    loss = VocoderLossConfig(stft_sizes=[128, 256, 512], mel_weight=5.0, stft_weight=15.0)
    trainer = make_trainer(train_config(loss))
    example = make_example(voice(), MelSpectrogram(MEL), 40)

    @torch.no_grad()
    def loss_of_whole(f0_F: Tensor) -> float:
        output = trainer.vocoder(example.mel_FM[None], f0_F[None], [torch.Generator().manual_seed(0)])
        return trainer.loss.stft(output.samples_BS, example.samples_S[None]).item()

    before = loss_of_whole(example.f0_F)
    rng = np.random.default_rng(0)
    for _ in range(250):
        trainer.step(draw_segments([example] * 4, 40, rng))
    after = loss_of_whole(example.f0_F)
    assert after < 0.5 * before
    assert loss_of_whole(1.2 * example.f0_F) > 1.5 * after  # the sines of the source carry the pitch
    with torch.no_grad():
        error_F = trainer.vocoder(example.mel_FM[None]).f0_BF[0] - example.f0_F
    assert error_F[example.f0_F > 0].abs().median() < 10.0  # of a glide from 122 to 185 Hz


def test_discriminators_are_trained_against_the_vocoder() -> None:
    trainer = make_trainer(train_config(JUDGED, lr=1e-3))
    assert trainer.discriminators is not None
    example = make_example(voice(), MelSpectrogram(MEL), 40)
    batch = draw_segments([example] * 4, 40, np.random.default_rng(0))
    before = [parameter.clone() for parameter in trainer.discriminators.parameters()]
    shown = trainer.step(batch)
    assert set(shown) == {"total", "mel", "stft", "f0", "adversarial", "features", "judge"}
    assert all(math.isfinite(value) and value > 0 for value in shown.values())
    weighted = 45 * shown["mel"] + shown["stft"] + shown["f0"] + shown["adversarial"] + 2 * shown["features"]
    assert shown["total"] == pytest.approx(weighted, rel=1e-5)
    assert all(not torch.equal(a, b) for a, b in zip(before, trainer.discriminators.parameters(), strict=True))
    first = shown["judge"]
    for _ in range(15):
        shown = trainer.step(batch)
    assert shown["judge"] < first


def test_the_vocoders_step_leaves_no_gradient_in_the_discriminators() -> None:
    trainer = make_trainer(train_config(JUDGED))
    assert trainer.discriminators is not None and trainer.judge_optimizer is not None
    judges = list(trainer.discriminators.parameters())
    own: list[Tensor] = []
    trainer.judge_optimizer.register_step_post_hook(lambda *_: own.extend(judge.grad.clone() for judge in judges))
    trainer.step(draw_segments([make_example(voice(), MelSpectrogram(MEL), 40)] * 2, 40, np.random.default_rng(0)))
    assert len(own) == len(judges)
    assert all(torch.equal(grad, judge.grad) and judge.requires_grad for grad, judge in zip(own, judges, strict=True))


@pytest.mark.parametrize("loss", [None, JUDGED], ids=["plain", "adversarial"])
def test_resumed_training_takes_the_same_steps(loss: VocoderLossConfig | None) -> None:
    cfg = train_config(loss, lr=1e-3)
    batch = draw_segments([make_example(voice(), MelSpectrogram(MEL), 40)] * 2, 40, np.random.default_rng(0))
    first = make_trainer(cfg)
    for _ in range(3):
        first.step(batch)
    second = make_trainer(cfg, seed=5)
    second.vocoder.load_state_dict(first.vocoder.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # a file would not share tensors
    for _ in range(2):
        torch.manual_seed(11)
        expected = first.step(batch)
        torch.manual_seed(11)
        assert second.step(batch) == expected


def test_a_broken_gradient_stops_training_before_the_weights() -> None:
    trainer = make_trainer(train_config())
    batch = draw_segments([make_example(voice(), MelSpectrogram(MEL), 40)] * 2, 40, np.random.default_rng(0))
    before = {key: value.clone() for key, value in trainer.vocoder.state_dict().items()}
    with pytest.raises(FloatingPointError, match="step 0"):
        trainer.step(batch._replace(f0_BF=batch.f0_BF * float("nan")))
    assert all(torch.equal(value, before[key]) for key, value in trainer.vocoder.state_dict().items())
