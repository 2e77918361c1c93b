"""``Utterance`` and ``Turn``: the one record of the data path, read from and written to one line of JSON.

Three dialects are read unchanged: our own lists (docs/data_formats.md), WeNet's ``{key, wav, txt}`` and the lists of OSUM / OSUM-EChat
(https://github.com/ASLP-lab/OSUM), whose ``task`` is a row of tags and whose ``extra`` is a dict or a JSON string. Labels stay raw strings
here, those inside the text too: text/tags.py knows the inventories, tasks/ canonicalises. Audio is not opened here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from osum_echat.errors import DataError

AUDIO_FIELDS = ("wav", "answer_wav")
"""Fields of a row that name audio."""

# Fields of an OSUM ``extra`` and the field of ours that holds the same thing.
_OSUM_EXTRA = {"speech_token": "speech_token", "think_str": "think", "question": "question", "age": "age", "gender": "gender"}


@dataclass(frozen=True)
class Turn:
    """One earlier turn of a dialogue; a user's may tell what was heard, for think blocks.

    ``audio`` holds the encoded bytes when the turn came out of a tar, ``waveform_S`` decoded samples.
    """

    role: str
    txt: str | None = None
    wav: str | None = None
    speech_token: tuple[int, ...] | None = None
    gender: str | None = None
    age: str | None = None
    age_years: float | None = None
    emotion: str | None = None
    event: str | None = None
    think: str | None = None
    audio: bytes | None = field(default=None, repr=False)
    waveform_S: np.ndarray | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Utterance:
    """One row of a data list. Change it with ``dataclasses.replace``.

    ``start`` and ``end`` are seconds within ``wav``. ``age`` is a label and ``age_years`` a number; a list gives either as ``age``.
    ``audio`` are encoded bytes out of a tar, ``waveform_S`` 16 kHz mono samples once decoded. ``origin`` says where the row was read.
    """

    key: str
    task: str = "asr"
    wav: str | None = None
    txt: str | None = None
    start: float | None = None
    end: float | None = None
    lang: str | None = None
    speaker: str | None = None
    gender: str | None = None
    age: str | None = None
    emotion: str | None = None
    event: str | None = None
    style: str | None = None
    question: str | None = None
    think: str | None = None
    words: tuple[tuple[str, float, float], ...] | None = None
    history: tuple[Turn, ...] = ()
    answer_wav: str | None = None
    speech_token: tuple[int, ...] | None = None
    age_years: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    origin: str = ""
    audio: bytes | None = field(default=None, repr=False)
    waveform_S: np.ndarray | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_json(cls, line: str | bytes, origin: str = "") -> "Utterance":
        """Reads one line of a list; ``origin`` (``file:line``) is put into every error."""
        try:
            record = json.loads(line)
        except ValueError as error:  # also a line that is not UTF-8
            raise DataError(f"{origin}: not JSON ({error}); expected one object a line, with key, wav, txt …", "bad_json") from error
        if not isinstance(record, dict):
            raise DataError(f"{origin}: expected a JSON object, got {type(record).__name__}", "bad_json")
        return cls.from_record(record, origin)

    @classmethod
    def from_record(cls, record: Mapping[str, Any], origin: str = "") -> "Utterance":
        """The same for a parsed line or the collected members of a tar."""
        values, extra = _split_fields(record, origin)
        if not values.get("key"):
            raise DataError(f"{origin}: the field 'key' is missing or empty; every row needs a name of its own", "bad_json")
        _lift_osum_extra(values, extra)
        try:
            return cls(**_typed(values), extra=extra, origin=origin)
        except (TypeError, ValueError) as error:
            raise DataError(f"{origin}: key {values['key']}: a field has the wrong type ({error})", "bad_json") from error

    def hearing(self, audio: str) -> "Utterance":
        """This row, with the audio field of that name in the place of what the model hears."""
        if audio not in AUDIO_FIELDS:
            raise ValueError(f"audio field {audio!r}: expected {' or '.join(AUDIO_FIELDS)}")
        return self if audio == "wav" else replace(self, wav=self.answer_wav, audio=None, start=None, end=None)

    def to_record(self) -> dict[str, Any]:
        """A JSON-ready dict of every field that is set; decoded or embedded audio, and where the row was read, do not travel."""
        record: dict[str, Any] = {}
        for name in _JSON_FIELDS:
            value = getattr(self, name)
            if value not in (None, (), {}):
                record[name] = value
        if self.age_years is not None:
            record["age"] = self.age_years
        if self.history:
            record["history"] = [_turn_record(turn) for turn in self.history]
        return record

    def to_json(self) -> str:
        """One line (no newline) that ``from_json`` reads back to an equal record."""
        return json.dumps(self.to_record(), ensure_ascii=False)


_NOT_IN_JSON = ("origin", "audio", "waveform_S", "age_years")
_JSON_FIELDS = tuple(f.name for f in fields(Utterance) if f.name not in _NOT_IN_JSON)
_NUMBERS = ("start", "end")
_TURN_FIELDS = ("txt", "wav", "speech_token", "gender", "age", "emotion", "event", "think")


def _split_fields(record: Mapping[str, Any], origin: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Our fields, and everything else under ``extra``; nulls vanish."""
    values = {name: record[name] for name in _JSON_FIELDS if name != "extra" and record.get(name) is not None}
    extra = record.get("extra") or {}
    if isinstance(extra, str):
        try:
            extra = json.loads(extra)
        except ValueError as error:
            raise DataError(f"{origin}: 'extra' is a string but not JSON ({error})", "bad_json") from error
    if not isinstance(extra, Mapping):
        raise DataError(f"{origin}: 'extra' must be an object, got {type(extra).__name__}", "bad_json")
    unknown = {name: value for name, value in record.items() if name not in _JSON_FIELDS and value is not None}
    return values, {**extra, **unknown}


def _lift_osum_extra(values: dict[str, Any], extra: dict[str, Any]) -> None:
    for theirs, ours in _OSUM_EXTRA.items():
        if theirs in extra and ours not in values:
            values[ours] = extra.pop(theirs)


def _typed(values: dict[str, Any]) -> dict[str, Any]:
    """Checks and converts the JSON values; raises TypeError or ValueError naming the field."""
    typed: dict[str, Any] = {}
    for name, value in values.items():
        if name in _NUMBERS:
            typed[name] = _number(name, value)
        elif name == "words":
            typed[name] = tuple((str(word), float(start), float(end)) for word, start, end in value)
        elif name == "history":
            typed[name] = tuple(_turn(turn) for turn in value)
        elif name == "speech_token":
            typed[name] = _codes(value)
        elif name == "age":
            typed |= _age(value)
        elif isinstance(value, str):
            typed[name] = value
        elif isinstance(value, bool | list | dict):
            raise TypeError(f"'{name}' must be text, got {value!r}")
        else:
            typed[name] = str(value)  # keys, speakers and texts that look like numbers
    return typed


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"'{name}' must be a number, got {value!r}")
    return float(value)


def _age(value: Any) -> dict[str, Any]:
    """Years when it reads as a number, a label otherwise."""
    if isinstance(value, bool | list | dict):
        raise TypeError(f"'age' must be years or a label, got {value!r}")
    try:
        return {"age_years": float(value)}
    except ValueError:
        return {"age": str(value)}


def _codes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or any(isinstance(code, bool) or not isinstance(code, int) for code in value):
        raise TypeError(f"'speech_token' must be a list of integers, got {str(value)[:40]!r}")
    return tuple(value)


def _turn(record: Any) -> Turn:
    if not isinstance(record, Mapping) or "role" not in record:
        raise TypeError(f"a turn of 'history' must be an object with 'role', got {str(record)[:60]!r}")
    values = {name: record[name] for name in _TURN_FIELDS if record.get(name) is not None}
    return Turn(str(record["role"]), **_typed(values), audio=record.get("audio"))


def _turn_record(turn: Turn) -> dict[str, Any]:
    record = {name: getattr(turn, name) for name in ("role", *_TURN_FIELDS)}
    if turn.age_years is not None:
        record["age"] = turn.age_years
    return {name: value for name, value in record.items() if value is not None}
