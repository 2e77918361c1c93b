"""The test rows of EChat-eval (arXiv:2508.09600): what was said and how, which task it tests, what a fitting reply has in it.

A row of a raw list says so in ``extra.echat``: ``{"task": "emotion", "expect": [["sorry", "sad to hear"]], "forbid": ["great"]}``.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from osum_echat.errors import DataError
from osum_echat.evaluate.decoded import Decoded
from osum_echat.text.tags import age_from_years, canonical, is_missing
from osum_echat.text.think import words_said
from osum_echat.utterance import Utterance

TASKS = ("emotion", "age", "gender", "event", "multi")
VARIANTS = {
    "no_understanding": "without understanding: no label learned before",
    "no_think": "without dual think",
    "neither": "without both",
    "direct": "answers at once, taught by the full system",
    "language": "thinks in paragraphs",
    "all_labels": "every dialogue tells all labels",
    "one_label": "one dialogue in ten tells all labels, the others one",
}
"""Systems beside the full one: the endings of their scores, and what they are."""
LABELS = ("age", "gender", "emotion", "event")
_KEYS = ("task", "expect", "forbid")


@dataclass(frozen=True)
class EchatItem:
    """One test row. `labels` are the inventory's words, but the emotion the row's; `expect` and `forbid` serve the rule judge only."""

    key: str
    task: str
    question: str
    labels: Mapping[str, str]
    speaker: str | None = None
    expect: tuple[tuple[str, ...], ...] = ()
    forbid: tuple[str, ...] = ()


def read_items(rows: Sequence[Utterance], tasks: Collection[str] = TASKS) -> list[EchatItem]:
    """The rows of these tasks; a row that is no test row, or lacks the label its task is about, is a DataError."""
    unknown = [task for task in tasks if task not in TASKS]
    if unknown:
        raise DataError(f"unknown task {unknown[0]!r} of EChat-eval; expected some of {', '.join(TASKS)}", "unknown_task")
    items = [item for item in map(_item, rows) if item.task in tasks]
    if not items:
        raise DataError(f"none of {len(rows)} rows tests {', '.join(tasks)}", "empty_list")
    twice = [key for key, count in Counter(item.key for item in items).items() if count > 1]
    if twice:
        raise DataError(f"the key {twice[0]} stands twice in the test list; every row needs a name of its own", "bad_echat")
    return items


def _item(row: Utterance) -> EchatItem:
    where = f"{row.origin or 'row'}: key {row.key}"
    record = row.extra.get("echat")
    if not isinstance(record, Mapping) or record.get("task") not in TASKS or not set(record) <= set(_KEYS):
        example = '{"task": "emotion", "expect": [["sorry"]]}'
        raise DataError(f"{where}: expected extra.echat such as {example} with a task of {', '.join(TASKS)}; got {record!r}", "bad_echat")
    task = record["task"]
    labels = {name: value for name in LABELS if (value := _label(row, name, where)) is not None}
    if not row.question:
        raise DataError(f"{where}: the field 'question' (what the user said) is missing", "bad_echat")
    if task != "multi" and task not in labels:
        raise DataError(f"{where}: a row of the task {task} needs the label {task!r}", "bad_echat")
    if task == "multi" and not labels:
        raise DataError(f"{where}: a row of the task multi needs labels ({', '.join(LABELS)})", "bad_echat")
    expect = tuple(_words(group, where) for group in _list(record.get("expect", []), where))
    return EchatItem(row.key, task, row.question, labels, row.speaker, expect, _words(record.get("forbid", []), where, may_be_empty=True))


def _label(row: Utterance, name: str, where: str) -> str | None:
    """The inventory's word; of an emotion the row's own, because the prompts take any shade (curious, worried)."""
    value = getattr(row, name)
    if name == "age" and row.age_years is not None:
        return age_from_years(row.age_years)
    if is_missing(name, value):
        return None
    try:
        return value if name == "emotion" else canonical(name, value)
    except DataError as error:
        raise DataError(f"{where}: {error}", error.reason) from error


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{where}: extra.echat.expect must be a list of lists of words, got {value!r}", "bad_echat")
    return value


def _words(value: Any, where: str, may_be_empty: bool = False) -> tuple[str, ...]:
    if not isinstance(value, list) or not (value or may_be_empty) or not all(isinstance(word, str) and word.strip() for word in value):
        raise DataError(f"{where}: extra.echat: expected a list of words or phrases, got {value!r}", "bad_echat")
    return tuple(value)


def replies_of(decoded: Decoded) -> dict[str, str]:
    """Reply by key out of a decode directory; "" where there is none."""
    return {key: words_said(text) for key, text in decoded.raw.items()}
