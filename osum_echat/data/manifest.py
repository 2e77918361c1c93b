"""Somebody's own recordings to training and test lists: a ``manifest.jsonl`` or a Kaldi directory in, split by speaker, raw lists out.

A manifest line holds ``key``, ``wav`` (relative to the manifest's folder) and what is known of ``txt speaker gender age emotion event style
lang``; null means unknown, other fields are carried along and can be selected on. A foreign ``task`` field is kept aside: a row's task is
given, or is the richest one that the row's own fields can answer. Left out: opening the audio (that is the doctor's work).
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from osum_echat.data.kaldi import read_kaldi_dir
from osum_echat.errors import DataError
from osum_echat.files import write_text
from osum_echat.tasks.task import TASKS, Task, get_task
from osum_echat.text.tags import KINDS, age_from_years, canonical, is_missing
from osum_echat.utterance import Utterance

_CONDITION = re.compile(r"^\s*(\w+)\s*(!=|>=|<=|=)\s*(.*?)\s*$")
_NOT_PLAIN = re.compile(r"[^\w'\s]|_")
TEXT_STYLES: dict[str, Callable[[str], str]] = {
    "keep": lambda text: text,
    "lower": lambda text: text.lower(),
    "plain": lambda text: " ".join(_NOT_PLAIN.sub(" ", text.lower()).split()),
}


@dataclass(frozen=True)
class Split:
    """Who is tested: named speakers, or fold ``fold`` of ``num_folds``; speakers never stand on both sides."""

    test_speakers: tuple[str, ...] = ()
    num_folds: int = 5
    fold: int = 0


@dataclass(frozen=True)
class Prepared:
    """Rows of both sides, and how many were left out for which reason."""

    train: list[Utterance]
    test: list[Utterance]
    skipped: Counter[str]


def read_manifest(path: str | Path) -> list[Utterance]:
    """Every row; ``wav`` becomes absolute, a foreign ``task`` is kept as ``extra["manifest_task"]``."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such manifest", "missing_list")
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                row = Utterance.from_json(line, f"{path}:{number}")
                extra = {**row.extra, "manifest_task": row.task} if row.task != "asr" else row.extra
                rows.append(replace(row, wav=_absolute(row, path.parent), task="asr", extra=extra))
    if not rows:
        raise DataError(f"{path}: the manifest is empty", "empty_list")
    _refuse_repeated_keys(rows)
    return rows


def read_kaldi(folder: str | Path) -> list[Utterance]:
    """Every utterance of a Kaldi directory; its paths are used as they are."""
    return list(read_kaldi_dir(folder))


def _absolute(row: Utterance, folder: Path) -> str | None:
    if row.wav is None or row.wav.rstrip().endswith("|"):
        return row.wav
    return os.path.abspath(folder / row.wav)


def _refuse_repeated_keys(rows: Iterable[Utterance]) -> None:
    seen: dict[str, str] = {}
    for row in rows:
        if seen.setdefault(row.key, row.origin) != row.origin:
            raise DataError(f"{row.origin}: key {row.key} was already given at {seen[row.key]}; keys must be unique", "duplicate_key")


def select(rows: Sequence[Utterance], conditions: Sequence[str]) -> list[Utterance]:
    """Rows that meet every condition: ``field=a|b``, ``field!=a``, ``field>=13``, ``field<=12``, ``field=*`` (known), ``field=``."""
    tests = [_condition(text) for text in conditions]
    found = [row for row in rows if all(test(_flat(row)) for test in tests)]
    if not found:
        fields = ", ".join(sorted({name for row in rows for name in _flat(row)}))
        raise DataError(f"--select {' '.join(conditions)}: none of {len(rows)} rows fits; fields that occur: {fields}", "empty_list")
    return found


def _flat(row: Utterance) -> dict[str, Any]:
    record = row.to_record()
    return {**record.pop("extra", {}), **record}


def _condition(text: str) -> Callable[[Mapping[str, Any]], bool]:
    match = _CONDITION.match(text)
    if match is None:
        raise DataError(f"--select {text}: expected field=value, field!=value, field>=number or field<=number", "bad_condition")
    name, operator, wanted = match.groups()
    if operator in (">=", "<="):
        try:
            bound = float(wanted)
        except ValueError as error:
            raise DataError(f"--select {text}: {wanted!r} is not a number", "bad_condition") from error
        sign = 1 if operator == ">=" else -1
        return lambda record: isinstance(record.get(name), int | float) and sign * record[name] >= sign * bound
    values = set(wanted.split("|"))

    def fits(record: Mapping[str, Any]) -> bool:
        value = record.get(name)
        return ("*" in values) if value is not None and "*" in values else ("" if value is None else str(value)) in values

    return fits if operator == "=" else lambda record: not fits(record)


def known_labels(row: Utterance, drop_unknown: bool) -> dict[str, str]:
    """Canonical labels of a row; a value outside the inventory is an error, or is treated as not given."""
    labels: dict[str, str] = {}
    for kind in KINDS:
        value = getattr(row, kind)
        try:
            if kind == "age" and row.age_years is not None:
                labels[kind] = age_from_years(row.age_years)
            elif value is not None and not is_missing(kind, value):
                labels[kind] = canonical(kind, value)
        except DataError as error:
            if not drop_unknown:
                raise DataError(f"{row.origin}: key {row.key}: {error}; or say --unknown_labels drop", error.reason) from error
    return labels


def _can_answer(task: Task, row: Utterance, labels: Mapping[str, str]) -> bool:
    return task.reads_audio and (not task.transcript or bool((row.txt or "").strip())) and set(task.needs) <= labels.keys()


def choose_task(row: Utterance, labels: Mapping[str, str]) -> Task | None:
    """The task that uses most of what a row knows: its transcript when it has one, and as many labels as a task can hold."""
    has_text = bool((row.txt or "").strip())
    tasks = [task for task in TASKS.values() if task.follow_up is None]
    fitting = [t for t in tasks if t.transcript == has_text and (has_text or t.labels) and _can_answer(t, row, labels)]
    return max(fitting, key=lambda task: len(task.labels)) if fitting else None


def prepare(rows: Sequence[Utterance], split: Split, task: str = "auto", text: str = "keep", drop_unknown: bool = False) -> Prepared:
    """Gives every row its task, its text style and its side."""
    fixed = None if task == "auto" else get_task(task)
    test_speakers = _test_speakers(rows, split)
    train: list[Utterance] = []
    test: list[Utterance] = []
    skipped: Counter[str] = Counter()
    for row in rows:
        labels = known_labels(row, drop_unknown)
        chosen = fixed or choose_task(row, labels)
        if row.wav is None:
            skipped["no wav"] += 1
        elif chosen is None or not _can_answer(chosen, row, labels):
            skipped[f"fields for task {task} missing" if fixed else "neither transcript nor label"] += 1
        else:
            side = test if _speaker(row) in test_speakers else train
            side.append(_finished(row, chosen, labels, text))
    for name, side in (("training", train), ("test", test)):
        if not side:
            speakers = ", ".join(sorted(test_speakers))
            raise DataError(f"no row is left for {name}; skipped: {dict(skipped)}; test speakers: {speakers}", "empty_list")
    return Prepared(train, test, skipped)


def _finished(row: Utterance, task: Task, labels: Mapping[str, str], text: str) -> Utterance:
    """Labels outside the inventory vanish; those inside keep their own words, and ages in years stay years."""
    dropped: dict[str, Any] = {kind: None for kind in KINDS if kind not in labels}
    if "age" in dropped:
        dropped["age_years"] = None
    return replace(row, task=task.name, txt=None if row.txt is None else TEXT_STYLES[text](row.txt), **dropped)


def _speaker(row: Utterance) -> str:
    """Rows of unknown speakers count as a speaker each."""
    return row.speaker or f"(key {row.key})"


def _test_speakers(rows: Sequence[Utterance], split: Split) -> set[str]:
    """Named ones, or a fold dealt by gender and age so that every fold has some of each."""
    about = {_speaker(row): (row.gender or "", row.age or str(row.age_years or "")) for row in rows}
    if split.test_speakers:
        absent = sorted(set(split.test_speakers) - about.keys())
        if absent:
            raise DataError(f"test speakers {', '.join(absent)} do not occur; speakers: {', '.join(sorted(about)[:40])}", "unknown_speaker")
        return set(split.test_speakers)
    if not 0 <= split.fold < split.num_folds:
        raise DataError(f"fold {split.fold} does not exist; folds are 0 to {split.num_folds - 1}", "bad_fold")
    if len(about) < split.num_folds:
        raise DataError(f"{len(about)} speakers cannot be dealt into {split.num_folds} folds", "bad_fold")
    ordered = sorted(about, key=lambda name: (about[name], hashlib.blake2b(name.encode()).digest()))
    return set(ordered[split.fold :: split.num_folds])


def write_list(path: str | Path, rows: Iterable[Utterance]) -> None:
    """A raw list, whole or not at all."""
    write_text(path, "".join(row.to_json() + "\n" for row in rows))


def describe(rows: Sequence[Utterance]) -> dict[str, Any]:
    """Counts of a side for the log."""
    counts: dict[str, Any] = {"rows": len(rows), "speakers": len({_speaker(row) for row in rows})}
    counts["tasks"] = dict(Counter(row.task for row in rows).most_common())
    return counts


def to_json(prepared: Prepared) -> str:
    """What the command prints and writes beside the lists."""
    facts = {"train": describe(prepared.train), "test": describe(prepared.test), "skipped": dict(prepared.skipped)}
    return json.dumps(facts, indent=1, ensure_ascii=False)
