"""Rows whose reply is the one a model gave: sequence-level distillation (https://arxiv.org/abs/1606.07947) of replies behind a think block.

A model that thinks decodes a training list; the direct model then learns what it said, words and codes, in place of the list's own replies.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from osum_echat.config import SourceConfig
from osum_echat.data.source import Drop
from osum_echat.errors import DataError
from osum_echat.evaluate.decoded import read_decoded
from osum_echat.generate.outputs import HYP_LIST
from osum_echat.generate.requests import read_rows
from osum_echat.tasks.task import WITHOUT_THINK, get_task
from osum_echat.text.think import split_think
from osum_echat.utterance import Utterance


@dataclass
class OwnReplies:
    """Rows with new replies, and the keys left out by reason."""

    rows: list[Utterance] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)


def own_replies(rows: Sequence[Utterance], decoded: Path) -> OwnReplies:
    """The rows of a list with the replies of its decode, under the task without a think block.

    Left out: rows that were not decoded, whose answer was cut off, or that have no words or no codes. Raises DataError for a decode of a
    task that does not think.
    """
    decode = read_decoded(decoded)
    name = str(decode.info.get("task"))
    if name not in WITHOUT_THINK:
        raise DataError(f"{decoded}: task {name!r}; expected the decode of one of {', '.join(WITHOUT_THINK)}", "unknown_task")
    task = get_task(WITHOUT_THINK[name])
    codes = dict(_codes(decoded / HYP_LIST)) if task.speaks else {}
    cut_off, found = set(decode.info.get("cut_off", ())), OwnReplies()
    for row in rows:
        reason = _why_not(row.key, decode.raw, cut_off, codes if task.speaks else None)
        if reason:
            found.left_out.setdefault(reason, []).append(row.key)
            continue
        reply = split_think(decode.raw[row.key]).reply.strip()
        found.rows.append(replace(row, task=task.name, txt=reply, speech_token=codes.get(row.key), answer_wav=None))
    return found


def _why_not(key: str, raw: Mapping[str, str], cut_off: set[str], codes: Mapping[str, tuple[int, ...]] | None) -> str:
    if key not in raw:
        return "not decoded"
    if key in cut_off:
        return "cut off"
    if not split_think(raw[key]).reply.strip():
        return "no words"
    return "no codes" if codes is not None and not codes.get(key) else ""


def _codes(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    for row in read_rows(SourceConfig(kind="raw", list=str(path))):
        if isinstance(row, Drop):
            raise DataError(row.message, row.reason)
        yield row.key, row.speech_token or ()
