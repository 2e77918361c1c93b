"""When an answer is written and when it is spoken: the schedule as data, and the course of one answer along it.

A schedule is two block lengths. Blocks of text and of speech alternate until the text is over; the rest is speech. The marks around speech
are not chosen but set: the opening boundary before the first code, the end mark of a sort that reached its longest length. So the ids of an
answer always stand as in a training sequence (tasks/speak.py), whatever the model says.

Speech that ends while text is left: the speech head says the boundary, which is then not written; the remaining text follows and the
boundary comes last, as in training (tasks/interleave.py). Leaves out: heads, sampling, batching (decoder.py).
"""

from dataclasses import dataclass, field
from enum import Enum

from osum_echat.config import InterleaveConfig
from osum_echat.generate.rules import LogitRule, StopRule
from osum_echat.generate.sampling import Sampler
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
class Plan:
    """Everything that decides an answer besides the model and the seed."""

    schedule: Schedule
    vocab: JointVocab
    text: Phase
    speech: Phase

    @property
    def max_new(self) -> int:
        """Most ids of an answer, marks included."""
        text = 0 if self.schedule.text == 0 else max(self.text.stop.max_new, 0) + 1
        return text + (0 if self.schedule.speech == 0 else max(self.speech.stop.max_new, 0) + 2)

    @property
    def is_greedy(self) -> bool:
        """True when no random number is drawn."""
        return self.text.sampler.is_greedy and self.speech.sampler.is_greedy


@dataclass
class Course:
    """One answer on its way. `layout` holds all its joint ids in order, `text` and `codes` the same without marks, each sort by itself.

    `accept` is given what the head of `sort` chose; when `forced` is not None, `accept_mark` comes instead. `finished` becomes False when
    an answer was cut off at its longest length or by `close`.
    """

    plan: Plan
    text: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    layout: list[int] = field(default_factory=list)
    finished: bool = True
    done: bool = False

    def __post_init__(self) -> None:
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
            return self.plan.text.stop.end_id if self.plan.text.stop.is_full(len(self.text)) else None
        is_due = not self._speech_begun or self._speech_over or self.plan.speech.stop.is_full(len(self.codes))
        return self.plan.vocab.boundary if is_due else None

    def accept(self, token: int) -> bool:
        """Go on with what the head chose; False when nothing was written and the other head is to be asked at the same position."""
        if self.sort is Sort.TEXT:
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
        if self.sort is Sort.TEXT:
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
        if not self._text_over:
            self._end_text()
        if self._speech_begun and not self.done:
            self._end_speech()
        self.done = True

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
        if self.done:
            return
        is_full = self._speech_begun and self.plan.speech.stop.is_full(len(self.codes))
        if self.sort is Sort.SPEECH and is_full and not self._text_over:
            self.finished = False
            self._give_way()
        ends_answer = self.plan.schedule.speech == 0 if self.sort is Sort.TEXT else self._speech_begun
        if ends_answer and self.forced is not None:
            self.accept_mark()
