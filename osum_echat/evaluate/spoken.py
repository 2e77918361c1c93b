"""What the scores of speech read: a decode of a task that speaks (or writes), its sound, and what a recogniser heard in it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from osum_echat.config import SourceConfig
from osum_echat.data.source import Drop
from osum_echat.errors import DataError
from osum_echat.evaluate.decoded import read_decoded
from osum_echat.evaluate.kaldi_text import read_kaldi_text
from osum_echat.generate.outputs import HYP_LIST
from osum_echat.generate.requests import read_rows
from osum_echat.tasks.task import get_task
from osum_echat.utterance import Utterance

SOUND_LIST = "data.list"


@dataclass(frozen=True)
class Spoken:
    """Answers by key: the text that was written, what the speech should say, which are empty or were cut off.

    `was_decoded` is False for recordings that were only taken apart and put together again: nobody wrote or cut anything there.
    """

    task: str
    writes: bool
    speaks: bool
    was_decoded: bool
    written: Mapping[str, str]
    says: Mapping[str, str]
    empty: frozenset[str]
    truncated: frozenset[str]


@dataclass(frozen=True)
class Speech:
    """Synthesized speech: the wav of every key."""

    folder: Path
    wavs: Mapping[str, str]


RECORDINGS = Spoken("", False, True, False, {}, {}, frozenset(), frozenset())
"""In the place of a decode: the codes are those of the recordings themselves."""


def read_spoken(folder: Path) -> Spoken:
    """A decode directory of a task that speaks or writes a reply; any other is an error."""
    decoded = read_decoded(folder)
    name = decoded.info.get("task")
    if not name:
        raise DataError(f"{folder / 'decode.json'} names no task; decode with osum-echat decode", "bad_json")
    task = get_task(name)
    if not task.speaks and task.follow_up is None:
        raise DataError(f"{folder}: the task {name!r} neither speaks nor replies; score it with osum-echat score", "unknown_task")
    rows = _read_list(folder / HYP_LIST, f"decode again: osum-echat decode --task {name}") if task.speaks else []
    return Spoken(
        task=task.name,
        writes=task.writes,
        speaks=task.speaks,
        was_decoded=True,
        written=decoded.replies if task.writes else {},
        says={row.key: row.txt or "" for row in rows},
        empty=frozenset(decoded.info.get("empty", ())),
        truncated=frozenset(decoded.info.get("cut_off", ())),
    )


def read_speech(folder: Path) -> Speech:
    """The folder that osum-echat synthesize wrote: its data.list names the wav of every row."""
    rows = _read_list(folder / SOUND_LIST, f"make the sound first: osum-echat synthesize --out {folder}")
    return Speech(folder, {row.key: row.wav for row in rows if row.wav})


def read_heard(path: Path) -> dict[str, str]:
    """What a recogniser heard, by key: a Kaldi text file, or a folder with one named `transcript` or `text` (a decode directory)."""
    candidates = (path / "transcript", path / "text") if path.is_dir() else (path,)
    for candidate in candidates:
        if candidate.is_file():
            return read_kaldi_text(candidate)
    raise DataError(
        f"{path}: expected a Kaldi text file ('key words ...' a line) or a folder that holds one named transcript or text; "
        "transcribe the synthesized speech: osum-echat decode --task asr --list <synthesized>/data.list",
        "missing_transcript",
    )


def _read_list(path: Path, todo: str) -> list[Utterance]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; {todo}", "missing_list")
    if not path.stat().st_size:
        return []
    rows = []
    for row in read_rows(SourceConfig(kind="raw", list=str(path))):
        if isinstance(row, Drop):
            raise DataError(row.message, row.reason)
        rows.append(row)
    return rows


def check_keys(path: Path, found: Collection[str], wanted: Collection[str], name: str) -> None:
    """Files that have no key in common with the list belong to another one."""
    if found and not set(found) & set(wanted):
        some, others = next(iter(found)), next(iter(wanted))
        raise DataError(
            f"{path}: none of its {len(found)} keys (such as {some}) is in {name} (such as {others}); give what belongs together"
        )
