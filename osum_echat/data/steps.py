"""One utterance through the straight list: task, decode, bounds, augmentation, layout, bounds, log-mel. Every way out has a name.

Each step raises ``DataError`` with the reason it drops the utterance for; ``prepare`` turns that into a counted ``Drop``. Every random
choice is drawn from (seed, epoch, key, copy), so it does not depend on who reads the utterance, or when. What a row becomes is the
``Encoder``'s: those here give sequences; token2wav has its own (token2wav/flow_training.py, token2wav/vocoder_training.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from osum_echat.audio.augment import add_noise, change_channel, change_speed, change_volume, spec_augment
from osum_echat.audio.features import SAMPLE_RATE, LogMel, num_llm_frames
from osum_echat.audio.io import read_audio
from osum_echat.config import AugmentConfig, DataConfig, FilterConfig, InterleaveConfig, ThinkConfig, TokenizerConfig
from osum_echat.data.batch import Batch, collate, pack
from osum_echat.data.source import Drop, Row, generator
from osum_echat.errors import DataError
from osum_echat.tasks.sequence import AudioSpan, Sequence, SequenceBuilder
from osum_echat.tasks.task import WITHOUT_THINK, draw_task, encode, get_task
from osum_echat.text.prompts import load_prompts
from osum_echat.text.tokenizer import load_tokenizer
from osum_echat.text.vocab import IGNORE, JointVocab
from osum_echat.utterance import Turn, Utterance

_NO_SAMPLES = np.zeros(0, dtype=np.float32)


class Measured(Protocol):
    """What packing must know of an example: positions of ``train.max_tokens`` and seconds of audio."""

    @property
    def length(self) -> int: ...
    @property
    def seconds(self) -> float: ...


@dataclass(frozen=True)
class Example:
    """A laid-out utterance ready to be packed; the waveforms are gone, ``mels`` has one log-mel (F, M) per audio span.

    There may be two sequences: a teacher with a think block, then its student without (self-distillation).
    """

    sequences: tuple[Sequence, ...]
    mels: tuple[Tensor, ...]
    seconds: float

    @property
    def length(self) -> int:
        return sum(len(sequence) for sequence in self.sequences)


@dataclass(frozen=True)
class Limits:
    """What one micro-batch may hold."""

    max_tokens: int
    max_seconds: float | None = None


class Encoder(Protocol):
    """How rows become examples, and examples batches: what differs between the models that are trained."""

    def example(self, utterance: Utterance, preparer: "Preparer", copy: int) -> Measured:
        """``DataError`` drops the row."""

    def pack(self, examples: SequenceOf[Any], limits: Limits) -> list[list[int]]:
        """Indices of the examples of each batch."""

    def collate(self, examples: SequenceOf[Any]) -> Any:
        """A batch as the trainer needs it (train/objective.py's ``TrainBatch``)."""


class SpokenEncoder(ABC):
    """Base of the encoders whose rows are laid out as a ``Sequence`` over 16 kHz audio."""

    num_mels: int

    @abstractmethod
    def sequence(self, utterance: Utterance, rng: np.random.Generator | None) -> Sequence:
        """Layout of a decoded utterance."""

    @abstractmethod
    def num_text(self, sequence: Sequence) -> int:
        """Text ids of the answer."""

    @abstractmethod
    def log_mel(self, waveform_S: np.ndarray) -> Tensor:
        """(F, M) log-mel of a 16 kHz waveform."""

    def example(self, utterance: Utterance, preparer: "Preparer", copy: int) -> Example:
        """Decode, bounds, augmentation, layout (with the latest turns that fit), bounds, log-mel."""
        data = preparer.data
        utterance = decode(utterance)
        check_seconds(utterance, data.filter)
        rng = preparer.rng("augment", utterance, copy) if preparer.train else None
        if rng is not None:
            utterance = augment(utterance, data.augment, rng)
        wording = preparer.rng("wording", utterance, copy) if preparer.train else None
        sequences = self.sequences(utterance, wording, preparer.train)
        while utterance.history and not fits(sequences, data.filter, preparer.limits):
            utterance = replace(utterance, history=utterance.history[2:])  # as a session forgets: the oldest exchange first
            sequences = self.sequences(utterance, wording, preparer.train)
        check_length(sequences, self.num_text(sequences[0]), data.filter, preparer.limits)
        return features(sequences, self, data.augment, rng)

    def sequences(self, utterance: Utterance, rng: np.random.Generator | None, train: bool) -> tuple[Sequence, ...]:
        """The layouts that are learned together: one, unless a model says otherwise."""
        return (self.sequence(utterance, rng),)

    def pack(self, examples: SequenceOf[Example], limits: Limits) -> list[list[int]]:
        """Nothing is padded: any may stand together."""
        return pack([e.length for e in examples], [e.seconds for e in examples], limits.max_tokens, limits.max_seconds)

    def collate(self, examples: SequenceOf[Example]) -> Batch:
        """Sequences one behind the other."""
        sequences = [sequence for example in examples for sequence in example.sequences]
        students = [number for example in examples for number in range(len(example.sequences))]
        mels = [mel_FM for example in examples for mel_FM in example.mels]
        return collate(sequences, mels, self.num_mels, [place for place, number in enumerate(students) if number == 1])


class TranscriptEncoder(SpokenEncoder):
    """Audio and the bytes of its transcript, for a model that learns by CTC alone: a position per 80 ms, nothing learned at any."""

    def __init__(self, num_mels: int) -> None:
        self.num_mels = num_mels
        self._log_mel: LogMel | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_log_mel": None}

    def sequence(self, utterance: Utterance, rng: np.random.Generator | None) -> Sequence:
        """Raises DataError where audio or transcript is missing; ``rng`` is not used."""
        text, waveform_S = (utterance.txt or "").strip(), utterance.waveform_S
        if waveform_S is None:
            where = f"the row has no wav, or task {utterance.task} does not read it (`task: asr` of the source does)"
            raise DataError(f"no audio to transcribe: {where}", "missing_audio")
        if not text:
            raise DataError("needs the field 'txt', the transcript of the audio", "missing_label")
        length = num_llm_frames(len(waveform_S))
        ids, labels = np.zeros(length, dtype=np.int64), np.full(length, IGNORE, dtype=np.int64)
        ctc_ids = np.array(list(text.encode()), dtype=np.int64)
        return Sequence(ids, labels, (AudioSpan(0, length, waveform_S),), ctc_ids, utterance.key, utterance.task)

    def num_text(self, sequence: Sequence) -> int:
        """No text id is learned."""
        return 0

    def log_mel(self, waveform_S: np.ndarray) -> Tensor:
        """(F, M) log-mel of a 16 kHz waveform."""
        if self._log_mel is None:
            self._log_mel = LogMel(self.num_mels)
        return self._log_mel(torch.from_numpy(waveform_S))


class SequenceEncoder(SpokenEncoder):
    """Text tools and log-mel of a run, built on first use in the process that uses them: only their configuration is pickled."""

    def __init__(
        self,
        tokenizer: TokenizerConfig,
        prompts: str,
        codebook_size: int,
        num_mels: int,
        text_size: int | None = None,
        ratio: InterleaveConfig = InterleaveConfig(),  # noqa: B008  frozen
        think: ThinkConfig = ThinkConfig(),  # noqa: B008  frozen
    ) -> None:
        """``text_size`` is the number of text embeddings of the model when that exceeds the tokenizer's vocabulary."""
        self.tokenizer_config = tokenizer
        self.prompts_name = prompts
        self.codebook_size = codebook_size
        self.num_mels = num_mels
        self.text_size = text_size
        self.ratio = ratio
        self.think = think
        self._tools: tuple[SequenceBuilder, LogMel] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tools": None}

    def sequence(self, utterance: Utterance, rng: np.random.Generator | None) -> Sequence:
        """Prompt and answer of ``utterance.task``; ``rng`` chooses the wording of the instruction (None: the first)."""
        builder, _ = self._load()
        builder.rng = rng
        return encode(utterance, get_task(utterance.task), builder)

    def sequences(self, utterance: Utterance, rng: np.random.Generator | None, train: bool) -> tuple[Sequence, ...]:
        """A row that thinks is its own teacher where ``think.distill`` asks for it: the same row without the block comes second."""
        first = self.sequence(utterance, rng)
        if not (train and self.think.distill and get_task(utterance.task).thinks):
            return (first,)
        student = self.sequence(replace(utterance, task=WITHOUT_THINK[get_task(utterance.task).name]), rng)
        return first, replace(student, ctc_ids=student.ctc_ids[:0])  # the words of the audio count once

    def num_text(self, sequence: Sequence) -> int:
        """Text ids of the answer."""
        builder, _ = self._load()
        return int(builder.vocab.is_text(sequence.labels).sum())

    def log_mel(self, waveform_S: np.ndarray) -> Tensor:
        """(F, M) log-mel of a 16 kHz waveform."""
        _, log_mel = self._load()
        return log_mel(torch.from_numpy(waveform_S))

    def _load(self) -> tuple[SequenceBuilder, LogMel]:
        if self._tools is None:
            tokenizer = load_tokenizer(self.tokenizer_config)
            vocab = JointVocab(self.text_size or tokenizer.vocab_size, self.codebook_size)
            builder = SequenceBuilder(tokenizer, vocab, load_prompts(self.prompts_name), ratio=self.ratio, think=self.think)
            self._tools = builder, LogMel(self.num_mels)
        return self._tools


@dataclass(frozen=True)
class Preparer:
    """``prepare`` with everything that stays the same during an epoch."""

    data: DataConfig
    encoder: Encoder
    limits: Limits
    seed: int
    epoch: int
    train: bool

    def prepare(self, utterance: Utterance, copy: int = 0) -> Measured | Drop:
        """The straight list. ``copy`` tells the copies of one utterance apart that a source weight above 1 makes."""
        task = utterance.task
        try:
            task = draw_task(utterance, self.data.convert if self.train else (), self.seed, self.epoch)
            return self.encoder.example(replace(utterance, task=task), self, copy)
        except DataError as error:
            return Drop.because(error, utterance, task)

    def rng(self, purpose: str, utterance: Utterance, copy: int) -> np.random.Generator:
        """For the random choices of one purpose; dev sets are always read as epoch 0."""
        return generator(purpose, self.seed, self.epoch, utterance.key, copy)


def decode(utterance: Utterance) -> Utterance:
    """Reads the audio, wherever it is, when the task hears it; a task that needs audio and finds none drops the utterance at layout."""
    if not get_task(utterance.task).reads_audio:
        return utterance
    utterance = replace(utterance, history=tuple(_decode_turn(turn) for turn in utterance.history))
    source = utterance.audio if utterance.audio is not None else utterance.wav
    if source is None:
        return utterance
    waveform_S = read_audio(source, utterance.start, utterance.end)
    return replace(utterance, waveform_S=waveform_S, audio=None)


def _decode_turn(turn: Turn) -> Turn:
    source = turn.audio if turn.audio is not None else turn.wav
    if source is None or turn.role != "user":  # the model's own turns are text and speech codes
        return turn
    return replace(turn, waveform_S=read_audio(source), audio=None)


def check_seconds(utterance: Utterance, bounds: FilterConfig) -> None:
    """Drops audio outside the bounds, that of earlier turns too."""
    for waveform_S in [utterance.waveform_S, *(turn.waveform_S for turn in utterance.history)]:
        if waveform_S is not None:
            check_duration(len(waveform_S) / SAMPLE_RATE, bounds)


def check_duration(seconds: float, bounds: FilterConfig) -> None:
    """Drops audio of so many seconds outside the bounds."""
    if seconds < bounds.min_seconds:
        raise DataError(f"{seconds:.3f} s of audio, data.filter.min_seconds is {bounds.min_seconds}", "too_short")
    if seconds > bounds.max_seconds:
        raise DataError(f"{seconds:.1f} s of audio, data.filter.max_seconds is {bounds.max_seconds}", "too_long")


def augment(utterance: Utterance, config: AugmentConfig, rng: np.random.Generator) -> Utterance:
    """Speed (word times follow), channel, noise and volume, as far as they are switched on; a speaker keeps his speed in all turns."""
    if utterance.waveform_S is None:
        return utterance
    words = utterance.words
    speed = config.speed[int(rng.integers(len(config.speed)))]
    if speed != 1.0 and words is not None:
        words = tuple((word, start / speed, end / speed) for word, start, end in words)
    waveform_S = _augmented(utterance.waveform_S, speed, config, rng)
    history = tuple(
        turn if turn.waveform_S is None else replace(turn, waveform_S=_augmented(turn.waveform_S, speed, config, rng))
        for turn in utterance.history
    )
    return replace(utterance, waveform_S=waveform_S, words=words, history=history)


def _augmented(waveform_S: np.ndarray, speed: float, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    if speed != 1.0:
        waveform_S = change_speed(waveform_S, speed)
    if config.channel_db:
        waveform_S = change_channel(waveform_S, config.channel_db, rng)
    if config.noise_snr_db is not None:
        waveform_S = add_noise(waveform_S, rng.uniform(*config.noise_snr_db), rng)
    if config.volume_db is not None:
        waveform_S = change_volume(waveform_S, rng.uniform(*config.volume_db))
    return waveform_S


def check_length(sequences: SequenceOf[Sequence], num_text: int, bounds: FilterConfig, limits: Limits) -> None:
    """Drops what is longer than the bounds or than a whole micro-batch; `num_text` counts the text ids of the answer."""
    if num_text > bounds.max_text_tokens:
        raise DataError(f"{num_text} answer tokens, data.filter.max_text_tokens is {bounds.max_text_tokens}", "text_too_long")
    check_positions(max(map(len, sequences)), bounds, limits)
    total = sum(map(len, sequences))
    if total > limits.max_tokens:
        raise DataError(f"{total} positions of teacher and student, train.max_tokens is {limits.max_tokens}", "sequence_too_long")


def check_positions(length: int, bounds: FilterConfig, limits: Limits) -> None:
    """Drops what is longer than the bounds or than a whole micro-batch."""
    longest = min(bounds.max_sequence, limits.max_tokens)
    if length > longest:
        name = "data.filter.max_sequence" if longest == bounds.max_sequence else "train.max_tokens"
        raise DataError(f"{length} positions, {name} is {longest}", "sequence_too_long")


def fits(sequences: SequenceOf[Sequence], bounds: FilterConfig, limits: Limits) -> bool:
    """True when each is short enough, and all of them for one micro-batch."""
    return max(map(len, sequences)) <= bounds.max_sequence and sum(map(len, sequences)) <= limits.max_tokens


def features(sequences: SequenceOf[Sequence], encoder: SpokenEncoder, config: AugmentConfig, rng: np.random.Generator | None) -> Example:
    """Log-mel of every audio span, SpecAugment when training; the waveforms are let go. Sequences of one row have the same audio."""
    mels = [encoder.log_mel(span.waveform_S) for span in sequences[0].audio]
    if rng is not None and (config.spec_time_masks or config.spec_freq_masks):
        shape = (config.spec_time_masks, config.spec_time_width, config.spec_freq_masks, config.spec_freq_width)
        mels = [torch.from_numpy(spec_augment(mel_FM.numpy(), rng, *shape)) for mel_FM in mels]
    seconds = sum(len(span.waveform_S) for sequence in sequences for span in sequence.audio) / SAMPLE_RATE
    silent = [replace(s, audio=tuple(replace(span, waveform_S=_NO_SAMPLES) for span in s.audio)) for s in sequences]
    return Example(tuple(silent), tuple(mels) * len(sequences), seconds)


def as_utterance(row: Row, prepare: Preparer, copy: int) -> Measured | Drop:
    """A row of a source through the list; a row that is a drop already stays one."""
    return row if isinstance(row, Drop) else prepare.prepare(row, copy)
