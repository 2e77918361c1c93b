"""The vocoder: published shapes, an independent forward in plain torch, streams equal to the whole, determinism, gradients, errors."""

import math
import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from osum_echat.audio.mel import MelSpectrogram
from osum_echat.config_token2wav import MelConfig, VocoderConfig
from osum_echat.errors import ConfigError
from osum_echat.token2wav.vocoder import Vocoder

PUBLISHED_MEL = MelConfig(sample_rate=22050, n_fft=1024, hop=256)
PUBLISHED = VocoderConfig(upsample_rates=[8, 8], upsample_kernels=[16, 16], source_kernels=[7, 11])
# The size of the mini recipe: 24 kHz, about 1.5 million parameters, no look-ahead.
MINI = VocoderConfig(
    causal=True,
    head="filter",
    num_harmonics=31,
    channels=192,
    upsample_rates=[4],
    upsample_kernels=[8],
    resblock_kernels=[3, 7],
    resblock_dilations=[1, 3],
    source_kernels=[7],
    istft_n_fft=480,
    istft_hop=120,
    f0_channels=128,
)
TINY_MEL = MelConfig(num_mels=20, n_fft=240, hop=60, sample_rate=6000, high_hz=None)
TINY = VocoderConfig(
    channels=16,
    upsample_rates=[5, 3],
    upsample_kernels=[11, 7],
    resblock_kernels=[3, 5],
    resblock_dilations=[1, 3],
    source_kernels=[3, 5],
    num_harmonics=3,
    f0_channels=8,
)
# Published factors, three stages, a transform of many bins: with few channels.
SMALL = {
    "tiny": (TINY, TINY_MEL),
    "tiny_causal": (TINY.model_copy(update={"causal": True}), TINY_MEL),
    "tiny_filter": (TINY.model_copy(update={"head": "filter"}), TINY_MEL),
    "published_factors": (PUBLISHED.model_copy(update={"channels": 16, "f0_channels": 16}), PUBLISHED_MEL),
    "default_factors": (VocoderConfig(channels=16, f0_channels=16), MelConfig()),
    "mini": (MINI, MelConfig()),
}


def make(name: str, seed: int = 0) -> Vocoder:
    """A random vocoder that speaks up: voiced and unvoiced frames, weights large enough for every layer to matter."""
    torch.manual_seed(seed)
    vocoder = Vocoder(*SMALL[name]).eval()
    with torch.no_grad():
        for key, parameter in vocoder.named_parameters():
            if key.endswith("original0"):
                parameter.copy_(torch.rand_like(parameter) + 0.3)
            elif key.endswith("alpha"):
                parameter.copy_(torch.rand_like(parameter) + 0.5)
        vocoder.conv_post.parametrizations.weight.original0.mul_(0.3)
        predictor = vocoder.f0_predictor.classifier
        predictor.weight.mul_(60.0 / predictor.weight.norm())
        predictor.bias.fill_(100.0)
    return vocoder


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def mel_of(vocoder: Vocoder, frames: int, batch: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(batch, frames, vocoder.num_mels, generator=torch.Generator().manual_seed(seed))


def plain_weights(vocoder: Vocoder) -> dict[str, Tensor]:
    """The state dict without weight norm."""
    state = {}
    for key, value in vocoder.state_dict().items():
        name = key.replace("parametrizations.weight.original0", "weight")
        if name != key:
            direction = vocoder.state_dict()[key.replace("original0", "original1")]
            state[name] = value * direction / direction.norm(2, (1, 2), keepdim=True)
        elif not key.endswith("original1"):
            state[key] = value
    return state


def plain_forward(vocoder: Vocoder, cfg: VocoderConfig, mel: MelConfig, mel_BFM: Tensor, seed: int) -> Tensor:
    """HiFT from its description, for the non-causal layout, one utterance, from nothing but the state dict: torch.stft, torch.istft."""
    state = plain_weights(vocoder)

    def conv(x: Tensor, name: str, dilation: int = 1, **kwargs: int) -> Tensor:
        weight = state[f"{name}.weight"]
        padding = kwargs.pop("padding", dilation * (weight.shape[2] - 1) // 2)
        return F.conv1d(x, weight, state[f"{name}.bias"], dilation=dilation, padding=padding, **kwargs)

    def snake(x: Tensor, name: str) -> Tensor:
        alpha = state[f"{name}.alpha"][:, None]
        return x + torch.sin(alpha * x) ** 2 / alpha

    def resblock(x: Tensor, name: str) -> Tensor:
        for i, dilation in enumerate(cfg.resblock_dilations):
            y = conv(snake(x, f"{name}.activations1.{i}"), f"{name}.convs1.{i}", dilation)
            x = x + conv(snake(y, f"{name}.activations2.{i}"), f"{name}.convs2.{i}")
        return x

    x = h = mel_BFM.transpose(1, 2)
    for index in range(0, 10, 2):
        h = F.elu(conv(h, f"f0_predictor.condnet.{index}"))
    f0 = (h.transpose(1, 2) @ state["f0_predictor.classifier.weight"].T + state["f0_predictor.classifier.bias"]).abs()[0, :, 0]

    generator = torch.Generator().manual_seed(seed)
    num_sines = cfg.num_harmonics + 1
    offset = (2 * torch.rand(num_sines, generator=generator) - 1) * math.pi
    offset[0] = 0
    noise = torch.cat([torch.randn(mel.hop, num_sines, generator=generator) for _ in range(len(f0))])
    f0_S = f0.repeat_interleave(mel.hop).double()
    harmonics = torch.arange(1, num_sines + 1)
    sines = cfg.sine_amp * torch.sin(2 * math.pi * (f0_S / mel.sample_rate).cumsum(0)[:, None] * harmonics + offset)
    voiced = (f0_S > cfg.voiced_hz)[:, None]
    sines = torch.where(voiced, sines + cfg.noise_std * noise, cfg.sine_amp / 3 * noise).float()
    source = torch.tanh(sines @ state["m_source.l_linear.weight"].T + state["m_source.l_linear.bias"])[:, 0]

    window = torch.hann_window(cfg.istft_n_fft)
    spectrum = torch.stft(source[None], cfg.istft_n_fft, cfg.istft_hop, window=window, return_complex=True)
    source = torch.cat((spectrum.real, spectrum.imag), 1)
    x = conv(x, "conv_pre")
    num_kernels, rates = len(cfg.resblock_kernels), cfg.upsample_rates
    for stage, (rate, kernel) in enumerate(zip(rates, cfg.upsample_kernels, strict=True)):
        weight, bias = state[f"ups.{stage}.weight"], state[f"ups.{stage}.bias"]
        x = F.conv_transpose1d(F.leaky_relu(x, 0.1), weight, bias, rate, padding=(kernel - rate) // 2)
        if stage == len(rates) - 1:
            x = F.pad(x, (1, 0), mode="reflect")
        down = math.prod(rates[stage + 1 :])
        added = conv(source, f"source_downs.{stage}", stride=down, padding=down // 2 if down > 1 else 0)
        x = x + resblock(added, f"source_resblocks.{stage}")
        x = sum(resblock(x, f"resblocks.{stage * num_kernels + i}") for i in range(num_kernels)) / num_kernels
    x = conv(F.leaky_relu(x, 0.01), "conv_post")
    bins = cfg.istft_n_fft // 2 + 1
    log_magnitude, phase, excitation = x[:, :bins], x[:, bins:].sin(), torch.ones_like(spectrum)
    if cfg.head == "filter":
        envelope = F.conv_transpose1d(mel_BFM.transpose(1, 2), state["envelope.weight"], state["envelope.bias"], math.prod(rates))
        log_magnitude, excitation = log_magnitude + F.pad(envelope, (1, 0), mode="reflect"), spectrum
    output = torch.polar(log_magnitude.exp().clip(max=100), phase) * excitation
    return torch.istft(output, cfg.istft_n_fft, cfg.istft_hop, window=window).clamp(-0.99, 0.99)


def test_published_shape() -> None:
    with torch.device("meta"):
        vocoder = Vocoder(PUBLISHED, PUBLISHED_MEL)
    shapes = {key: tuple(value.shape) for key, value in vocoder.state_dict().items()}
    assert len(shapes) == 227
    assert sum(parameter.numel() for parameter in vocoder.parameters()) == 20_460_591 == sum(map(math.prod, shapes.values()))
    expected = {"m_source.l_linear.weight": (1, 9), "m_source.l_linear.bias": (1,)}
    normed = {"conv_pre": (512, 80, 7), "ups.0": (512, 256, 16), "ups.1": (256, 128, 16), "conv_post": (18, 128, 7)}
    normed |= {f"f0_predictor.condnet.{i}": (512, 80 if i == 0 else 512, 3) for i in (0, 2, 4, 6, 8)}
    blocks = {f"source_resblocks.{i}": (256 >> i, (7, 11)[i]) for i in range(2)}
    blocks |= {f"resblocks.{i}": (256 >> i // 3, (3, 7, 11)[i % 3]) for i in range(6)}
    for name, (channels, kernel) in blocks.items():
        for half in (1, 2):
            for i in range(3):
                normed[f"{name}.convs{half}.{i}"] = (channels, channels, kernel)
                expected[f"{name}.activations{half}.{i}.alpha"] = (channels,)
    for name, shape in normed.items():
        expected[f"{name}.parametrizations.weight.original0"] = (shape[0], 1, 1)
        expected[f"{name}.parametrizations.weight.original1"] = shape
        expected[f"{name}.bias"] = (shape[1] if name.startswith("ups") else shape[0],)
    expected |= {"source_downs.0.weight": (256, 18, 16), "source_downs.0.bias": (256,)}
    expected |= {"source_downs.1.weight": (128, 18, 1), "source_downs.1.bias": (128,)}
    expected |= {"f0_predictor.classifier.weight": (1, 512), "f0_predictor.classifier.bias": (1,)}
    assert shapes == expected


def test_default_and_mini_sizes_fit_24_khz() -> None:
    with torch.device("meta"):
        default, mini = Vocoder(VocoderConfig(), MelConfig()), Vocoder(MINI, MelConfig())
    assert (default.sample_rate, default.hop, default.num_mels) == (24000, 480, 80)
    assert 1.2e6 < sum(parameter.numel() for parameter in mini.parameters()) < 1.8e6


@pytest.mark.parametrize("name", ["tiny", "tiny_filter", "published_factors", "default_factors"])
@torch.no_grad()
def test_equals_an_independent_forward(name: str) -> None:
    vocoder = make(name)
    mel_BFM = mel_of(vocoder, 12)
    got_BS = vocoder(mel_BFM, generators=generators(4)).samples_BS
    assert 0.01 < got_BS.std() < 0.9 and (got_BS.abs() < 0.98).float().mean() > 0.9  # neither silent nor clipped
    torch.testing.assert_close(got_BS, plain_forward(vocoder, *SMALL[name], mel_BFM, seed=4), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", list(SMALL))
@torch.no_grad()
def test_streams_equal_the_whole(name: str) -> None:
    """In double precision: a rounding of the pitch is a phase that grows with the harmonic and the length."""
    vocoder, rng = make(name).double(), random.Random(name)
    for frames in [1, 2, 3, *rng.sample(range(4, 60), 3 if name == "mini" else 6), 60]:
        mel_BFM = mel_of(vocoder, frames, seed=frames).double()
        whole = vocoder(mel_BFM, generators=generators(frames))
        assert whole.samples_BS.shape == (1, frames * vocoder.hop) and whole.f0_BF.shape == (1, frames)
        state, pieces, start = vocoder.init_state(generators(frames)), [], 0
        while start < frames:
            size = rng.choice([0, 1, 2, 7, 18, 60])
            samples_BS, state = vocoder.push(mel_BFM[:, start : start + size], state)
            pieces.append(samples_BS)
            start += size
        pieces.append(vocoder.flush(state))
        torch.testing.assert_close(torch.cat(pieces, 1), whole.samples_BS, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("tiny", 5, 12),
        ("tiny_filter", 5, 12),
        ("tiny_causal", 0, 1),
        ("mini", 0, 1),
        ("published_factors", 18, 19),
        ("default_factors", 18, 20),
    ],
)
@torch.no_grad()
def test_what_was_handed_out_is_final_and_nothing_final_is_held_back(name: str, least: float, most: float) -> None:
    vocoder = make(name).double()
    vocoder.f0_predictor.classifier.bias.fill_(300.0)  # all frames voiced, or a change of the pitch would not be heard
    mel_BFM = mel_of(vocoder, 50).double()
    ready = vocoder.push(mel_BFM[:, :25], vocoder.init_state(generators(1)))[0].shape[1]
    before_S = vocoder(mel_BFM, generators=generators(1)).samples_BS[0]
    mel_BFM[:, 25:] = 3.0 * mel_of(vocoder, 25, seed=1)
    change_S = (vocoder(mel_BFM, generators=generators(1)).samples_BS[0] - before_S).abs()
    assert change_S[:ready].max() < 1e-12
    assert int((change_S > 0).int().argmax()) < ready + vocoder.hop // 2  # through a dozen convolutions the first effects are tiny
    assert least < 25 - ready / vocoder.hop < most


@torch.no_grad()
def test_batched_streams_equal_streams_alone() -> None:
    vocoder = make("tiny")
    mel_BFM = mel_of(vocoder, 30, batch=3)
    together = vocoder(mel_BFM, generators=generators(5, 6, 7)).samples_BS
    for row in range(3):
        alone = vocoder(mel_BFM[row : row + 1], generators=generators(5 + row)).samples_BS
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_noise_belongs_to_the_request_and_states_are_values() -> None:
    vocoder = make("tiny_causal")
    mel_BFM = mel_of(vocoder, 10)
    first = vocoder(mel_BFM, generators=generators(1)).samples_BS
    torch.manual_seed(99)
    state_a, state_b = vocoder.init_state(generators(1)), vocoder.init_state(generators(2))
    pieces = []
    for frame in range(10):  # another stream in between changes nothing
        samples_BS, state_a = vocoder.push(mel_BFM[:, frame : frame + 1], state_a)
        _, state_b = vocoder.push(-mel_BFM[:, frame : frame + 1], state_b)
        pieces.append(samples_BS)
    torch.testing.assert_close(torch.cat([*pieces, vocoder.flush(state_a)], 1), first, atol=1e-4, rtol=0)
    assert (vocoder(mel_BFM, generators=generators(2)).samples_BS - first).abs().max() > 1e-3


@torch.no_grad()
def test_nothing_in_nothing_out() -> None:
    vocoder = make("tiny")
    state = vocoder.init_state(generators(1, 2))
    samples_BS, after = vocoder.push(mel_of(vocoder, 0, batch=2), state)
    assert after is state and samples_BS.shape == vocoder.flush(after).shape == (2, 0)
    assert vocoder(mel_of(vocoder, 0, batch=2)).samples_BS.shape == (2, 0)


@torch.no_grad()
def test_given_pitch_drives_the_source() -> None:
    vocoder = make("mini")
    mel_BFM = mel_of(vocoder, 50)
    predicted = vocoder(mel_BFM, generators=generators(1))
    again = vocoder(mel_BFM, predicted.f0_BF, generators(1)).samples_BS
    torch.testing.assert_close(again, predicted.samples_BS)
    other = vocoder(mel_BFM, predicted.f0_BF * 2, generators(1))
    assert (other.samples_BS - again).abs().max() > 1e-2 and torch.equal(other.f0_BF, predicted.f0_BF)


@torch.no_grad()
def test_folding_weight_norm_changes_no_sample() -> None:
    vocoder = make("tiny")
    mel_BFM = mel_of(vocoder, 20)
    before = vocoder(mel_BFM, generators=generators(1)).samples_BS
    vocoder.fold_weight_norm()
    assert not any("original" in key for key in vocoder.state_dict())
    torch.testing.assert_close(vocoder(mel_BFM, generators=generators(1)).samples_BS, before, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["tiny", "tiny_filter", "tiny_causal", "mini"])
def test_gradient_reaches_every_parameter(name: str) -> None:
    vocoder = make(name).train()
    output = vocoder(mel_of(vocoder, 12, batch=2))
    (output.samples_BS.square().sum() + output.f0_BF.sum()).backward()
    for key, parameter in vocoder.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().max() > 0, key


@torch.no_grad()
def test_a_filter_that_knows_nothing_yet_follows_the_mel() -> None:
    """Before any training: where the mel is louder so is the output, band by band; a network that has to say all shows nothing of it."""
    spectrogram = MelSpectrogram(MelConfig())
    slope_FM = torch.linspace(-1, 1, 80) * torch.linspace(-1, 1, 200).unsqueeze(1)  # falls over the bands at first, rises at the end
    mel_BFM = (-5.0 + 2.0 * slope_FM).unsqueeze(0)

    def likeness(head: str) -> float:
        torch.manual_seed(0)
        vocoder = Vocoder(MINI.model_copy(update={"num_harmonics": 60, "head": head}), MelConfig()).eval()
        vocoder.f0_predictor.classifier.weight.zero_()  # a voice at the pitch that training starts from
        got_BFM = spectrogram(vocoder(mel_BFM, generators=generators(1)).samples_BS)
        pair = torch.stack([(x[:, 10:-10] - x[:, 10:-10].mean()).flatten() for x in (got_BFM, mel_BFM)])
        return torch.corrcoef(pair)[0, 1].item()

    assert likeness("filter") > 0.6 and abs(likeness("spectrum")) < 0.2


@torch.no_grad()
def test_no_harmonic_folds_back() -> None:
    """A pitch whose folded harmonics would lie between its multiples; quiet, so that the tanh behind the sines makes none of its own."""
    cfg = MINI.model_copy(update={"sine_amp": 1e-3, "noise_std": 0.0})
    vocoder = Vocoder(cfg, MelConfig())
    source, _ = vocoder.m_source(torch.full((1, 50), 1100.0), vocoder.m_source.init_state(1, generators(0)))
    magnitude_K = torch.fft.rfft(source[0, 0] * torch.hann_window(24000)).abs()
    tones = magnitude_K[1100:12000:1100].clone()
    for tone in range(1100, 12000, 1100):
        magnitude_K[tone - 3 : tone + 4] = 0.0
    assert len(tones) == 10 and tones.min() > 100 * magnitude_K.max()


@torch.no_grad()
def test_output_is_finite_and_bounded_for_absurd_input() -> None:
    vocoder = make("tiny")
    for scale in (0.0, 1e3, -1e3):
        samples_BS = vocoder(torch.full((1, 10, 20), scale)).samples_BS
        assert torch.isfinite(samples_BS).all() and samples_BS.abs().max() <= 0.99


def test_sizes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ConfigError, match="8 x 8 x 4 = 256 samples a frame, but the mel's hop is 480"):
        Vocoder(PUBLISHED, MelConfig())
    with pytest.raises(ValueError, match=r"expected \(1, F, 20\)"):
        make("tiny")(torch.zeros(1, 5, 80))
    with pytest.raises(ValueError, match="one for each of upsample_rates"):
        VocoderConfig(upsample_rates=[8, 8])
    with pytest.raises(ValueError, match="kernel is rate"):
        VocoderConfig(upsample_kernels=[15, 11, 7])
    with pytest.raises(ValueError, match="even multiple"):
        VocoderConfig(istft_n_fft=12)
    with pytest.raises(ValueError, match="multiple of 8"):
        VocoderConfig(channels=100)


@torch.no_grad()
def test_autocast_leaves_both_ends_alone() -> None:
    """Only the layers between are rounded: the pitch is the same, and where they are silent so is the output."""
    vocoder = make("mini")
    mel_BFM = mel_of(vocoder, 30)
    want = vocoder(mel_BFM, None, generators(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = vocoder(mel_BFM, None, generators(0))
    assert got.samples_BS.dtype == torch.float32 and torch.equal(got.f0_BF, want.f0_BF)
    assert 0 < (got.samples_BS - want.samples_BS).abs().max() < 0.1 * want.samples_BS.abs().max()
    vocoder.conv_post.parametrizations.weight.original0.zero_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = vocoder(mel_BFM, None, generators(0))
    assert torch.equal(got.samples_BS, vocoder(mel_BFM, None, generators(0)).samples_BS)
