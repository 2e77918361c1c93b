"""The configuration of a run: one YAML file in, frozen and fully checked objects out.

Outside it is YAML (`base: other.yaml` is merged under the file, `--set a.b=c` over it); inside it is these classes and nothing
calls `.get`. An unknown, missing or ill-typed key stops the run before anything is built, with file:line, the YAML path and
the nearest valid key. Paths are kept as written: they are relative to the directory the command runs in, as in Kaldi and WeNet.
Reading and writing files is in the second half; what a value means is in its description, from which docs/configuration.md is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from osum_echat.config_yaml import SectionDoc, apply_override, describe_error, flatten, read_yaml, section_docs
from osum_echat.errors import ConfigError
from osum_echat.files import write_text

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0.0, le=1.0)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]


class Section(BaseModel):
    """Base of every section: no unknown keys, no changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, validate_default=True)


class TokenizerConfig(Section):
    """The text tokenizer."""

    kind: Literal["sentencepiece", "hf"] = Field(description="`sentencepiece` reads a .model file, `hf` a Hugging Face tokenizer.json.")
    path: str = Field(description="File of the tokenizer.")


class FeatureConfig(Section):
    """Log-mel features (Whisper's, 16 kHz, 10 ms hop)."""

    num_mels: Positive = Field(80, description="Mel bins; must equal `model.encoder.num_mels`.")


class EncoderConfig(Section):
    """Whisper-style speech encoder."""

    num_mels: Positive = Field(80, description="Mel bins of the input.")
    width: Positive = Field(1024, description="Width of the transformer.")
    num_layers: Positive = Field(24, description="Transformer layers.")
    num_heads: Positive = Field(16, description="Attention heads; divides `width`.")
    ffn_width: Positive = Field(4096, description="Width of the feed-forward layers.")
    dropout: Probability = Field(0.0, description="Dropout rate while training.")
    gradient_checkpointing: bool = Field(False, description="Recompute layers in backward: less memory, about a third more time.")

    @model_validator(mode="after")
    def _check(self) -> EncoderConfig:
        _check_divides(self.width, self.num_heads)
        return self


class AdapterConfig(Section):
    """Convolution and transformer between encoder and LLM (4 encoder frames become 1 LLM position)."""

    num_layers: NonNegative = Field(4, description="Transformer layers.")
    num_heads: Positive = Field(4, description="Attention heads; divides the encoder width.")
    ffn_width: Positive = Field(2560, description="Width of the feed-forward layers.")
    dropout: Probability = Field(0.1, description="Dropout rate while training.")


class LlmConfig(Section):
    """Qwen2 or Qwen3 decoder."""

    kind: Literal["qwen2", "qwen3"] = Field("qwen2", description="`qwen2` has biases on q, k, v; `qwen3` norms on q and k instead.")
    vocab_size: Positive = Field(description="Rows of the text embedding (of the checkpoint, may exceed the tokenizer's size).")
    width: Positive = Field(description="Width of the hidden states.")
    num_layers: Positive = Field(description="Transformer layers.")
    num_heads: Positive = Field(description="Query heads.")
    num_kv_heads: Positive = Field(description="Key and value heads; divides `num_heads`.")
    head_dim: NonNegative = Field(0, description="Width of one head; 0 is replaced by `width / num_heads`.")
    ffn_width: Positive = Field(description="Width of the feed-forward layers.")
    rope_theta: float = Field(1e6, gt=0, description="Base of the rotary positions.")
    norm_eps: float = Field(1e-6, gt=0, description="Epsilon of the RMS norms.")
    tie_embeddings: bool = Field(True, description="The output layer shares the text embedding.")
    gradient_checkpointing: bool = Field(False, description="Recompute layers in backward: less memory, about a third more time.")

    @model_validator(mode="before")
    @classmethod
    def _fill_head_dim(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("head_dim"):
            width, heads = values.get("width"), values.get("num_heads")
            if isinstance(width, int) and isinstance(heads, int) and heads > 0:
                _check_divides(width, heads)
                return {**values, "head_dim": width // heads}
        return values

    @model_validator(mode="after")
    def _check(self) -> LlmConfig:
        _check_divides(self.num_heads, self.num_kv_heads, "num_heads", "num_kv_heads")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {self.head_dim}")
        return self


class SpeechConfig(Section):
    """Speech tokens of the joint vocabulary."""

    codebook_size: Positive = Field(4096, description="Codes of the speech tokenizer.")


class LoraConfig(Section):
    """Low-rank adapters on linear layers of the LLM (arXiv:2106.09685)."""

    rank: Positive = Field(64, description="Rank of the update.")
    alpha: float = Field(32.0, gt=0, description="The update is scaled by `alpha / rank`.")
    dropout: Probability = Field(0.1, description="Dropout on the input of the update.")
    targets: list[str] = Field(min_length=1, description="Names of the linear layers that get an update (last part of the name).")


class CtcConfig(Section):
    """Auxiliary CTC branch on the encoder over the bytes of the transcript, for encoders trained from scratch."""

    weight: float = Field(0.3, ge=0, description="Weight of the CTC loss beside the cross-entropy.")


class ModelConfig(Section):
    """The model: encoder, adapter, LLM and speech head."""

    arch: Literal["echat"] = Field("echat", description="Which model.")
    encoder: EncoderConfig = Field(default_factory=EncoderConfig, description="Speech encoder.")
    adapter: AdapterConfig = Field(default_factory=AdapterConfig, description="Adapter.")
    llm: LlmConfig = Field(description="Language model.")
    speech: SpeechConfig = Field(default_factory=SpeechConfig, description="Speech tokens.")
    lora: LoraConfig | None = Field(None, description="Low-rank adapters; null for none.")
    ctc: CtcConfig | None = Field(None, description="CTC branch; null for none.")

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        _check_divides(self.encoder.width, self.adapter.num_heads, "encoder.width", "adapter.num_heads")
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
    """HiFT-style vocoder: mel to waveform. The product of `upsample_rates` and `istft_hop` is the hop of the mel."""

    causal: bool = Field(False, description="Convolutions look back only: streaming without delay, at some cost in quality.")
    channels: Positive = Field(512, description="Channels behind the first convolution; halved at each upsampling.")
    upsample_rates: list[Positive] = Field([8, 5, 3], min_length=1, description="Factor of each upsampling stage.")
    upsample_kernels: list[Positive] = Field([16, 11, 7], description="Kernel of each upsampling; between 1 and 3 times its rate.")
    resblock_kernels: list[Positive] = Field([3, 7, 11], min_length=1, description="Kernels of the parallel residual blocks of a stage.")
    resblock_dilations: list[Positive] = Field([1, 3, 5], min_length=1, description="Dilations inside a residual block.")
    source_kernels: list[Positive] = Field([7, 7, 11], description="Kernel of the residual block on the source, per stage.")
    istft_n_fft: Positive = Field(16, description="Fourier transform of the output; an even multiple of `istft_hop`.")
    istft_hop: Positive = Field(4, description="Hop of that transform.")
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


class VocoderTrainConfig(Section):
    """Training of the vocoder on random segments of recordings."""

    segment_frames: Positive = Field(50, description="Mel frames of a segment.")
    batch_size: Positive = Field(16, description="Segments per step.")
    lr: float = Field(2e-4, gt=0, description="Learning rate of the vocoder and of the discriminators.")
    betas: tuple[Probability, Probability] = Field((0.8, 0.99), description="Decay of the two moments of AdamW.")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay.")
    lr_decay: float = Field(0.9999, gt=0, le=1, description="Factor on the learning rate after each step.")
    clip: float = Field(10.0, gt=0, description="Largest norm of a gradient.")
    loss: VocoderLossConfig = Field(default_factory=VocoderLossConfig, description="What is minimised.")


class SourceConfig(Section):
    """One data list."""

    kind: Literal["raw", "shard", "combine"] = Field(
        "raw", description="`raw`: JSON lines; `shard`: tars; `combine`: tars with a metadata file each."
    )
    list: str = Field(description="The list file.")
    weight: float = Field(1.0, gt=0, description="How often an utterance is seen per epoch; 0.1 takes a new tenth every epoch.")
    task: str | None = Field(None, description="Overrides the task of every row.")


class ConvertConfig(Section):
    """Turns a share of one task's utterances into another task, drawn anew every epoch from (seed, epoch, key)."""

    from_: str = Field(alias="from", description="Task of the row.")
    to: str = Field(description="Task it becomes.")
    rate: Rate = Field(description="Share that is converted.")


class FilterConfig(Section):
    """Utterances outside these bounds are dropped and counted."""

    min_seconds: float = Field(0.1, ge=0, description="Shortest audio.")
    max_seconds: float = Field(60.0, gt=0, description="Longest audio.")
    max_text_tokens: Positive = Field(1200, description="Most text tokens.")
    max_sequence: Positive = Field(2000, description="Most positions of one sequence, audio included.")

    @model_validator(mode="after")
    def _check(self) -> FilterConfig:
        if self.min_seconds >= self.max_seconds:
            raise ValueError(f"min_seconds {self.min_seconds} must be below max_seconds {self.max_seconds}")
        return self


class AugmentConfig(Section):
    """Augmentation while training; everything is off by default."""

    speed: list[Annotated[float, Field(gt=0.1, lt=10)]] = Field(
        [1.0], min_length=1, description="Speed factors, one is drawn per utterance."
    )
    noise_snr_db: tuple[float, float] | None = Field(None, description="Range of the signal-to-noise ratio of added noise.")
    volume_db: tuple[float, float] | None = Field(None, description="Range of the gain.")
    spec_time_masks: NonNegative = Field(0, description="SpecAugment: time masks per utterance.")
    spec_time_width: Positive = Field(50, description="SpecAugment: widest time mask, in 10 ms frames.")
    spec_freq_masks: NonNegative = Field(0, description="SpecAugment: frequency masks per utterance.")
    spec_freq_width: Positive = Field(10, description="SpecAugment: widest frequency mask, in mel bins.")


class DataConfig(Section):
    """What is read, and how."""

    train: list[SourceConfig] = Field(min_length=1, description="Training lists, mixed by weight.")
    dev: list[SourceConfig] = Field([], description="Lists for the loss and accuracy while training.")
    convert: list[ConvertConfig] = Field([], description="Task conversions.")
    num_workers: NonNegative = Field(2, description="Reader processes per rank; 0 reads in the training process.")
    window: Positive = Field(512, description="Utterances that are sorted and packed together.")
    filter: FilterConfig = Field(default_factory=FilterConfig, description="Bounds.")
    augment: AugmentConfig = Field(default_factory=AugmentConfig, description="Augmentation.")
    max_drop: Rate = Field(0.02, description="The run stops when a larger share of an epoch was dropped.")


class GroupConfig(Section):
    """Learning-rate scale of the parameters under a name prefix; the longest matching prefix wins."""

    prefix: str = Field(description="Name prefix, such as `encoder`.")
    lr_scale: float = Field(ge=0, description="Factor on the learning rate.")


class OptimConfig(Section):
    """AdamW (arXiv:1711.05101); no weight decay on norms and biases."""

    lr: float = Field(5e-6, gt=0, description="Peak learning rate.")
    betas: tuple[Probability, Probability] = Field((0.9, 0.999), description="Decay of the two moments.")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of matrices.")
    eps: float = Field(1e-8, gt=0, description="Epsilon.")
    groups: list[GroupConfig] = Field([], description="Learning-rate scales by name prefix.")


class ScheduleConfig(Section):
    """Learning rate over optimizer steps."""

    kind: Literal["warmup_inverse_sqrt", "warmup_linear", "warmup_cosine", "constant"] = Field(
        "warmup_inverse_sqrt", description="After the warm-up: 1/sqrt(step) (WeNet's WarmupLR), linear or cosine decay, or always the peak."
    )
    warmup_steps: NonNegative = Field(8000, description="Steps to the peak; not used by `constant`.")
    total_steps: Positive | None = Field(None, description="End of the linear or cosine decay; null takes `train.max_steps`.")
    min_factor: Rate = Field(0.0, description="Floor of the linear or cosine decay, as a share of the peak.")


class TrainConfig(Section):
    """The training loop."""

    init: str | None = Field(None, description="Checkpoint to start from.")
    init_allow_missing: list[str] = Field([], description="Name prefixes that may be absent from `init` (they keep their random start).")
    trainable: list[str] = Field([""], min_length=1, description='Name prefixes of what is trained; "" is everything.')
    max_tokens: Positive = Field(2800, description="LLM positions per micro-batch.")
    max_batch_seconds: float | None = Field(None, gt=0, description="Audio seconds per micro-batch; null for no cap.")
    accum_steps: Positive = Field(4, description="Micro-batches per optimizer step and rank.")
    max_epochs: Positive | None = Field(None, description="Epochs to train; null for no bound.")
    max_steps: Positive | None = Field(None, description="Optimizer steps to train; null for no bound.")
    optim: OptimConfig = Field(default_factory=OptimConfig, description="Optimizer.")
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig, description="Learning-rate schedule.")
    clip: float = Field(5.0, gt=0, description="Largest norm of the gradient.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Precision of the arithmetic (autocast); weights stay float32.")
    log_every: Positive = Field(10, description="Steps between log lines.")
    save_every: Positive | None = Field(None, description="Steps between checkpoints; null saves at the end of each epoch only.")
    eval_every: Positive | None = Field(None, description="Steps between evaluations on dev; null evaluates at the end of each epoch only.")
    keep_last: Positive = Field(3, description="Checkpoints kept.")
    preflight: bool = Field(True, description="Run forward and backward on the largest possible batch before the first step.")
    log_keys: bool = Field(False, description="Write the utterance keys of each step into metrics.jsonl, not only their hash.")

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.max_epochs is None and self.max_steps is None:
            raise ValueError("give max_epochs or max_steps (or both: the first one reached ends the run)")
        if self.schedule.kind in ("warmup_linear", "warmup_cosine") and not (self.schedule.total_steps or self.max_steps):
            raise ValueError(f"schedule.kind {self.schedule.kind} needs schedule.total_steps or max_steps")
        return self


# token2wav: the flow, from speech tokens to mel (not part of RunConfig: it is a model of its own).


class TokenEncoderConfig(Section):
    """Transformer over speech tokens with relative positions."""

    width: Positive = Field(512, description="Width of the transformer.")
    num_layers: Positive = Field(6, description="Transformer layers.")
    num_heads: Positive = Field(8, description="Attention heads; divides `width`.")
    ffn_width: Positive = Field(2048, description="Width of the feed-forward layers.")
    dropout: Probability = Field(0.1, description="Dropout rate while training.")

    @model_validator(mode="after")
    def _check(self) -> TokenEncoderConfig:
        _check_divides(self.width, self.num_heads)
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
    first_hop_tokens: Positive = Field(18, description="Tokens that must have arrived before the first mel of a stream (causal only).")
    hop_tokens: Positive = Field(36, description="Tokens between later pieces of mel; fewer is sooner, more is cheaper (causal only).")


class FlowConfig(Section):
    """Conditional flow matching from speech tokens to log-mel (arXiv:2210.02747, arXiv:2407.05407)."""

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
        return self


class RunConfig(Section):
    """Everything that defines a training run."""

    seed: int = Field(777, description="Seed of initialisation, data order and dropout.")
    model: ModelConfig = Field(description="Model.")
    tokenizer: TokenizerConfig = Field(description="Text tokenizer.")
    prompts: str = Field("default", description="Name of a file in osum_echat/text/prompts, or a path.")
    features: FeatureConfig = Field(default_factory=FeatureConfig, description="Audio features.")
    data: DataConfig = Field(description="Data.")
    train: TrainConfig = Field(description="Training loop.")

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        if self.features.num_mels != self.model.encoder.num_mels:
            mels = self.features.num_mels, self.model.encoder.num_mels
            raise ValueError(f"features.num_mels {mels[0]} differs from model.encoder.num_mels {mels[1]}")
        return self


class QuantizerConfig(Section):
    """The codebook of the speech tokenizer."""

    kind: Literal["fsq", "vq"] = Field("fsq", description="`fsq`: finite scalar quantisation; `vq`: vectors learnt by moving averages.")
    codebook_size: Positive = Field(4096, description="Codes.")
    levels: list[Annotated[int, Field(ge=3)]] = Field(
        [8, 8, 8, 8], min_length=1, description="`fsq`: values of each dimension; their product is `codebook_size`."
    )
    width: Positive = Field(64, description="`vq`: width of a code vector.")
    decay: Probability = Field(0.99, description="`vq`: decay of the moving averages, per micro-batch.")
    commitment: float = Field(0.25, ge=0, description="`vq`: weight of the loss that pulls the encoder to its codes.")

    @model_validator(mode="after")
    def _check(self) -> QuantizerConfig:
        product = math.prod(self.levels)
        if self.kind == "fsq" and product != self.codebook_size:
            raise ValueError(f"levels {self.levels} give {product} codes, codebook_size is {self.codebook_size}")
        return self


class SpeechTokenizerConfig(Section):
    """Speech tokenizer (`arch: speech_tokenizer`): an encoder with a codebook inside, trained by CTC over the bytes of the transcript.

    A run with this model has no `tokenizer`, `prompts` and `features`; one position of `train.max_tokens` is 80 ms of audio.
    """

    arch: Literal["speech_tokenizer"] = Field("speech_tokenizer", description="Which model.")
    encoder: EncoderConfig = Field(default_factory=lambda: EncoderConfig(num_layers=6), description="Layers before the codebook (50 Hz).")
    quantizer: QuantizerConfig = Field(default_factory=QuantizerConfig, description="The codebook.")
    frames_per_token: Literal[1, 2, 4] = Field(2, description="Encoder frames that become one token: 2 is 25 tokens a second, 4 is 12.5.")
    num_layers_after: NonNegative = Field(2, description="Transformer layers behind the codebook; only training uses them.")


class SpeechTokenizerRun(Section):
    """Everything that defines the training of a speech tokenizer."""

    seed: int = Field(777, description="Seed of initialisation, data order and dropout.")
    model: SpeechTokenizerConfig = Field(description="Model.")
    data: DataConfig = Field(description="Data.")
    train: TrainConfig = Field(description="Training loop.")


AnyRun = RunConfig | SpeechTokenizerRun
RUNS: dict[str, type[AnyRun]] = {"echat": RunConfig, "speech_tokenizer": SpeechTokenizerRun}  # by model.arch


def _check_divides(total: int, part: int, total_name: str = "width", part_name: str = "num_heads") -> None:
    if total % part:
        raise ValueError(f"{part_name} {part} does not divide {total_name} {total}")


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> AnyRun:
    """Read, merge, override and check the configuration of a run of any `model.arch`; every defect raises ConfigError."""
    values, origins = read_yaml(Path(path))
    for text in overrides:
        apply_override(values, origins, text)
    model = values.get("model")
    arch = str(model.get("arch", "echat")) if isinstance(model, dict) else "echat"
    if arch not in RUNS:
        raise ConfigError(f"{origins.get(('model', 'arch'), path)}: model.arch: unknown model {arch!r}; known are {', '.join(RUNS)}")
    try:
        return RUNS[arch].model_validate(values)
    except ValidationError as error:
        problems = [describe_error(item, RUNS[arch], origins, str(path)) for item in error.errors()]
        raise ConfigError(f"{path} is not a valid run configuration:\n  " + "\n  ".join(problems)) from None


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """:func:`load_run` where only a language model will do."""
    config = load_run(path, overrides)
    if not isinstance(config, RunConfig):
        raise ConfigError(f"{path}: model.arch is {config.model.arch}, expected echat: this command needs the run of a language model")
    return config


def dump_config(config: AnyRun) -> dict[str, Any]:
    """The configuration as plain values with YAML's key names."""
    return config.model_dump(mode="json", by_alias=True)


def config_changes(old: AnyRun, new: AnyRun) -> list[str]:
    """Which keys differ, one `path: old -> new` each; empty when the two are the same."""
    left, right = flatten(dump_config(old)), flatten(dump_config(new))
    pairs = {path: (left.get(path, "(absent)"), right.get(path, "(absent)")) for path in {**left, **right}}
    return [f"{path}: {a} -> {b}" for path, (a, b) in pairs.items() if a != b]


def save_config(config: AnyRun, path: str | Path, allow_change: bool = False) -> None:
    """Write the resolved YAML atomically; an existing file with other settings is kept and refused unless `allow_change`."""
    path = Path(path)
    if path.exists() and not allow_change:
        changes = config_changes(load_run(path), config)
        if changes:
            raise ConfigError(
                f"{path.parent} already holds a run with other settings; keys that differ (there -> now):\n  "
                + "\n  ".join(changes)
                + "\nChoose another --dir, go back to the old settings, or say --allow_change to go on with the new ones."
            )
        return
    write_text(path, yaml.safe_dump(dump_config(config), sort_keys=False, allow_unicode=True, width=140))


def class_docs() -> list[SectionDoc]:
    """Every key with its type, default and meaning: the source of docs/configuration.md."""
    others = [(arch, run) for arch, run in RUNS.items() if run is not RunConfig]
    return section_docs(RunConfig) + [
        doc
        for arch, run in others
        for doc in section_docs(run.model_fields["model"].annotation, f"model (arch: {arch})")  # type: ignore[arg-type]
    ]
