"""What a task is, and the table of all of them.

A task is two functions that append typed pieces to a builder: `prompt` and `answer`. Training writes both, decoding only the first, so the
two cannot drift apart. Everything else a program must know of a task is data in its row. To add one: docs/adding_a_task.md.
"""

import difflib
import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial

from osum_echat.config import ConvertConfig
from osum_echat.errors import ConfigError, DataError
from osum_echat.tasks import chat, speak, understand
from osum_echat.tasks.sequence import Sequence, SequenceBuilder
from osum_echat.text import think
from osum_echat.text.tags import KINDS
from osum_echat.utterance import Utterance

Layout = Callable[[Utterance, SequenceBuilder], None]


@dataclass(frozen=True)
class Task:
    """One row: how a sequence is laid out, and what its answer holds.

    `transcript` and `labels` say what to score in the answer; `tags` is the name of the task in OSUM's lists (order is free);
    `schedule` is the form of the answer (a key of speak.REPLIES); when decoding, `max_new` bounds its text ids and `max_speech` its codes.
    `follow_up` lays out the next question of a live dialogue; a task without one starts anew every time. One that `thinks` notes
    `transcript` and `labels` in a block before the reply.
    """

    name: str
    family: str
    prompt: Layout
    answer: Layout
    tags: str
    transcript: bool = False
    labels: tuple[str, ...] = ()
    reads_audio: bool = True
    schedule: str = "text"
    max_new: int = 400
    max_speech: int = 0
    follow_up: Layout | None = None
    thinks: bool = False

    @property
    def writes(self) -> bool:
        """True when the answer has text."""
        return self.schedule != "speech"

    @property
    def speaks(self) -> bool:
        """True when the answer has speech."""
        return self.schedule != "text"

    @property
    def needs(self) -> tuple[str, ...]:
        """Labels a row must have; a think block does with placeholders."""
        return () if self.thinks else self.labels

    @property
    def reads_aloud(self) -> bool:
        """True when the speech is to say the row's own `txt`, and not words the model finds."""
        return self.speaks and self.follow_up is None


def _understand(name: str, tags: str, answer: Layout | None = None, transcript: bool = True, labels: str = "", max_new: int = 400) -> Task:
    """A row of the understanding family; `labels` are kinds separated by spaces, written in the fixed order of the kinds."""
    kinds = tuple(kind for kind in KINDS if kind in labels.split())
    family = "understand"
    return Task(
        name=name,
        family=family,
        prompt=partial(understand.prompt, family=family, instruction=name),
        answer=answer or partial(understand.answer, transcript=transcript, labels=kinds),
        tags=tags,
        transcript=transcript,
        labels=kinds,
        max_new=max_new,
    )


def _label_rows(name: str, tags: str, labels: str) -> tuple[Task, Task]:
    """The pair of rows that writes `labels` alone, and after the transcript."""
    alone = _understand(name, tags, transcript=False, labels=labels, max_new=64)
    return alone, _understand(f"asr_{name}", f"<TRANSCRIBE> {tags}", labels=labels)


def _speak(name: str, tags: str, family: str, schedule: str) -> Task:
    """A row that reads a text aloud."""
    layout = partial(speak.prompt, family=family), partial(speak.answer, schedule=schedule)
    return Task(name, family, *layout, tags, reads_audio=False, schedule=schedule, max_new=800, max_speech=2000)


def _chat(name: str, tags: str, family: str, schedule: str, hears: bool = True, thinks: bool = False) -> Task:
    """A row of conversation; `hears` tells spoken questions from written ones, `thinks` whether a block stands before the reply."""
    return Task(
        name=name,
        family=family,
        prompt=partial(chat.prompt, family=family, schedule=schedule, hears=hears, thinks=thinks),
        answer=partial(chat.answer, schedule=schedule, hears=hears, thinks=thinks),
        tags=tags,
        transcript=thinks,
        labels=think.LABELS if thinks else (),
        reads_audio=hears,
        schedule=schedule,
        max_new=800,
        max_speech=0 if schedule == "text" else 2000,
        follow_up=partial(chat.follow_up, hears=hears),
        thinks=thinks,
    )


_ROWS: tuple[Task, ...] = (
    _understand("asr", "<TRANSCRIBE>"),
    _understand("asr_punctuation", "<TRANSCRIBE> <PUNCTUATION>"),
    _understand("align", "<TRANSCRIBE> <ALIGN>", answer=understand.answer_align, max_new=1600),
    _understand("sttc", "<TRANSCRIBE> <S2TCHAT>", answer=understand.answer_sttc, max_new=800),
    *_label_rows("emotion", "<EMOTION>", "emotion"),
    *_label_rows("age", "<AGE>", "age"),
    *_label_rows("gender", "<GENDER>", "gender"),
    *_label_rows("event", "<CAPTION>", "event"),
    *_label_rows("style", "<STYLE>", "style"),
    *_label_rows("age_gender", "<AGE> <GENDER>", "age gender"),
    *_label_rows("age_gender_style", "<AGE> <GENDER> <STYLE>", "age gender style"),
    _understand("asr_age_gender_event", "<TRANSCRIBE> <CAPTION> <AGE> <GENDER>", labels="age gender event"),
    _understand("asr_age_gender_emotion", "<TRANSCRIBE> <EMOTION> <AGE> <GENDER>", labels="age gender emotion"),
    _understand("asr_age_gender_emotion_style", "<TRANSCRIBE> <AGE> <GENDER> <STYLE> <EMOTION>", labels="age gender emotion style"),
    _understand("asr_p_style", "<TRANSCRIBE> <CAPTION> <AGE> <GENDER> <EMOTION> <STYLE>", labels="age gender event emotion style"),
    _understand("asr_p", "<TRANSCRIBE> <AGE> <GENDER> <CAPTION> <EMOTION>", labels="age gender event emotion"),
    _understand("only_p", "<AGE> <GENDER> <CAPTION> <EMOTION>", transcript=False, labels="age gender event emotion", max_new=64),
    _chat("t2t", "<TEXT2TEXT>", "t2t", "text", hears=False),
    _chat("s2t", "<S2TCHAT>", "s2t", "text"),
    _chat("s2s", "<S2TCHAT> <TEXT2TOKEN>", "s2s", "text_speech"),
    _chat("s2s_interleaved", "<S2TCHAT> <TEXT2TOKEN> <STREAMING>", "s2s_stream", "interleaved"),
    _chat("s2t_think", "<S2TCHAT> <THINKER>", "s2t_think", "text", thinks=True),
    _chat("s2s_think", "<S2TCHAT> <TEXT2TOKEN> <THINK>", "s2s_think", "text_speech", thinks=True),
    _chat("s2s_interleaved_think", "<S2TCHAT> <TEXT2TOKEN> <STREAMING> <THINK>", "s2s_stream_think", "interleaved", thinks=True),
    _speak("tts", "<TEXT2TOKEN>", "tts", "speech"),
    _speak("tts_interleaved", "<TEXT2TOKEN> <STREAMING>", "tts_stream", "interleaved"),
)
TASKS: dict[str, Task] = {task.name: task for task in _ROWS}
THINKING = {name: f"{name}_think" for name in TASKS if f"{name}_think" in TASKS}
"""Conversation -> the same with a think block before the reply."""
WITHOUT_THINK = {thinking: plain for plain, thinking in THINKING.items()}
"""And back."""


def _tag_set(tags: str) -> frozenset[str]:
    return frozenset(re.findall(r"<\s*([^<>\s]+)\s*>", tags.upper()))


_ALIASES = {"<CAPTION> <AUDIO>": "event", "<SPEECH2TEXTANDTOKEN>": "s2s", "<S2TCHAT> <TEXT2TOKEN> <EMOTION>": "s2s"}  # OSUM's lists too
_BY_TAGS: dict[frozenset[str], Task] = {_tag_set(task.tags): task for task in _ROWS}
_BY_TAGS |= {_tag_set(tags): TASKS[name] for tags, name in _ALIASES.items()}


@lru_cache(maxsize=1024)
def get_task(name_or_osum_tags: str) -> Task:
    """The row of a name ("asr_p") or of OSUM's tags in any order ("<TRANSCRIBE> <EMOTION>"); an unknown one names its nearest."""
    name = name_or_osum_tags.strip()
    task = _BY_TAGS.get(_tag_set(name)) if "<" in name else TASKS.get(name)
    if task is not None:
        return task
    known = {task.tags: task for task in _ROWS} if "<" in name else TASKS
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise DataError(f"unknown task {name_or_osum_tags!r}; {hint}known tasks are {', '.join(TASKS)}", "unknown_task")


def encode(utt: Utterance, task: Task, builder: SequenceBuilder) -> Sequence:
    """The training sequence of an utterance (`waveform_S` already decoded): prompt and answer."""
    builder.clear()
    task.prompt(utt, builder)
    task.answer(utt, builder)
    return builder.build(utt.key, task.name)


def encode_prompt(utt: Utterance, task: Task, builder: SequenceBuilder) -> Sequence:
    """The sequence to decode from: the prompt alone, no label or text needed."""
    builder.clear()
    task.prompt(utt, builder)
    return builder.build(utt.key, task.name)


def draw_task(utt: Utterance, converts: Iterable[ConvertConfig], seed: int, epoch: int) -> str:
    """The task an utterance is used for this epoch: its own, or by chance one it is converted to.

    One number is drawn from (seed, epoch, key) alone, so workers, ranks and the order of the list cannot change it. Several conversions of
    one task share that number: their rates add up and may not exceed 1. What came out is not converted again.
    """
    name = get_task(utt.task).name
    share = int.from_bytes(hashlib.blake2b(f"{seed}:{epoch}:{utt.key}".encode(errors="replace"), digest_size=8).digest(), "big") / 2**64
    bound, drawn = 0.0, name
    for convert in converts:
        if _configured_task(convert.from_) != name:
            continue
        if bound <= share < bound + convert.rate:
            drawn = _configured_task(convert.to)
        bound += convert.rate
    if bound > 1 + 1e-9:
        raise ConfigError(f"data.convert: the rates from {name!r} add up to {bound:g}, more than 1")
    return drawn


def _configured_task(name: str) -> str:
    """An unknown task in the configuration ends the run; one in a row only drops the row."""
    try:
        return get_task(name).name
    except DataError as error:
        raise ConfigError(f"data.convert: {error}") from error
