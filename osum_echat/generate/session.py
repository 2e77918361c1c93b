"""A live dialogue: a question in, a stream of events out while the answer is generated; then the next question.

The session owns the key/value state and goes on with it: a turn only reads what is new, and what was said stands in it with exactly the ids
that were said. The ids of a turn are thus a prefix of those of the next, as in training (tasks/chat.py). An answer that is broken off (the
iterator is closed) is kept as far as it came. A think block comes as one event at its end, before the reply.

Where a question and all before it exceed `max_context` positions, the oldest exchanges are forgotten, as few as that takes, and the rest is
read anew: training shortens a history in the same way (data/steps.py). Tasks without dialogue, such as tts, start anew with every request.
Leaves out: turn detection, playing sound, many dialogues at once.

Shapes: T new positions, D width, S samples.
"""

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from osum_echat.generate.decoder import decode, prompt_batch
from osum_echat.generate.requests import Exchange, Request, RequestEncoder
from osum_echat.generate.sampling import request_generator
from osum_echat.generate.schedule import Course, Plan
from osum_echat.generate.voice import Hops, Synthesizer, Voice
from osum_echat.model.echat import EChat
from osum_echat.model.llm import KVState
from osum_echat.text.think import Thought, split_think
from osum_echat.text.tokenizer import IncrementalDetokenizer
from osum_echat.utterance import Utterance


@dataclass(frozen=True)
class StageEvent:
    """A step on the way to the first id is done: "encoded" (features, encoder, adapter), then "prefilled" (LLM over the prompt)."""

    seconds: float
    stage: str


@dataclass(frozen=True)
class ThinkEvent:
    """The think block, as it was meant and without its marks; `finished` is False when it was closed at its longest length."""

    seconds: float
    text: str
    finished: bool


@dataclass(frozen=True)
class TextEvent:
    """More of the reply's text; the pieces concatenate to the whole."""

    seconds: float
    text: str


@dataclass(frozen=True)
class SpeechEvent:
    """The next speech code of the answer."""

    seconds: float
    code: int


@dataclass(frozen=True, eq=False)
class AudioEvent:
    """The next samples of the answer, mono in [-1, 1]."""

    seconds: float
    samples_S: np.ndarray
    sample_rate: int


@dataclass(frozen=True)
class EndEvent:
    """The whole reply, its think block not included; `finished` is False when it was cut off at a longest length."""

    seconds: float
    text: str
    codes: tuple[int, ...]
    finished: bool


Event = StageEvent | ThinkEvent | TextEvent | SpeechEvent | AudioEvent | EndEvent
"""`seconds` of every event count from the request."""


class DialogueSession:
    """One dialogue with one model, for the task of `encoder`. With a synthesiser, spoken answers also come as sound."""

    def __init__(
        self,
        model: EChat,
        encoder: RequestEncoder,
        plan: Plan,
        *,
        seed: int = 777,
        synthesizer: Synthesizer | None = None,
        hops: Hops = Hops(),  # noqa: B008  frozen
        max_context: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._model = model
        self._encoder = encoder
        self._plan = plan
        self._seed = seed
        self._synthesizer = synthesizer
        self._hops = hops
        self._max_context = max_context
        self._clock = clock
        self._open: Generator[Event, None, None] = _nothing()
        self.reset()

    def reset(self) -> None:
        """Forget everything that was said."""
        self.ids: tuple[int, ...] = ()  # joint ids of all turns, audio slots included
        self.num_turns = 0
        self.num_forgotten = 0  # exchanges
        self._exchanges: list[Exchange] = []
        self._state: KVState | None = None

    def reply(self, question: Utterance) -> Iterator[Event]:
        """Events of the answer to `waveform_S` or `wav` (to `question` or `txt` for tasks that read). The request begins with this call.

        A question that cannot be laid out raises DataError with the first event and leaves the dialogue as it was. An answer that is still
        open is broken off.
        """
        begin = self._clock()
        self._open.close()
        self._open = self._events(question, lambda: self._clock() - begin)
        return self._open

    @torch.inference_mode()
    def _events(self, question: Utterance, now: Callable[[], float]) -> Generator[Event, None, None]:
        question = self._encoder.heard(question)
        request, num_kept = self._request(question)
        batch = prompt_batch(self._model, [request.prompt], request.mels)
        x_TD = self._model.embed(batch)
        yield StageEvent(now(), "encoded")
        if num_kept < len(self._exchanges):
            self._forget(len(self._exchanges) - num_kept)
        hidden_TD = self._read(request, x_TD)
        name = f"{question.key}/{self.num_turns}" if self.num_turns else question.key
        self.num_turns += 1
        course = Course(self._plan)
        try:
            yield StageEvent(now(), "prefilled")
            yield from self._answer(course, hidden_TD[-1:], request_generator(self._seed, name), now)
        finally:
            course.close()
            self.ids += tuple(course.layout)
            self._exchanges.append(Exchange(question, tuple(course.layout)))

    def _request(self, question: Utterance) -> tuple[Request, int]:
        """What the model has to read, and how many exchanges that goes on from.

        At first all of the prompt; later only what is new and the end of the last answer; where that is too long, the latest exchanges that
        fit from their beginning.
        """
        if self._encoder.task.follow_up is None:
            self.reset()
        if self._state is None:
            return self._encoder.request(question), 0
        num_read = self._state.row_lens[0]
        request = self._encoder.follow_up(question, self.ids[num_read:])
        if self._max_context is None or num_read + len(request.prompt) <= self._max_context:
            return request, len(self._exchanges)
        return self._encoder.dialogue(self._exchanges, question, self._max_context)

    def _forget(self, num: int) -> None:
        """The oldest exchanges; the rest is to be read anew."""
        self.num_forgotten += num
        self._exchanges, self._state = self._exchanges[num:], None

    def _read(self, request: Request, x_TD: Tensor) -> Tensor:
        llm, num_read = self._model.llm, 0 if self._state is None else self._state.row_lens[0]
        capacity = num_read + len(request.prompt) + self._plan.max_new
        state = llm.init_state(1, capacity) if self._state is None else self._state.grown(capacity)
        hidden_TD = llm.extend(x_TD, state)
        self._state = state
        self.ids = (*self.ids[:num_read], *request.prompt.ids.tolist())
        return hidden_TD

    def _answer(self, course: Course, hidden_BD: Tensor, generator: torch.Generator, now: Callable[[], float]) -> Iterator[Event]:
        assert self._state is not None
        detokenizer = IncrementalDetokenizer(self._encoder.tokenizer)
        voice = self._voice(generator)
        num_text = num_codes = 0
        thought = Thought(None, "")
        for _ in decode(self._model, hidden_BD, self._state, [course], [generator]):
            if course.thinks:
                continue
            if num_text < course.num_think:
                thought = split_think(self._encoder.tokenizer.decode(course.text[: course.num_think]))
                yield ThinkEvent(now(), thought.think or "", not course.think_cut)
                yield from _text_event(thought.reply, now)
                num_text = course.num_think
            for token in course.text[num_text:]:
                yield from _text_event(detokenizer.push(token), now)
            for code in course.codes[num_codes:]:
                yield SpeechEvent(now(), code)
                if voice is not None:
                    yield from _audio_event(voice.say(code), voice.sample_rate, now)
            num_text, num_codes = len(course.text), len(course.codes)
        yield from _text_event(detokenizer.flush(), now)
        if voice is not None:
            yield from _audio_event(voice.finish(), voice.sample_rate, now)
        text = thought.reply + self._encoder.tokenizer.decode(course.text[course.num_think :])
        yield EndEvent(now(), text, tuple(course.codes), course.finished)

    def _voice(self, generator: torch.Generator) -> Voice | None:
        """A voice for a spoken answer; its seed is the request's, and not a number drawn: ids are the same with and without sound."""
        if self._synthesizer is None or self._plan.schedule.speech == 0:
            return None
        return Voice(self._synthesizer, self._hops, generator.initial_seed())


def _nothing() -> Generator[Event, None, None]:
    yield from ()


def _text_event(text: str, now: Callable[[], float]) -> Iterator[TextEvent]:
    if text:
        yield TextEvent(now(), text)


def _audio_event(samples_S: np.ndarray, sample_rate: int, now: Callable[[], float]) -> Iterator[AudioEvent]:
    if len(samples_S):
        yield AudioEvent(now(), samples_S, sample_rate)
