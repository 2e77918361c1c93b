"""Dialogues of the mini corpus whose right reply depends on how something is said: by whom, in which emotion, with which sound.

Five tasks as in EChat-eval (arXiv:2508.09600, appendix A.2): emotion, age, gender, event, and multi, where all of them count. The words
tell the task and name an entity, the sound tells the rest; the table is empathy.yaml. Which split a sentence belongs to is fixed by its
place in the table as for facts (facts.py): four phrasings of each entity in train, another one in dev and another one in test. Left out:
replies that weigh one label against another.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from osum_echat.datagen.facts import split_of_phrasing
from osum_echat.datagen.grammar import SPLITS
from osum_echat.errors import DataError
from osum_echat.evaluate.judge_items import TASKS
from osum_echat.text.think import LABELS

_TABLE = Path(__file__).with_name("empathy.yaml")
_MARKED = re.compile(r"\*(\w+)\*")


@dataclass(frozen=True)
class Remark:
    """Something said to the assistant, before it is decided how."""

    text: str
    task: str
    entity: str


@dataclass(frozen=True)
class Reply:
    """What fits: the words, the emotion they are said in, and groups of words of which a rule judge wants one each."""

    text: str
    emotion: str
    expect: tuple[tuple[str, ...], ...]


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    return table


@cache
def remarks(task: str, split: str) -> tuple[Remark, ...]:
    """Every remark of a task and split: four per entity in train, one in dev, one in test."""
    if task not in TASKS or split not in SPLITS:
        raise DataError(f"got task {task!r}, split {split!r}; expected one of {', '.join(TASKS)} and of {', '.join(SPLITS)}", "bad_split")
    part = _table()[task]
    return tuple(
        Remark(phrasing.format(e=entity), task, entity)
        for number, entity in enumerate(part["entities"])
        for place, phrasing in enumerate(part["says"])
        if split_of_phrasing(number, place) == split
    )


def labels_that_count(task: str) -> tuple[str, ...]:
    """What the reply depends on."""
    return LABELS if task == "multi" else (task,)


def values(task: str) -> tuple[str, ...]:
    """The values of a single-label task that the table has a reply for."""
    return tuple(_table()[task]["replies"])


def reply_to(remark: Remark, labels: Mapping[str, str]) -> Reply:
    """The reply that fits ``labels`` (age, gender, event and emotion must be there as far as they count)."""
    table = _table()
    part = table[remark.task]
    if remark.task == "multi":
        parts = [part["address"][labels["gender"]][labels["age"]], part["emotion"][labels["emotion"]], part["event"][labels["event"]]]
        marked = " ".join(filter(None, parts))
        address = (_MARKED.sub(r"\1", parts[0]),)
        expect = (address, *((word,) for word in _MARKED.findall(marked)))
    else:
        marked = part["replies"][labels[remark.task]].format(e=remark.entity)
        expect = (*((word,) for word in _MARKED.findall(marked)), (remark.entity,))
    emotion = table["voices"][labels["emotion"]] if "emotion" in labels_that_count(remark.task) else "neutral"
    return Reply(_MARKED.sub(r"\1", marked), emotion, expect)
