"""What a judge's run leaves behind: judge_rule.json or judge_llm.json, and lines for the terminal."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from osum_echat.evaluate.judge import EchatScore, TaskScore
from osum_echat.files import write_text


def write_judged(scored: EchatScore, folder: Path, facts: Mapping[str, Any]) -> Path:
    """Write judge_<judge>.json: how was judged, the scores, every reply with its ratings; returns its path."""
    path = folder / f"judge_{scored.judge}.json"
    write_text(path, json.dumps({**scored.to_json(), **facts}, indent=1, ensure_ascii=False) + "\n")
    return path


def summary(scored: EchatScore, num_unreadable: int = 0) -> Iterator[str]:
    """What the numbers mean, and everything that went wrong, a line each."""
    notes: dict[str, list[str]] = {}
    for name, task in scored.tasks.items():
        notes.setdefault(task.note, []).append(name)
    yield from (f"{', '.join(names)}: {note}" for note, names in notes.items())
    for name, task in scored.tasks.items():
        yield from _troubles(name, task)
    if num_unreadable:
        yield f"{num_unreadable} rows of the reference list cannot be read and are not judged"


def _troubles(name: str, task: TaskScore) -> Iterator[str]:
    if task.num_no_reply:
        yield f"{name}: {task.num_no_reply} of {task.num_items} replies are missing or empty (counted as wrong, or rated 1)"
    if task.failures:
        counts = ", ".join(f"{reason} {count}" for reason, count in task.failures.items())
        yield f"{name}: {sum(task.failures.values())} ratings failed and are not scored: {counts}; run again to ask for them"
