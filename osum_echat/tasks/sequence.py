"""One training or decoding sequence: joint ids, what is learned at which of them, and the audio that fills its slots.

`SequenceBuilder` is the only place where ids and labels are written, always together, so a token can neither lack its target nor get
another one's. Labels are not shifted here: `labels[t]` repeats `ids[t]` where that id is learned (the batch shifts, data/batch.py).
Leaves out: what a task puts where (task.py and its neighbours), features, batching.
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from rich.text import Text

from osum_echat.audio.features import num_llm_frames
from osum_echat.config import InterleaveConfig, ThinkConfig
from osum_echat.errors import ConfigError, DataError
from osum_echat.tasks.interleave import interleave
from osum_echat.text.prompts import Prompts
from osum_echat.text.tokenizer import Tokenizer
from osum_echat.text.vocab import IGNORE, JointVocab


@dataclass(frozen=True, eq=False)
class AudioSpan:
    """User audio: its adapter frames go to positions `start` .. `start + num_slots - 1` (the marks around them not counted)."""

    start: int
    num_slots: int
    waveform_S: np.ndarray


@dataclass(frozen=True, eq=False)
class Sequence:
    """ids_T and labels_T are int64 of one length T; `ctc_ids` is the transcript in UTF-8 bytes, empty when there is none.

    `known` tells of every part of a think block whether it was known, and learned, or a placeholder.
    """

    ids: np.ndarray
    labels: np.ndarray
    audio: tuple[AudioSpan, ...]
    ctc_ids: np.ndarray
    key: str
    task: str
    known: dict[str, bool] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_supervised(self) -> int:
        """Positions something is learned at."""
        return int((self.labels != IGNORE).sum())

    @property
    def num_slots(self) -> int:
        """Positions that adapter frames fill."""
        return sum(span.num_slots for span in self.audio)


class SequenceBuilder:
    """Collects typed pieces into a Sequence; `clear` (or `build`) starts the next one.

    `rng` draws the instruction: None takes each pool's first. It is an attribute so that one builder can serve many utterances, each with a
    generator of its own.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab: JointVocab,
        prompts: Prompts,
        rng: np.random.Generator | None = None,
        ratio: InterleaveConfig = InterleaveConfig(),  # noqa: B008  frozen
        think: ThinkConfig = ThinkConfig(),  # noqa: B008  frozen
    ) -> None:
        if tokenizer.vocab_size > vocab.text_size:
            raise ConfigError(f"the tokenizer has {tokenizer.vocab_size} ids but the model only {vocab.text_size} (model.llm.vocab_size)")
        self.tokenizer = tokenizer
        self.vocab = vocab
        self.prompts = prompts
        self.rng = rng
        self.ratio = ratio
        self.think = think
        self.clear()

    def clear(self) -> None:
        """Forget all pieces."""
        self._ids: list[int] = []
        self._labels: list[int] = []
        self._audio: list[AudioSpan] = []
        self._ctc_ids: list[int] = []
        self._known: dict[str, bool] = {}

    def text(self, text: str, learn: bool = False) -> None:
        """Append text, tokenized on its own."""
        self.ids(self.tokenizer.encode(text), learn)

    def ids(self, ids: Many[int], learn: bool = False) -> None:
        """Append joint ids as they are."""
        self._ids += ids
        self._labels += ids if learn else [IGNORE] * len(ids)

    def eos(self, learn: bool = False) -> None:
        """Append the end of an answer's text."""
        self.ids([self.tokenizer.eos_id], learn)

    def audio(self, waveform_S: np.ndarray) -> None:
        """Append the user's audio (16 kHz mono): begin mark, one slot per adapter frame, end mark. Never learned."""
        num_slots = num_llm_frames(len(waveform_S))
        if num_slots == 0:
            raise DataError(f"audio of {len(waveform_S)} samples gives no frame; drop it or give a longer one", "empty_audio")
        self.ids([self.vocab.audio_begin])
        self._audio.append(AudioSpan(len(self._ids), num_slots, waveform_S))
        self.ids([self.vocab.audio_slot] * num_slots)
        self.ids([self.vocab.audio_end])

    def speech(self, codes: Many[int], learn: bool = False) -> None:
        """Append speech the model says: boundary, codes, boundary."""
        self.ids(self._speech_ids(codes), learn)

    def interleaved(self, text: str, codes: Many[int], learn: bool = False) -> None:
        """Append text, eos and speech (boundary, codes, boundary) in alternating blocks."""
        text_ids = [*self.tokenizer.encode(text), self.tokenizer.eos_id]
        self.ids(interleave(text_ids, self._speech_ids(codes), self.ratio.text, self.ratio.speech), learn)

    def _speech_ids(self, codes: Many[int]) -> list[int]:
        wrong = [code for code in codes if not 0 <= code < self.vocab.codebook_size]
        if wrong:
            raise DataError(f"speech code {wrong[0]} is outside the codebook of {self.vocab.codebook_size}", "bad_speech_token")
        boundary = self.vocab.boundary
        return [boundary, *(self.vocab.code_to_id(code) for code in codes), boundary]

    def transcript(self, text: str) -> None:
        """Note the words of the audio for the CTC branch; no position of the sequence."""
        self._ctc_ids = list(text.encode())

    def note(self, part: str, known: bool) -> None:
        """Note whether a part of the think block was known; no position of the sequence."""
        self._known[part] = known

    def build(self, key: str, task: str) -> Sequence:
        """The sequence of all pieces; the builder is empty afterwards."""
        ids, labels, ctc_ids = (np.array(values, dtype=np.int64) for values in (self._ids, self._labels, self._ctc_ids))
        sequence = Sequence(ids, labels, tuple(self._audio), ctc_ids, key, task, self._known)
        self.clear()
        return sequence


def show(sequence: Sequence, tokenizer: Tokenizer, vocab: JointVocab) -> Text:
    """For the eye: what is learned in bold green, the rest grey; audio as [audio x37], speech as [speech x18], boundaries as [sb]."""
    picture = Text()
    pairs = zip(sequence.ids.tolist(), sequence.labels.tolist(), strict=True)
    marks = [(_sort_of(token, vocab), label != IGNORE) for token, label in pairs]
    position = 0
    for (sort, learned), run in groupby(marks):
        length = sum(1 for _ in run)
        ids = sequence.ids[position : position + length].tolist()
        text = tokenizer.decode(ids).replace("\n", "⏎") if sort == "text" else _describe(sort, length)
        picture.append(text, style="bold green" if learned else "bright_black")
        position += length
    return picture


def _describe(sort: str, length: int) -> str:
    if sort == "mark":  # the slots between the marks say it all
        return ""
    return "[sb]" * length if sort == "sb" else f"[{sort} x{length}]"


def _sort_of(token: int, vocab: JointVocab) -> str:
    if vocab.is_text(token):
        return "text"
    if token == vocab.boundary:
        return "sb"
    if token == vocab.audio_slot:
        return "audio"
    return "speech" if vocab.is_speech(token) else "mark"
