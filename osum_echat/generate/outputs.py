"""Answers of a list: what is known of each, and the files of a finished decode.

`text` (the answer as written), `transcript` (its words), `labels.jsonl`, `decode.json`; for conversation `reply` (without think block and
tags); for spoken answers `hyp.list`, a raw list with the codes in `speech_token` and in `txt` what they should say. All in the order of the
decoded list.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from osum_echat.files import write_text
from osum_echat.generate.requests import Answer, read_answer
from osum_echat.tasks.task import Task

HYP_LIST, REPLY = "hyp.list", "reply"
CODE_RATE = 25.0  # speech codes a second


@dataclass(frozen=True)
class AnswerRow:
    """One answer. `say` is the text a task that reads aloud was given, else "". `seconds` is the audio that was heard.

    `finished` is False when the answer was cut off at a longest length, `think_cut` True when its think block was.
    """

    key: str
    raw: str
    codes: list[int]
    say: str
    seconds: float
    finished: bool
    think_cut: bool = False


@dataclass
class DecodeRecord:
    """What was decoded so far, the keys of the list in order, and what could not be decoded."""

    order: list[str] = field(default_factory=list)
    answers: dict[str, AnswerRow] = field(default_factory=dict)
    drops: list[dict[str, str]] = field(default_factory=list)
    wall_seconds: float = 0.0


def write_outputs(record: DecodeRecord, task: Task, out: Path, facts: Mapping[str, Any], code_rate: float = CODE_RATE) -> dict[str, Any]:
    """Write the files of a finished decode; returns the content of decode.json."""
    rows = [record.answers[key] for key in record.order if key in record.answers]
    parts = {row.key: read_answer(row.raw, task) for row in rows}
    write_text(out / "text", kaldi_text({key: answer.raw for key, answer in parts.items()}))
    write_text(out / "transcript", kaldi_text({key: answer.transcript for key, answer in parts.items()}))
    write_text(out / "labels.jsonl", "".join(_line({"key": key, **answer.labels}) for key, answer in parts.items()))
    if task.follow_up is not None:
        write_text(out / REPLY, kaldi_text({key: answer.reply for key, answer in parts.items()}))
    if task.speaks:
        write_text(out / HYP_LIST, "".join(_line(_spoken(row, parts[row.key], task)) for row in rows))
    info = {
        **facts,
        "has_transcript": task.transcript,
        "thinks": task.thinks,
        "labels": list(task.labels),
        **_counts(rows, parts, task, record.wall_seconds, code_rate),
        "drop_counts": dict(Counter(drop["reason"] for drop in record.drops)),
        "drops": record.drops,
    }
    write_text(out / "decode.json", json.dumps(info, indent=1, ensure_ascii=False) + "\n")
    return info


def kaldi_text(texts: Mapping[str, str]) -> str:
    """``key text`` a line; line breaks inside a text become spaces because the format has none."""
    return "".join(f"{key} {' '.join(text.split())}".rstrip() + "\n" for key, text in texts.items())


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _spoken(row: AnswerRow, answer: Answer, task: Task) -> dict[str, Any]:
    """A row of hyp.list."""
    return {"key": row.key, "task": task.name, "txt": row.say if task.reads_aloud else answer.reply, "speech_token": row.codes}


def _counts(rows: list[AnswerRow], parts: Mapping[str, Answer], task: Task, wall_seconds: float, code_rate: float) -> dict[str, Any]:
    """The real-time factor counts the seconds a task makes, or those it hears when it makes none."""
    heard, num_codes = sum(row.seconds for row in rows), sum(len(row.codes) for row in rows)
    spoken = num_codes / code_rate
    cut_off = [row.key for row in rows if not row.finished]
    written = {key: answer.raw if task.follow_up is None else answer.reply for key, answer in parts.items()}
    empty = [row.key for row in rows if (task.writes and not written[row.key]) or (task.speaks and not row.codes)]
    against = spoken if task.speaks else heard
    counts = {
        "n": len(rows),
        "num_cut_off": len(cut_off),
        "num_think_cut": sum(row.think_cut for row in rows),
        "num_empty": len(empty),
        "cut_off": cut_off,
        "empty": empty,
        "audio_seconds": round(heard, 2),
        "wall_seconds": round(wall_seconds, 2),
        "rtf": wall_seconds / against if against else None,
    }
    if task.speaks:
        used = {code for row in rows for code in row.codes}
        counts |= {"num_codes": num_codes, "num_distinct_codes": len(used), "code_rate": code_rate, "speech_seconds": round(spoken, 2)}
    return counts
