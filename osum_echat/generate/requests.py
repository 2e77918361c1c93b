"""From rows of a list to what the generation loop takes, and from answer ids back to text: the two ends of decoding.

The prompt is written by the same function as in training (tasks/task.py), with the first wording of each instruction pool.
"""

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from osum_echat.audio.features import SAMPLE_RATE, LogMel
from osum_echat.config import RunConfig, SourceConfig
from osum_echat.data.source import SOURCES, Row
from osum_echat.data.steps import decode
from osum_echat.errors import DataError, UserError
from osum_echat.generate.rules import Below, Forbid, LogitRule, NoLoop, StopRule
from osum_echat.generate.sampling import Sampler
from osum_echat.generate.schedule import Phase, Plan, make_schedule, make_thinking
from osum_echat.tasks.sequence import Sequence, SequenceBuilder
from osum_echat.tasks.task import Task, encode_prompt
from osum_echat.text.prompts import load_prompts
from osum_echat.text.tags import KINDS, UNKNOWN_TAG, join_words, parse_labels, parse_words, split_reply
from osum_echat.text.think import split_think, words_said
from osum_echat.text.tokenizer import load_tokenizer
from osum_echat.text.vocab import JointVocab
from osum_echat.utterance import Utterance

GREEDY = Sampler()
_NO_SAMPLES = np.zeros(0, dtype=np.float32)


def speech_sampler(config: RunConfig) -> Sampler:
    """How the run says that codes are drawn."""
    return Sampler(**config.model.speech.sampling.model_dump())


def read_rows(source: SourceConfig, audio: str = "wav") -> Iterator[Row]:
    """Rows of a list in file order, heard by the audio field of that name; whatever is wrong with one of them comes as a Drop."""
    opened = SOURCES[source.kind](source.list)
    for index in range(len(opened)):
        for make in opened.rows(index):
            row = make()
            yield row.hearing(audio) if isinstance(row, Utterance) else row


def count_rows(source: SourceConfig) -> int | None:
    """How many rows a list has; None when that would take reading every tar."""
    return len(SOURCES[source.kind](source.list)) if source.kind == "raw" else None


@dataclass(frozen=True)
class Request:
    """A prompt with its log-mels, ready to be batched; `say` is the text to read aloud, "" for other tasks."""

    key: str
    prompt: Sequence
    mels: tuple[Tensor, ...]
    seconds: float
    say: str = ""


@dataclass(frozen=True, eq=False)
class Exchange:
    """A question and the joint ids of the answer to it."""

    question: Utterance
    layout: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """What the model wrote, and its parts. `think` is the block before the reply as it was meant, `reply` what is said, without tags."""

    raw: str
    transcript: str
    labels: dict[str, str]
    think: str | None = None
    reply: str = ""


class RequestEncoder:
    """Text tools and features of one run, for one task."""

    def __init__(self, config: RunConfig, task: Task, max_seconds: float = 120.0) -> None:
        self.task = task
        self.max_seconds = max_seconds
        self.tokenizer = load_tokenizer(config.tokenizer)
        self.vocab = JointVocab(config.model.llm.vocab_size, config.model.speech.codebook_size)
        self.ratio = config.interleave
        self.max_think = config.think.max_tokens
        self.speech_sampler = speech_sampler(config)
        self._builder = SequenceBuilder(self.tokenizer, self.vocab, load_prompts(config.prompts), None, config.interleave, config.think)
        self._log_mel = LogMel(config.features.num_mels)

    def request(self, utterance: Utterance) -> Request:
        """Read the audio and lay out the prompt; raises DataError when that is not possible."""
        utterance = decode(replace(utterance, task=self.task.name))
        request = self._request(encode_prompt(utterance, self.task, self._builder))
        return replace(request, say=(utterance.txt or "").strip()) if self.task.reads_aloud else request

    def follow_up(self, utterance: Utterance, unread: Iterable[int]) -> Request:
        """The next question of a live dialogue, behind the ids of the reply before that the model has not read yet."""
        if self.task.follow_up is None:
            raise UserError(f"the task {self.task.name!r} has no dialogue: every request starts anew")
        utterance = decode(replace(utterance, task=self.task.name))
        self._builder.clear()
        self._builder.ids(list(unread))
        self.task.follow_up(utterance, self._builder)
        return self._request(self._builder.build(utterance.key, self.task.name))

    def heard(self, utterance: Utterance) -> Utterance:
        """A question with its audio read, so that it can be laid out again when its file is gone."""
        return replace(decode(replace(utterance, task=self.task.name)), wav=None)

    def dialogue(self, exchanges: SequenceOf[Exchange], question: Utterance, max_context: int) -> tuple[Request, int]:
        """A dialogue from its beginning, the answers with exactly the ids that were said.

        Of the exchanges (``heard``) the latest that fit, but never all of them; returns the request and how many they are.
        """
        num_kept = len(exchanges)
        while True:
            num_kept -= 1
            prompt = self._dialogue_prompt(exchanges[len(exchanges) - num_kept :], question)
            if num_kept == 0 or len(prompt) <= max_context:
                return self._request(prompt, num_new=1), num_kept

    def _dialogue_prompt(self, exchanges: SequenceOf[Exchange], question: Utterance) -> Sequence:
        layout, follow_up = self.task.prompt, self.task.follow_up
        assert follow_up is not None
        self._builder.clear()
        for exchange in exchanges:
            layout(replace(exchange.question, history=()), self._builder)
            self._builder.ids(list(exchange.layout))
            layout = follow_up
        layout(replace(question, history=()), self._builder)
        return self._builder.build(question.key, self.task.name)

    def _request(self, prompt: Sequence, num_new: int | None = None) -> Request:
        """With features; of ``num_new`` spans at the end the length is checked, by default of all."""
        seconds = sum(len(span.waveform_S) for span in prompt.audio) / SAMPLE_RATE
        new = seconds if num_new is None else sum(len(span.waveform_S) for span in prompt.audio[-num_new:]) / SAMPLE_RATE
        if new > self.max_seconds:
            raise DataError(f"{prompt.key}: {new:.1f} s of audio, at most {self.max_seconds:g} are read", "too_long")
        mels = tuple(self._log_mel(torch.from_numpy(span.waveform_S)) for span in prompt.audio)
        spans = tuple(replace(span, waveform_S=_NO_SAMPLES) for span in prompt.audio)
        return Request(prompt.key, replace(prompt, audio=spans), mels, seconds)

    def rules(self) -> tuple[LogitRule, ...]:
        """The placeholder of an unknown label is never an answer, nor is an id the tokenizer does not have."""
        placeholder = tuple(self.tokenizer.encode(UNKNOWN_TAG))
        return Below(self.tokenizer.vocab_size), Forbid((placeholder,))

    def plan(
        self,
        text: Sampler = GREEDY,
        speech: Sampler | None = None,
        max_new: int | None = None,
        max_speech: int | None = None,
        max_think: int | None = None,
    ) -> Plan:
        """How the task is answered: its schedule, samplers and longest lengths; of speech the run's sampler when none is given."""
        boundary = self.vocab.id_to_code(self.vocab.boundary)
        stops = (
            StopRule(self.tokenizer.eos_id, self.task.max_new if max_new is None else max_new),
            StopRule(boundary, self.task.max_speech if max_speech is None else max_speech),
        )
        phases = Phase(stops[0], text, self.rules()), Phase(stops[1], speech or self.speech_sampler, (NoLoop(boundary),))
        thinking = make_thinking(self.tokenizer, self.max_think if max_think is None else max_think) if self.task.thinks else None
        return Plan(make_schedule(self.task.schedule, self.ratio), self.vocab, *phases, thinking)

    def answer(self, ids: tuple[int, ...]) -> Answer:
        """Text of answer ids, split into words and labels."""
        return read_answer(self.tokenizer.decode(list(ids)), self.task)


def read_answer(raw: str, task: Task) -> Answer:
    """Split what the model wrote: reply and word times are left out of the transcript, labels the task did not ask for are kept too.

    Of an answer with a think block, transcript and labels are those of the block: what was heard.
    """
    if task.follow_up is not None:
        think = split_think(raw).think
        transcript, labels = parse_labels(_one_line(think or ""), task.labels)
        return Answer(_one_line(raw), transcript, labels, think, _one_line(words_said(raw)))
    raw = _one_line(raw)
    text, labels = parse_labels(split_reply(raw)[0], task.labels or KINDS)
    words = parse_words(text)
    transcript = join_words(word for word, _, _ in words) if words else text
    return Answer(raw, transcript if task.transcript else "", labels)


def _one_line(text: str) -> str:
    """Every run of white space as one space, none at the ends."""
    return " ".join(text.split())
