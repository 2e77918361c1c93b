"""The configuration of a run: one YAML file in, frozen and fully checked objects out.

Outside it is YAML (`base: other.yaml` is merged under the file, `--set a.b=c` over it); inside it is these classes and nothing
calls `.get`. An unknown, missing or ill-typed key stops the run before anything is built, with file:line, the YAML path and
the nearest valid key. Paths are kept as written: they are relative to the directory the command runs in, as in Kaldi and WeNet.
Reading and writing files is in the second half; what a value means is in its description, from which docs/configuration.md is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from osum_echat.config_optim import OptimConfig, ScheduleConfig
from osum_echat.config_token2wav import FlowConfig, MelConfig, QuantizerConfig, VocoderConfig, VocoderLossConfig, check_same_frames
from osum_echat.config_types import NonNegative, Positive, Probability, Rate, Section, check_divides, check_unused
from osum_echat.config_yaml import SectionDoc, apply_override, describe_error, flatten, read_yaml, run_docs
from osum_echat.errors import ConfigError
from osum_echat.files import write_text


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
        check_divides(self.width, self.num_heads)
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
                check_divides(width, heads)
                return {**values, "head_dim": width // heads}
        return values

    @model_validator(mode="after")
    def _check(self) -> LlmConfig:
        check_divides(self.num_heads, self.num_kv_heads, "num_heads", "num_kv_heads")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {self.head_dim}")
        return self


class CodeSamplingConfig(Section):
    """How speech tokens are drawn unless a command says otherwise (generate/sampling.py)."""

    temperature: float = Field(1.0, ge=0, description="0 takes the likeliest code and ignores the rest.")
    top_k: NonNegative = Field(25, description="Codes among the k likeliest; 0 for all.")
    top_p: float = Field(0.8, gt=0, le=1, description="And among the likeliest that hold this probability.")
    repeat_window: NonNegative = Field(10, description="A code drawn too often among the last K is drawn again from all; 0 for never.")
    repeat_share: Probability = Field(0.1, description="Too often: above this share.")


class SpeechConfig(Section):
    """Speech tokens of the joint vocabulary."""

    codebook_size: Positive = Field(4096, description="Codes of the speech tokenizer.")
    sampling: CodeSamplingConfig = Field(default_factory=CodeSamplingConfig, description="Defaults of generation.")


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
        check_divides(self.encoder.width, self.adapter.num_heads, "encoder.width", "adapter.num_heads")
        return self


class SourceConfig(Section):
    """One data list."""

    kind: Literal["raw", "shard", "combine"] = Field("raw", description="`raw`: JSON lines; `shard`: tars; `combine`: tars and metadata.")
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

    speed: list[Annotated[float, Field(gt=0.1, lt=10)]] = Field([1.0], min_length=1, description="Speed factors; one is drawn per row.")
    channel_db: float = Field(0.0, ge=0, description="Random frequency response: gains within so many dB either way; 0 for none.")
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


class InterleaveConfig(Section):
    """Blocks of an answer that writes and speaks by turns (arXiv:2508.09600: 6 text ids, then 18 speech codes)."""

    text: Positive = Field(6, description="Text ids of a block.")
    speech: Positive = Field(18, description="Speech codes of a block.")


class ThinkConfig(Section):
    """The block in front of a reply of the tasks *_think (arXiv:2508.09600, dual think)."""

    form: Literal["tags", "language"] = Field("tags", description="`tags`: the user's words, then labels; `language`: the field `think`.")
    max_tokens: Positive = Field(200, description="Longest block when decoding; then it is closed.")
    sparse: bool = Field(True, description="Learn from rows that lack labels too, at the positions of those that are known.")
    distill: float = Field(0.0, ge=0, description="Weight of self-distillation: rows that think are also learned without; 0: none.")


class RunConfig(Section):
    """Everything that defines a training run."""

    seed: int = Field(777, description="Seed of initialisation, data order and dropout.")
    model: ModelConfig = Field(description="Model.")
    tokenizer: TokenizerConfig = Field(description="Text tokenizer.")
    prompts: str = Field("default", description="Name of a file in osum_echat/text/prompts, or a path.")
    features: FeatureConfig = Field(default_factory=FeatureConfig, description="Audio features.")
    interleave: InterleaveConfig = Field(default_factory=InterleaveConfig, description="Ratio of the tasks *_interleaved.")
    think: ThinkConfig = Field(default_factory=ThinkConfig, description="Think block of the tasks *_think.")
    data: DataConfig = Field(description="Data.")
    train: TrainConfig = Field(description="Training loop.")

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        if self.features.num_mels != self.model.encoder.num_mels:
            mels = self.features.num_mels, self.model.encoder.num_mels
            raise ValueError(f"features.num_mels {mels[0]} differs from model.encoder.num_mels {mels[1]}")
        return self


class SpeechTokenizerConfig(Section):
    """Speech tokenizer (`arch: speech_tokenizer`): an encoder with a codebook inside, trained by CTC over the bytes of the transcript.

    A run with this model has no `tokenizer`, `prompts` and `features`; one position of `train.max_tokens` is 80 ms of audio.
    """

    arch: Literal["speech_tokenizer"] = Field("speech_tokenizer", description="Which model.")
    encoder: EncoderConfig = Field(default_factory=lambda: EncoderConfig(num_layers=12), description="The encoder, frames of 50 Hz.")
    quantizer: QuantizerConfig = Field(default_factory=QuantizerConfig, description="The codebook.")
    frames_per_token: Literal[1, 2, 4] = Field(2, description="Encoder frames that become one token: 2 is 25 tokens a second, 4 is 12.5.")
    num_layers_after: NonNegative = Field(6, description="How many of its layers lie behind the codebook; only training uses them.")

    @model_validator(mode="after")
    def _check(self) -> SpeechTokenizerConfig:
        if self.num_layers_after >= self.encoder.num_layers:
            raise ValueError(f"num_layers_after {self.num_layers_after} must leave layers before it; there are {self.encoder.num_layers}")
        return self


class SpeechTokenizerRun(Section):
    """Everything that defines the training of a speech tokenizer."""

    seed: int = Field(777, description="Seed of initialisation, data order and dropout.")
    model: SpeechTokenizerConfig = Field(description="Model.")
    data: DataConfig = Field(description="Data.")
    train: TrainConfig = Field(description="Training loop.")


class FlowRun(Section):
    """Everything that defines the training of a flow."""

    seed: int = Field(777, description="Seed of initialisation, data order, dropout and everything a flow draws.")
    mel: MelConfig = Field(default_factory=MelConfig, description="Log-mel of the audio.")
    model: FlowConfig = Field(description="Model.")
    data: DataConfig = Field(description="Data.")
    train: TrainConfig = Field(description="Training loop.")

    @model_validator(mode="after")
    def _check(self) -> FlowRun:
        check_same_frames(self.model, self.mel)
        check_unused(self.data.augment, "data.augment")
        return self


class VocoderRun(Section):
    """Everything that defines the training of a vocoder."""

    seed: int = Field(777, description="Seed of initialisation, data order, segments and noise.")
    mel: MelConfig = Field(default_factory=MelConfig, description="Log-mel that the vocoder reads.")
    model: VocoderConfig = Field(description="Model.")
    segment_frames: Positive = Field(50, description="Mel frames of a training segment.")
    loss: VocoderLossConfig = Field(default_factory=VocoderLossConfig, description="What is minimised.")
    data: DataConfig = Field(description="Data.")
    train: TrainConfig = Field(description="Training loop.")

    @model_validator(mode="after")
    def _check(self) -> VocoderRun:
        check_unused(self.data.augment, "data.augment")
        if self.segment_frames > self.train.max_tokens:
            raise ValueError(f"segment_frames {self.segment_frames} exceeds train.max_tokens {self.train.max_tokens}: no segment fits")
        return self


AnyRun = RunConfig | SpeechTokenizerRun | FlowRun | VocoderRun
RUNS: dict[str, type[AnyRun]] = {"echat": RunConfig, "speech_tokenizer": SpeechTokenizerRun, "flow": FlowRun, "vocoder": VocoderRun}


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
    return run_docs(RunConfig, {arch: run for arch, run in RUNS.items() if run is not RunConfig})
