"""Configuration of speech tokens and token2wav: codebook, mel, flow, vocoder; models of their own, not parts of a ``RunConfig``."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field, model_validator

from osum_echat.config_types import NonNegative, Positive, Probability, Rate, Section, check_divides


class QuantizerConfig(Section):
    """The codebook of the speech tokenizer."""

    kind: Literal["fsq", "vq"] = Field("fsq", description="`fsq`: finite scalar quantisation; `vq`: learnt vectors.")
    codebook_size: Positive = Field(4096, description="Codes.")
    levels: list[Annotated[int, Field(ge=3)]] = Field(
        [8, 8, 8, 8], min_length=1, description="`fsq`: values of each dimension; their product is `codebook_size`."
    )
    commitment: float = Field(0.25, ge=0, description="`vq`: weight of the loss that pulls the encoder to its codes.")

    @model_validator(mode="after")
    def _check(self) -> QuantizerConfig:
        product = math.prod(self.levels)
        if self.kind == "fsq" and product != self.codebook_size:
            raise ValueError(f"levels {self.levels} give {product} codes, codebook_size is {self.codebook_size}")
        return self


class MelConfig(Section):
    """Log-mel spectrogram that token2wav predicts and the vocoder reads (1 frame per hop)."""

    sample_rate: Positive = Field(24000, description="Sample rate of generated speech in Hz.")
    num_mels: Positive = Field(80, description="Mel bins.")
    n_fft: Positive = Field(1920, description="Samples of the window and of the Fourier transform.")
    hop: Positive = Field(480, description="Samples per frame.")
    low_hz: float = Field(0.0, ge=0, description="Lower edge of the lowest mel filter.")
    high_hz: float | None = Field(8000.0, gt=0, description="Upper edge of the highest mel filter; null for half the sample rate.")

    @model_validator(mode="after")
    def _check(self) -> MelConfig:
        if self.n_fft <= self.hop or (self.n_fft - self.hop) % 2:
            raise ValueError(f"n_fft - hop must be positive and even, got n_fft {self.n_fft} and hop {self.hop}")
        high_hz = self.sample_rate / 2 if self.high_hz is None else self.high_hz
        if not self.low_hz < high_hz <= self.sample_rate / 2:
            raise ValueError(f"expected low_hz < high_hz <= {self.sample_rate / 2:g} (half the sample rate), got {self.low_hz}, {high_hz}")
        return self


class VocoderConfig(Section):
    """HiFT-style vocoder (`arch: vocoder`): mel to waveform. The product of `upsample_rates` and `istft_hop` is the hop of the mel.

    A run with this model has the sections `mel` and `loss` in place of `tokenizer`, `prompts` and `features`; one position of
    `train.max_tokens` is a mel frame, a row is a random segment of `segment_frames` from a recording, drawn anew every epoch.
    """

    arch: Literal["vocoder"] = Field("vocoder", description="Which model.")
    causal: bool = Field(False, description="Convolutions look back only: streaming without delay, at some cost in quality.")
    channels: Positive = Field(512, description="Channels behind the first convolution; halved at each upsampling.")
    upsample_rates: list[Positive] = Field([8, 5, 3], min_length=1, description="Factor of each upsampling stage.")
    upsample_kernels: list[Positive] = Field([16, 11, 7], description="Kernel of each upsampling; between 1 and 3 times its rate.")
    resblock_kernels: list[Positive] = Field([3, 7, 11], min_length=1, description="Kernels of the parallel residual blocks of a stage.")
    resblock_dilations: list[Positive] = Field([1, 3, 5], min_length=1, description="Dilations inside a residual block.")
    source_kernels: list[Positive] = Field([7, 7, 11], description="Kernel of the residual block on the source, per stage.")
    istft_n_fft: Positive = Field(16, description="Fourier transform of the output; an even multiple of `istft_hop`.")
    istft_hop: Positive = Field(4, description="Hop of that transform.")
    head: Literal["spectrum", "filter"] = Field(
        "spectrum",
        description="What the network gives: `spectrum`: that of the output (the published model); `filter`: what that of the source is "
        "multiplied by, which is learnt within minutes; it wants a source with many harmonics.",
    )
    num_harmonics: NonNegative = Field(8, description="Harmonics of the source above the fundamental.")
    sine_amp: float = Field(0.1, gt=0, description="Amplitude of each sine of the source.")
    noise_std: float = Field(0.003, ge=0, description="Noise added to voiced parts of the source; unvoiced parts get `sine_amp / 3`.")
    voiced_hz: float = Field(10.0, gt=0, description="A frame whose pitch is above this is voiced.")
    f0_channels: Positive = Field(512, description="Channels of the pitch predictor.")

    @model_validator(mode="after")
    def _check(self) -> VocoderConfig:
        stages = len(self.upsample_rates)
        for name, values in (("upsample_kernels", self.upsample_kernels), ("source_kernels", self.source_kernels)):
            if len(values) != stages:
                raise ValueError(f"{name} needs {stages} values, one for each of upsample_rates, got {len(values)}")
        for rate, kernel in zip(self.upsample_rates, self.upsample_kernels, strict=True):
            if not rate <= kernel < 3 * rate or (kernel - rate) % 2:
                raise ValueError(f"upsample_kernels: {kernel} for rate {rate}; the kernel is rate + an even number, below 3 x rate")
        if any(kernel % 2 == 0 for kernel in (*self.resblock_kernels, *self.source_kernels)):
            raise ValueError(f"resblock_kernels and source_kernels must be odd, got {self.resblock_kernels} and {self.source_kernels}")
        if self.channels % 2**stages:
            raise ValueError(f"channels must be a multiple of {2**stages} for {stages} upsampling stages, got {self.channels}")
        if self.istft_n_fft % (2 * self.istft_hop):
            raise ValueError(f"istft_n_fft must be an even multiple of istft_hop, got {self.istft_n_fft} and {self.istft_hop}")
        return self


class AdversarialConfig(Section):
    """Adversarial training of the vocoder with period and scale discriminators (arXiv:2010.05646)."""

    periods: list[Annotated[int, Field(gt=1)]] = Field([2, 3, 5, 7, 11], min_length=1, description="Periods of the period discriminators.")
    num_scales: Positive = Field(3, description="Scale discriminators; each sees half the sample rate of the one before.")
    channels: Annotated[int, Field(ge=128, multiple_of=128)] = Field(1024, description="Widest layer of the discriminators.")
    weight: float = Field(1.0, ge=0, description="Weight of the adversarial loss of the vocoder.")
    feature_weight: float = Field(2.0, ge=0, description="Weight of feature matching.")


class VocoderLossConfig(Section):
    """What vocoder training minimises."""

    mel_weight: float = Field(45.0, ge=0, description="Weight of the L1 distance of log-mel spectrograms over the full band.")
    stft_weight: float = Field(1.0, ge=0, description="Weight of the multi-resolution STFT loss (arXiv:1910.11480).")
    stft_sizes: list[Annotated[int, Field(ge=16)]] = Field([512, 1024, 2048], min_length=1, description="Its windows, hop a quarter.")
    f0_weight: float = Field(1.0, ge=0, description="Weight of the mean error of the predicted pitch in Hz.")
    adversarial: AdversarialConfig | None = Field(None, description="Adversarial training; null for none.")


class TokenEncoderConfig(Section):
    """Transformer over speech tokens with relative positions."""

    width: Positive = Field(512, description="Width of the transformer.")
    num_layers: Positive = Field(6, description="Transformer layers.")
    num_heads: Positive = Field(8, description="Attention heads; divides `width`.")
    ffn_width: Positive = Field(2048, description="Width of the feed-forward layers.")
    dropout: Probability = Field(0.1, description="Dropout rate while training.")

    @model_validator(mode="after")
    def _check(self) -> TokenEncoderConfig:
        check_divides(self.width, self.num_heads)
        if self.width % 2:
            raise ValueError(f"width must be even for sinusoids, got {self.width}")
        return self


class EstimatorConfig(Section):
    """Velocity estimator: residual convolutions and transformer blocks in a U."""

    channels: list[Positive] = Field(
        [256], min_length=1, description="Channels of each level; each is a multiple of 8. Non-causal: every level has half the frames."
    )
    num_blocks: NonNegative = Field(4, description="Transformer blocks behind each residual block.")
    num_mid_blocks: NonNegative = Field(12, description="Residual blocks, with their transformer blocks, at the bottom.")
    num_heads: Positive = Field(8, description="Attention heads.")
    head_dim: Positive = Field(64, description="Width of one head.")
    ffn_factor: Positive = Field(4, description="Width of the feed-forward layers, as a multiple of the channels.")

    @model_validator(mode="after")
    def _check(self) -> EstimatorConfig:
        if any(width % 8 for width in self.channels):
            raise ValueError(f"channels must be multiples of 8 (the groups of the norms), got {self.channels}")
        return self


class FlowSamplingConfig(Section):
    """How mel is drawn from the flow; may differ from call to call."""

    num_steps: Positive = Field(10, description="Euler steps.")
    guidance: float = Field(0.7, ge=0, description="Weight w of classifier-free guidance: (1 + w) * conditional - w * unconditional.")
    temperature: float = Field(1.0, ge=0, description="Standard deviation of the noise that synthesis starts from.")
    first_hop_tokens: Positive = Field(18, description="Tokens that must have arrived before the first mel of a stream (causal only).")
    hop_tokens: Positive = Field(36, description="Tokens between later pieces of mel; fewer is sooner, more is cheaper (causal only).")


class FlowConfig(Section):
    """Flow (`arch: flow`): conditional flow matching from speech tokens to log-mel (arXiv:2210.02747, arXiv:2407.05407).

    A run with this model has the section `mel` in place of `tokenizer`, `prompts` and `features`; one position of `train.max_tokens` is a
    speech token, padding included.
    """

    arch: Literal["flow"] = Field("flow", description="Which model.")
    causal: bool = Field(True, description="Chunk-aware causal, made for streaming; false is the published shape, which needs all tokens.")
    codebook_size: Positive = Field(4096, description="Codes of the speech tokenizer.")
    token_rate_hz: float = Field(25.0, gt=0, description="Speech tokens per second.")
    sample_rate: Positive = Field(24000, description="Samples per second of the waveform the mel describes.")
    hop: Positive = Field(480, description="Samples per mel frame; causal: a whole number of frames per token.")
    num_mels: Positive = Field(80, description="Mel bins.")
    mel_mean: float = Field(-5.0, description="Mean of the log-mel values; the flow works on (mel - mean) / std.")
    mel_std: float = Field(2.5, gt=0, description="Standard deviation of the log-mel values.")
    speaker_width: Positive = Field(192, description="Width of the speaker embedding.")
    lookahead_tokens: NonNegative = Field(3, description="Tokens behind a chunk that it may see (causal only).")
    left_tokens: Positive = Field(50, description="Tokens before a chunk that attention may see, beside the prompt (causal only).")
    sigma_min: float = Field(1e-6, ge=0, lt=1, description="Standard deviation around the target at time 1.")
    condition_drop: Probability = Field(0.2, description="Share of training rows without any condition, for guidance.")
    prompt_rate: Rate = Field(0.5, description="Share of training rows that see the beginning of their mel.")
    prior_weight: float = Field(
        0.0, ge=0, description="Weight of the squared error of the condition against the mel: a guess to start from."
    )
    condition_std: float | None = Field(
        None,
        gt=0,
        description="With `prior_weight`: standard deviation of the normalised mel around the condition. The velocity of such a mel "
        "is known, and the estimator is left with the rest of it. null: the estimator has to say all, as the published one.",
    )
    prompt_share: Probability = Field(0.3, description="Longest such beginning, as a share of the row.")
    encoder: TokenEncoderConfig = Field(default_factory=TokenEncoderConfig, description="Token encoder.")
    estimator: EstimatorConfig = Field(default_factory=EstimatorConfig, description="Velocity estimator.")
    sampling: FlowSamplingConfig = Field(default_factory=FlowSamplingConfig, description="Defaults of synthesis.")

    @property
    def frames_per_token(self) -> Fraction:
        """Mel frames per speech token."""
        return Fraction(self.sample_rate, self.hop) / Fraction(self.token_rate_hz)

    @model_validator(mode="after")
    def _check(self) -> FlowConfig:
        if self.causal and self.frames_per_token.denominator != 1:
            raise ValueError(
                f"a causal flow needs a whole number of mel frames per token, got sample_rate {self.sample_rate} / hop {self.hop} / "
                f"token_rate_hz {self.token_rate_hz} = {float(self.frames_per_token):.4f}"
            )
        if self.frames_per_token < 1:
            raise ValueError(f"fewer mel frames than tokens: sample_rate / hop must be at least token_rate_hz {self.token_rate_hz}")
        if self.causal and self.sampling.first_hop_tokens <= self.lookahead_tokens:
            raise ValueError(
                f"sampling.first_hop_tokens {self.sampling.first_hop_tokens} must exceed lookahead_tokens {self.lookahead_tokens}"
            )
        if self.num_mels % 2:
            raise ValueError(f"num_mels must be even, got {self.num_mels}")
        if self.condition_std is not None and self.prior_weight == 0:
            raise ValueError("condition_std needs a prior_weight above 0: nothing else brings the condition near the mel")
        return self


def check_same_frames(flow: FlowConfig, mel: MelConfig) -> None:
    """Raises ValueError when the flow predicts other frames than those of ``mel``."""
    for name in ("sample_rate", "hop", "num_mels"):
        if getattr(mel, name) != getattr(flow, name):
            raise ValueError(f"mel.{name} {getattr(mel, name)} differs from model.{name} {getattr(flow, name)}")
