"""The course of an answer follows its schedule, and decoding with labels as the model's wish gives the training layout back."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from osum_echat.config import InterleaveConfig
from osum_echat.generate.decoder import decode
from osum_echat.generate.rules import StopRule
from osum_echat.generate.schedule import Course, Phase, Plan, Schedule, Sort, make_schedule, make_thinking
from osum_echat.tasks.interleave import interleave
from osum_echat.tasks.speak import REPLIES
from osum_echat.tasks.task import TASKS
from osum_echat.text.vocab import JointVocab

VOCAB = JointVocab(300, 64)
EOS, BOUNDARY = 299, VOCAB.boundary


def make_plan(form: str, max_text: int = 1000, max_speech: int = 1000, ratio: InterleaveConfig | None = None) -> Plan:
    stops = StopRule(EOS, max_text), StopRule(VOCAB.id_to_code(BOUNDARY), max_speech)
    return Plan(make_schedule(form, ratio or InterleaveConfig()), VOCAB, Phase(stops[0]), Phase(stops[1]))


def training_layout(form: str, text: list[int], codes: list[int], ratio: tuple[int, int] = (6, 18)) -> list[int]:
    """The answer as the tasks write it, from DESIGN §4 and not from the code under test."""
    text_ids, speech_ids = [*text, EOS], [BOUNDARY, *(VOCAB.code_to_id(code) for code in codes), BOUNDARY]
    whole = {"text": text_ids, "speech": speech_ids, "text_speech": text_ids + speech_ids}
    return whole[form] if form in whole else interleave(text_ids, speech_ids, *ratio)


class Reciter:
    """A model whose one wish is to go on with given layouts, and which notes what it is asked and fed.

    A hidden state is (row, number of ids fed). A head that cannot say what comes next wishes to end: speech then has run out.
    """

    def __init__(self, layouts: list[list[int]], plan: Plan) -> None:
        self.layouts = layouts
        self.llm = SimpleNamespace(step=self.step)
        self.asked: list[tuple[str, int]] = []
        self.courses = [Course(plan) for _ in layouts]

    def embed_ids(self, ids_B: Tensor) -> Tensor:
        return ids_B

    def step(self, ids_B: Tensor, state: "Fed") -> Tensor:
        for row, token in zip(state.rows, ids_B.tolist(), strict=True):
            at = state.fed[row]
            if not self.courses[row].done:  # one that is done is fed whatever stands last, until it leaves
                assert token == self.layouts[row][at], f"row {row} was fed {token} at {at}"
            state.fed[row] += 1
        return state.hidden()

    def speech_logits(self, hidden_BD: Tensor) -> Tensor:
        return self._wish("speech", hidden_BD, VOCAB.text_size, VOCAB.num_output, VOCAB.id_to_code(BOUNDARY))

    def text_logits(self, hidden_BD: Tensor) -> Tensor:
        return self._wish("text", hidden_BD, 0, VOCAB.text_size, EOS)

    def _wish(self, head: str, hidden_BD: Tensor, low: int, high: int, end: int) -> Tensor:
        logits_BV = torch.zeros(len(hidden_BD), high - low)
        for at, (row, position) in enumerate(hidden_BD.long().tolist()):
            self.asked.append((head, row))
            label = self.layouts[row][position]
            logits_BV[at, label - low if low <= label < high else end] = 1.0
        return logits_BV


class Fed:
    """Stands for the key/value state: how many answer ids each row has been given."""

    def __init__(self, rows: list[int], fed: dict[int, int]) -> None:
        self.rows, self.fed = rows, fed

    def select(self, kept: list[int]) -> "Fed":
        return Fed([self.rows[at] for at in kept], self.fed)

    def hidden(self) -> Tensor:
        return torch.tensor([[row, self.fed[row]] for row in self.rows], dtype=torch.float64)


def recite(plan: Plan, layouts: list[list[int]]) -> tuple[list[Course], Reciter]:
    model, state = Reciter(layouts, plan), Fed(list(range(len(layouts))), dict.fromkeys(range(len(layouts)), 0))
    for _ in decode(model, state.hidden(), state, model.courses, []):  # type: ignore[arg-type]
        pass
    return model.courses, model


def draw(rng: random.Random) -> tuple[list[int], list[int]]:
    num_text, num_codes = rng.choice([0, 1, 5, 6, 7, rng.randint(0, 60)]), rng.choice([0, 1, 16, 17, 18, 19, rng.randint(0, 200)])
    return [rng.randrange(EOS) for _ in range(num_text)], [rng.randrange(64) for _ in range(num_codes)]


@pytest.mark.parametrize("form", REPLIES)
def test_forced_decoding_gives_the_training_layout_back(form: str) -> None:
    """Also in a batch, where rows are in different phases and leave at different times; every id that is fed is checked by the model."""
    rng = random.Random(form)
    contents = [draw(rng) for _ in range(60)]
    layouts = [training_layout(form, *content) for content in contents]
    courses, _ = recite(make_plan(form), layouts)
    for course, layout, (text, codes) in zip(courses, layouts, contents, strict=True):
        assert course.layout == layout and course.done and course.finished
        assert course.text == ([] if form == "speech" else text)
        assert course.codes == ([] if form == "text" else codes)
        alone, _ = recite(make_plan(form), [layout])
        assert alone[0].layout == layout


@pytest.mark.parametrize(("num_text", "num_codes"), [(6, 58), (6, 3), (19, 3), (12, 16), (12, 17), (12, 18), (0, 0), (0, 40), (30, 0)])
def test_short_speech_and_edges_of_blocks(num_text: int, num_codes: int) -> None:
    layout = training_layout("interleaved", list(range(num_text)), [code % 64 for code in range(num_codes)])
    (course,), _ = recite(make_plan("interleaved"), [layout])
    assert course.layout == layout and course.finished


def test_another_ratio() -> None:
    layout = training_layout("interleaved", list(range(9)), list(range(30)), (2, 5))
    (course,), _ = recite(make_plan("interleaved", ratio=InterleaveConfig(text=2, speech=5)), [layout])
    assert course.layout == layout


@pytest.mark.parametrize("form", REPLIES)
def test_each_head_is_asked_in_its_phase_only(form: str) -> None:
    text, codes = list(range(20)), [code % 64 for code in range(100)]
    layout = training_layout(form, text, codes)
    _, model = recite(make_plan(form), [layout])
    # Boundaries that must come are set, not asked for, except the last one, whose time the model chooses.
    chosen = [token for at, token in enumerate(layout) if token != BOUNDARY or at == len(layout) - 1]
    expected = [("text" if VOCAB.is_text(token) else "speech", 0) for token in chosen]
    assert model.asked == expected


def test_every_row_of_the_table_has_a_schedule() -> None:
    assert {task.schedule for task in TASKS.values()} == set(REPLIES)
    for task in TASKS.values():
        schedule = make_schedule(task.schedule, InterleaveConfig())
        assert (schedule.speech == 0) == (task.max_speech == 0)
    assert make_schedule("interleaved", InterleaveConfig()) == Schedule(6, 18)


@pytest.mark.parametrize(
    ("form", "max_text", "max_speech", "text", "codes"),
    [
        ("text", 4, 0, 4, 0),
        ("text", 0, 0, 0, 0),
        ("speech", 0, 7, 0, 7),
        ("text_speech", 4, 7, 4, 7),
        ("text_speech", 4, 0, 4, 0),
        ("interleaved", 13, 7, 13, 7),
        ("interleaved", 13, 17, 13, 17),
        ("interleaved", 4, 300, 4, 100),  # the speech of a text that was cut off ends where the model ends it
        ("interleaved", 13, 60, 13, 60),
        ("interleaved", 0, 0, 0, 0),
    ],
)
def test_longest_lengths_cut_and_the_layout_stays_whole(form: str, max_text: int, max_speech: int, text: int, codes: int) -> None:
    plan = make_plan(form, max_text, max_speech)
    course, written = Course(plan), 0
    while not course.done:
        if course.forced is not None:
            course.accept_mark()
        else:
            over = course.sort is Sort.SPEECH and len(course.codes) == 100
            course.accept(VOCAB.id_to_code(BOUNDARY) if over else 1)
        written += 1
    assert not course.finished and len(course.text) == text and len(course.codes) == codes
    assert course.layout == training_layout(form, [1] * text, [1] * codes) and written <= len(course.layout) <= plan.max_new


@pytest.mark.parametrize("steps", range(0, 60))
def test_an_interrupted_answer_is_a_whole_shorter_one(steps: int) -> None:
    layout = training_layout("interleaved", list(range(10)), list(range(40)))
    model, state = Reciter([layout], make_plan("interleaved")), Fed([0], {0: 0})
    (course,) = model.courses
    for _, _ in zip(range(steps), decode(model, state.hidden(), state, [course], []), strict=False):  # type: ignore[arg-type]
        pass
    already = course.done
    course.close()
    text, codes = course.text, course.codes
    assert course.done and course.finished is already
    whole = training_layout("interleaved", text, codes)
    begun = BOUNDARY in course.layout
    assert course.layout == (whole if begun else [*text, EOS])
    assert course.layout[:steps][: len(layout)] == layout[: min(steps, len(course.layout))] or already


def test_speech_that_is_over_does_not_come_back() -> None:
    course = Course(make_plan("interleaved"))
    for _ in range(6):
        course.accept(1)
    course.accept_mark()
    course.accept(2)
    before = list(course.layout)
    assert course.accept(VOCAB.id_to_code(BOUNDARY)) is False and course.layout == before and course.sort is Sort.TEXT
    for _ in range(40):
        assert course.accept(1) and course.sort is Sort.TEXT
    assert course.accept(EOS) and course.done and course.finished
    assert course.layout == training_layout("interleaved", [1] * 46, [2])


class Letters:
    """A tokenizer of one letter an id: so the end mark is eleven ids."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


LETTERS = Letters()
BEGIN_IDS, END_IDS = LETTERS.encode("<think>"), LETTERS.encode("<think end>")


def think_plan(form: str, max_think: int = 100, max_text: int = 1000) -> Plan:
    return replace(make_plan(form, max_text), thinking=make_thinking(LETTERS, max_think))  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["text", "text_speech", "interleaved"])
@pytest.mark.parametrize("block", ["", "i am home", r"a <\think end> b", "<think"])
def test_a_block_comes_first_and_turns_are_counted_behind_it(form: str, block: str) -> None:
    text, codes = list(range(20)), [code % 64 for code in range(100)]
    thought = [*BEGIN_IDS, *LETTERS.encode(block), *END_IDS]
    layout = [*thought, *training_layout(form, text, codes)]
    (course,), model = recite(think_plan(form), [layout])
    assert course.layout == layout and course.finished and not course.think_cut
    assert course.num_think == len(thought) and course.text == [*thought, *text]
    assert course.codes == ([] if form == "text" else codes)
    asked = [sort for sort, _ in model.asked]
    assert asked[: len(block) + len(END_IDS)] == ["text"] * (len(block) + len(END_IDS))  # the begin is set, not asked for


@pytest.mark.parametrize("max_think", [0, 1, 5])
def test_an_endless_block_is_closed_and_the_reply_follows(max_think: int) -> None:
    text, codes = [7, 8, 9], [1, 2, 3]
    closed = [*BEGIN_IDS, *LETTERS.encode("x" * max_think), *END_IDS, *training_layout("interleaved", text, codes)]
    plan = think_plan("interleaved", max_think, max_text=3)
    (course,), _ = recite(plan, [closed])
    assert course.layout == closed and course.think_cut and course.text[course.num_think :] == text
    assert len(course.layout) <= plan.max_new


def test_eos_within_a_block_ends_the_block_and_not_the_answer() -> None:
    course = Course(think_plan("text"))
    for _ in BEGIN_IDS:
        assert course.forced is not None
        course.accept_mark()
    assert course.forced is None and course.accept(ord("a")) and course.accept(EOS)
    for token in END_IDS[1:]:
        assert course.forced == token and course.thinks
        course.accept_mark()
    assert course.layout == [*BEGIN_IDS, ord("a"), *END_IDS] and not course.thinks and not course.done and not course.think_cut
    assert course.accept(EOS) and course.done and course.finished


@pytest.mark.parametrize("num_ids", [0, 3, 7, 9, 12])
def test_an_answer_broken_off_while_it_thinks_is_whole(num_ids: int) -> None:
    course = Course(think_plan("text_speech"))
    for _ in range(num_ids):
        if course.forced is None:
            course.accept(ord("a"))
        else:
            course.accept_mark()
    course.close()
    said = "a" * max(0, num_ids - len(BEGIN_IDS))
    assert course.layout == [*BEGIN_IDS, *LETTERS.encode(said), *END_IDS, EOS] and course.done and not course.finished
