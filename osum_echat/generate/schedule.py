"""When an answer is written and when it is spoken: the schedule as data, and the course of one answer along it.

A schedule is two block lengths. Blocks of text and of speech alternate until the text is over; the rest is speech. The marks around speech
are not chosen but set: the opening boundary before the first code, the end mark of a sort that reached its longest length. So the ids of an
answer always stand as in a training sequence (tasks/speak.py), whatever the model says.

Speech that ends while text is left: the speech head says the boundary, which is then not written; the remaining text follows and the
boundary comes last, as in training (tasks/interleave.py). A think block (tasks/think.py) comes before everything: its begin is set, its end
is looked for in the decoded text, and blocks of text and speech are counted behind it. A block that gets too long, or that the model wants
to leave with eos, is closed with the end mark. Leaves out: heads, sampling, batching (decoder.py).
"""

from dataclasses import dataclass, field
from enum import Enum

from osum_echat.config import InterleaveConfig
from osum_echat.generate.rules import LogitRule, StopRule
from osum_echat.generate.sampling import Sampler
from osum_echat.text import think
from osum_echat.text.tokenizer import Tokenizer
from osum_echat.text.vocab import JointVocab


class Sort(Enum):
    """The two sorts of ids, each with a head of its own."""

    TEXT = "text"
    SPEECH = "speech"


@dataclass(frozen=True)
class Schedule:
    """Ids in a block of text and of speech: 0 for an answer without any, None for one block to the end of that sort."""

    text: int | None
    speech: int | None


def make_schedule(form: str, ratio: InterleaveConfig) -> Schedule:
    """The schedule of a task's form (`Task.schedule`)."""
    schedules = {
        "text": Schedule(None, 0),
        "speech": Schedule(0, None),
        "text_speech": Schedule(None, None),
        "interleaved": Schedule(ratio.text, ratio.speech),
    }
    return schedules[form]


@dataclass(frozen=True)
class Phase:
    """How ids of one sort are chosen, and when they end; ids are numbered as in the head of that sort."""

    stop: StopRule
    sampler: Sampler = Sampler()  # noqa: RUF009  frozen
    rules: tuple[LogitRule, ...] = ()


@dataclass(frozen=True)
class Thinking:
    """How an answer thinks first: the ids of the two marks, and how many ids may stand between them."""

    tokenizer: Tokenizer
    begin: tuple[int, ...]
    end: tuple[int, ...]
    max_new: int


def make_thinking(tokenizer: Tokenizer, max_new: int) -> Thinking:
    """With the marks as training writes them (tasks/think.py)."""
    return Thinking(tokenizer, tuple(tokenizer.encode(think.BEGIN)), tuple(tokenizer.encode(think.END)), max_new)


@dataclass(frozen=True)
class Plan:
    """Everything that decides an answer besides the model and the seed."""

    schedule: Schedule
    vocab: JointVocab
    text: Phase
    speech: Phase
    thinking: Thinking | None = None

    @property
    def max_new(self) -> int:
        """Most ids of an answer, marks included."""
        text = 0 if self.schedule.text == 0 else max(self.text.stop.max_new, 0) + 1
        if self.thinking is not None:
            text += len(self.thinking.begin) + self.thinking.max_new + len(self.thinking.end)
        return text + (0 if self.schedule.speech == 0 else max(self.speech.stop.max_new, 0) + 2)

    @property
    def is_greedy(self) -> bool:
        """True when no random number is drawn."""
        return self.text.sampler.is_greedy and self.speech.sampler.is_greedy


@dataclass
class Course:
    """One answer on its way. `layout` holds all its joint ids in order, `text` and `codes` the same without marks, each sort by itself.

    The first `num_think` ids of `text` are the think block with its marks; `thinks` is True until it is over, `think_cut` when it was too
    long. `accept` is given what the head of `sort` chose; when `forced` is not None, `accept_mark` comes instead. `finished` becomes False
    when an answer was cut off at its longest length or by `close`.
    """

    plan: Plan
    text: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    layout: list[int] = field(default_factory=list)
    finished: bool = True
    done: bool = False
    num_think: int = 0
    thinks: bool = False
    think_cut: bool = False

    def __post_init__(self) -> None:
        thinking = self.plan.thinking
        self._due: list[int] = []  # text ids of a mark of the block that are still to be written
        if thinking is not None:
            self.thinks, self._due, self._watch = True, list(thinking.begin), think.EndWatch(thinking.tokenizer)
        schedule = self.plan.schedule
        self.sort = Sort.SPEECH if schedule.text == 0 else Sort.TEXT
        self._text_over = schedule.text == 0
        self._speech_over = False
        self._speech_begun = False
        self._left = schedule.speech if self._text_over else schedule.text  # of this block
        self._settle()

    @property
    def history(self) -> list[int]:
        """What was chosen so far, of the sort whose turn it is."""
        return self.text if self.sort is Sort.TEXT else self.codes

    @property
    def forced(self) -> int | None:
        """The joint id of the mark that has to come now; None when the head is to be asked."""
        if self.sort is Sort.TEXT:
            if self.thinks:
                return self._due[0] if self._due else None
            return self.plan.text.stop.end_id if self.plan.text.stop.is_full(len(self.text) - self.num_think) else None
        is_due = not self._speech_begun or self._speech_over or self.plan.speech.stop.is_full(len(self.codes))
        return self.plan.vocab.boundary if is_due else None

    def accept(self, token: int) -> bool:
        """Go on with what the head chose; False when nothing was written and the other head is to be asked at the same position."""
        if self.thinks:
            self._think(token)
        elif self.sort is Sort.TEXT:
            if self.plan.text.stop.is_end(token):
                self._end_text()
            else:
                self.text.append(token)
                self.layout.append(token)
                self._count()
        elif not self.plan.speech.stop.is_end(token):
            self.codes.append(token)
            self.layout.append(self.plan.vocab.code_to_id(token))
            self._count()
        elif self._text_over:
            self._end_speech()
        else:
            self._give_way()
            return False
        self._settle()
        return True

    def accept_mark(self) -> None:
        """Write the mark that `forced` tells."""
        if self.thinks:
            self._note(self._due.pop(0))
        elif self.sort is Sort.TEXT:
            self.finished = False
            self._end_text()
        elif self._speech_begun:
            self.finished = self.finished and self._speech_over
            self._end_speech()
        else:
            self._speech_begun = True
            self.layout.append(self.plan.vocab.boundary)
            self._count()
        self._settle()

    def close(self) -> None:
        """Break off here, with the marks that make what there is a complete answer."""
        if self.done:
            return
        self.finished = False
        while self.thinks:
            self._due = self._due or list(self._thinking.end)
            self._note(self._due.pop(0))
        if not self._text_over:
            self._end_text()
        if self._speech_begun and not self.done:
            self._end_speech()
        self.done = True

    @property
    def _thinking(self) -> Thinking:
        assert self.plan.thinking is not None
        return self.plan.thinking

    def _think(self, token: int) -> None:
        """What the model chose within the block; eos is not written there, the end mark comes in its place."""
        if self.plan.text.stop.is_end(token):
            self._due = list(self._thinking.end)
            token = self._due.pop(0)
        self._note(token)

    def _note(self, token: int) -> None:
        """One more id of the block, which it may end."""
        self.text.append(token)
        self.layout.append(token)
        self.num_think += 1
        if self._watch.push(token):
            self.thinks, self._due = False, []
        elif not self._due and self.num_think - len(self._thinking.begin) >= self._thinking.max_new:
            self.think_cut, self._due = True, list(self._thinking.end)

    def _count(self) -> None:
        """One id of this block is used up; at its end the other sort has its turn, as long as both have something left."""
        self._left = None if self._left is None else self._left - 1
        if self._left != 0 or self._text_over or self._speech_over:
            return
        schedule = self.plan.schedule
        self.sort, self._left = (Sort.SPEECH, schedule.speech) if self.sort is Sort.TEXT else (Sort.TEXT, schedule.text)

    def _end_text(self) -> None:
        self.layout.append(self.plan.text.stop.end_id)
        self._text_over = True
        self.done = self.plan.schedule.speech == 0
        self.sort = Sort.SPEECH

    def _end_speech(self) -> None:
        self.layout.append(self.plan.vocab.boundary)
        self.done = True

    def _give_way(self) -> None:
        """No more speech, but text is left."""
        self._speech_over = True
        self.sort = Sort.TEXT

    def _settle(self) -> None:
        """What needs no further step of the model: a mark that ends the answer, speech at its longest length while text is left."""
        if self.done or self.thinks:
            return
        is_full = self._speech_begun and self.plan.speech.stop.is_full(len(self.codes))
        if self.sort is Sort.SPEECH and is_full and not self._text_over:
            self.finished = False
            self._give_way()
        ends_answer = self.plan.schedule.speech == 0 if self.sort is Sort.TEXT else self._speech_begun
        if ends_answer and self.forced is not None:
            self.accept_mark()
