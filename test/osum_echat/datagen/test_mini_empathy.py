"""Empathetic dialogues: the words tell no label, the reply follows from what counts, rows tell what they should, splits are apart."""

from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile

from osum_echat.config import SourceConfig
from osum_echat.data.doctor import ListSpec, check_lists
from osum_echat.datagen.empathy import TASKS, labels_that_count, remarks, reply_to, values
from osum_echat.datagen.events import EVENTS, NO_EVENT
from osum_echat.datagen.facts import questions
from osum_echat.datagen.grammar import SPLITS, all_sentences
from osum_echat.datagen.mini_corpus import MiniSettings
from osum_echat.datagen.mini_empathy import make_dialogues, make_fitting_replies, telling
from osum_echat.datagen.mini_lists import make_mini_corpus
from osum_echat.datagen.prosody import EMOTIONS
from osum_echat.datagen.speakers import AGES, GENDERS
from osum_echat.errors import DataError
from osum_echat.evaluate.judge import judge_by_rules
from osum_echat.evaluate.judge_items import read_items
from osum_echat.text.tags import parse_labels
from osum_echat.text.think import LABELS, words_said
from osum_echat.utterance import Utterance

pytest.importorskip("espeakng_loader")
SETTINGS = MiniSettings(seed=3)
ALL = [dict(zip(LABELS, combination, strict=True)) for combination in product(AGES, GENDERS, (*EVENTS, NO_EVENT), tuple(EMOTIONS))]


def possible(task: str) -> list[dict[str, str]]:
    return [labels for labels in ALL if task != "event" or labels["event"] != NO_EVENT]


def test_no_remark_occurs_in_two_splits_or_elsewhere_in_the_corpus() -> None:
    elsewhere = {sentence.text for _, sentence in all_sentences()} | {question.text for split in SPLITS for question in questions(split)}
    said = [remark.text for task in TASKS for split in SPLITS for remark in remarks(task, split)]
    assert len(said) == len(set(said)) and not set(said) & elsewhere
    for task in TASKS:
        sizes = [len(remarks(task, split)) for split in SPLITS]
        assert sizes[0] == 4 * sizes[1] == 4 * sizes[2] > 0
        assert {remark.entity for remark in remarks(task, "test")} == {remark.entity for remark in remarks(task, "train")}
    with pytest.raises(DataError, match="got task 'mood'"):
        remarks("mood", "train")


@pytest.mark.parametrize("task", TASKS)
def test_the_reply_changes_with_what_counts_and_with_nothing_else(task: str) -> None:
    remark = remarks(task, "train")[0]
    by_labels: dict[tuple[str, ...], set[str]] = {}
    for labels in possible(task):
        by_labels.setdefault(tuple(labels[name] for name in labels_that_count(task)), set()).add(reply_to(remark, labels).text)
    assert all(len(texts) == 1 for texts in by_labels.values())
    assert len(set.union(*by_labels.values())) == len(by_labels)
    if task != "multi":
        assert len(by_labels) == len(values(task))


@pytest.mark.parametrize("task", TASKS)
def test_the_rule_judge_takes_the_right_reply_and_no_other(task: str) -> None:
    remark = remarks(task, "test")[0]
    replies = {reply_to(remark, labels).text for labels in possible(task)}
    for labels in possible(task)[:: 7 if task == "multi" else 1]:
        right = reply_to(remark, labels)
        record = {"echat": {"task": task, "expect": [list(group) for group in right.expect]}}
        row = Utterance("k", question=remark.text, extra=record, **labels)  # type: ignore[arg-type]
        (item,) = read_items([row])

        def points(reply: str, item=item) -> float:  # type: ignore[no-untyped-def]
            return judge_by_rules([item], {"k": reply}).tasks[task].points.value

        assert points(right.text) == 100
        if task != "event":  # there the keyword of the event alone counts
            wrong = [reply for reply in replies if reply != right.text]
            missed = sum(points(reply) for reply in wrong) / 100
            extra = 5 if task == "multi" and labels["event"] == NO_EVENT else 0  # that a sound is named which was not there is not seen
            assert missed == extra


@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_balanced_and_told_as_in_the_paper(split: str) -> None:
    dialogues = make_dialogues(SETTINGS, split)
    assert len(dialogues) == SETTINGS.count(f"{split}_empathy")
    assert len(make_dialogues(replace(SETTINGS, test_empathy=16), "test")) == 16  # shares that are no whole numbers
    for task in TASKS:
        rows = [dialogue for dialogue in dialogues if dialogue.remark.task == task]
        for name in labels_that_count(task):
            counts = Counter(dialogue.labels[name] for dialogue in rows)
            assert max(counts.values()) - min(counts.values()) <= max(3, 0.1 * len(rows))
        full = sum(dialogue.told == LABELS for dialogue in rows) / len(rows)
        assert full == 1 if split != "train" or task == "multi" else 0.1 < full < 0.2
        assert all(set(labels_that_count(task)) <= set(dialogue.told) for dialogue in rows)
    assert {dialogue.labels["event"] for dialogue in dialogues if dialogue.remark.task in ("emotion", "age", "gender")} == {NO_EVENT}


def test_a_reply_is_rendered_once_in_a_voice_that_suits() -> None:
    dialogues = make_dialogues(SETTINGS, "train")
    plans = make_fitting_replies(dialogues)
    assert len(plans) == len({plan.key for plan in plans.values()}) < 400
    sad = [plan for reply, plan in plans.items() if "sorry" in reply.text]
    assert sad and {plan.emotion for plan in sad} == {"sad"}
    assert {reply.emotion for reply in plans if "calm" in reply.text} == {"neutral"}  # anger is not answered in anger


def test_the_same_dialogues_tell_more_or_less() -> None:
    dialogues = make_dialogues(SETTINGS, "train")
    everything, little = telling(dialogues, 1), telling(dialogues, 10)
    for number, (told, one, dialogue) in enumerate(zip(everything, little, dialogues, strict=True)):
        assert (told.plan, told.reply) == (one.plan, one.reply) == (dialogue.plan, dialogue.reply)
        assert told.told == LABELS and len(one.told) == (len(LABELS) if number % 10 == 0 else 1)
        assert set(one.told) <= set(labels_that_count(dialogue.remark.task)) or number % 10 == 0
        if dialogue.before is not None:
            assert told.before and one.before and len(one.before.told) == len(one.told)
    assert {one.told for one in little if one.remark.task == "multi" and len(one.told) == 1} == {(name,) for name in LABELS}


def test_lists_hold_what_the_tasks_need(tmp_path: Path) -> None:
    sizes = dict.fromkeys(("train", "dev", "test", "train_tts", "dev_tts", "test_tts", "train_s2s", "dev_s2s", "test_s2s"), 2)
    settings = MiniSettings(**sizes, train_empathy=20, dev_empathy=5, test_empathy=8, seed=3)
    card = make_mini_corpus(tmp_path / "c", settings, num_processes=2)
    assert card["test_empathy"]["tasks"] == {"emotion": 2, "age": 1, "gender": 1, "event": 2, "multi": 2}
    for split in SPLITS:
        path = tmp_path / "c" / f"{split}_empathy.list"
        rows = [Utterance.from_json(line, f"{path}:{at}") for at, line in enumerate(path.read_text().splitlines(), 1)]
        dialogues = make_dialogues(settings, split)
        for row, dialogue in zip(rows, dialogues, strict=True):
            assert (row.task, row.question, row.speaker) == ("s2s_think", dialogue.remark.text, dialogue.plan.speaker.name)
            told = {name: getattr(row, name) for name in LABELS if getattr(row, name) is not None}
            assert told == {name: dialogue.labels[name] for name in dialogue.told}
            assert (
                row.txt is not None
                and words_said(row.txt) == dialogue.reply.text
                and row.txt.startswith(f"<{dialogue.reply.emotion.upper()}>")
            )
            assert row.think is not None and row.question is not None and row.question in row.think
            assert all(value in row.think for name, value in told.items() if name != "event")
            assert soundfile.info(row.wav).samplerate == 16000 and soundfile.info(row.answer_wav).samplerate == 24000
            assert np.isfinite(soundfile.read(row.wav)[0]).all()
    path = tmp_path / "c" / "train_empathy_text.list"
    written = [Utterance.from_json(line, f"{path}:{at}") for at, line in enumerate(path.read_text().splitlines(), 1)]
    by_text = {remark.text: remark for task in TASKS for remark in remarks(task, "train")}
    assert {parse_labels(row.question or "")[0] for row in written} == set(by_text)
    for row in written:
        words, labels = parse_labels(row.question or "")
        reply = reply_to(by_text[words], labels)
        assert (row.task, row.wav, parse_labels(row.txt or "")) == ("t2t", None, (reply.text, {"emotion": reply.emotion}))
    names = [f"{split}_empathy" for split in SPLITS]
    specs = [ListSpec(split, SourceConfig(kind="raw", list=f"{tmp_path}/c/{name}.list")) for split, name in zip(SPLITS, names, strict=True)]
    diagnosis = check_lists(specs)
    assert (diagnosis.verdict, {finding.kind for finding in diagnosis.findings}) == ("ok", {"no_speech_token"})


def test_one_training_row_in_six_is_a_second_turn_of_its_speaker() -> None:
    dialogues = make_dialogues(SETTINGS, "train")
    place = {dialogue.plan.key: at for at, dialogue in enumerate(dialogues)}
    second = [dialogue for dialogue in dialogues if dialogue.before is not None]
    assert len(dialogues) / 8 < len(second) <= len(dialogues) / 6 + 1
    for dialogue in second:
        assert dialogue.before is not None and dialogue.before.plan.speaker == dialogue.plan.speaker
        assert place[dialogue.before.plan.key] < place[dialogue.plan.key]
    assert all(dialogue.before is None for split in ("dev", "test") for dialogue in make_dialogues(SETTINGS, split))
