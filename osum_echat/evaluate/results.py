"""results.json and RESULTS.md: one flat object of scores per experiment, from which every table is rendered.

Keys are ``<prefix>.<score>`` (``understand.wer``); values are ``{"value", "n", "lo", "hi"}``, in percent where the score is a rate,
and ``"note"`` where a number must not be read without it (who judged, for example).
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osum_echat.errors import DataError
from osum_echat.evaluate.bootstrap import Interval
from osum_echat.files import write_text

_OF_100 = re.compile(r"echat\.(emotion|age|gender|multi)(\..*)?")  # mean ratings, or shares under another judge: the note says which
_UNITS = {"boundary_ms": "ms", "mcd": "dB", "f0_rmse": "Hz", "f0_corr": "", "duration_ratio": "", "rtf": ""}


def unit_of(key: str) -> str:
    """The unit of the score of that key: % for rates."""
    if _OF_100.fullmatch(key):
        return "of 100"
    name = re.sub(r"\.p\d+$", "", key).rsplit(".", 1)[-1]  # p50 and p95 are percentiles
    return "ms" if name.endswith("_ms") else _UNITS.get(name, "%")


@dataclass(frozen=True)
class Score:
    """One printed number with what it rests on. lo and hi are None when no interval belongs to it; `note` says how to read it."""

    value: float
    n: int
    lo: float | None = None
    hi: float | None = None
    note: str = ""

    @classmethod
    def percent(cls, interval: Interval) -> "Score":
        """A rate in percent."""
        return cls(100 * interval.value, interval.num, 100 * interval.lo, 100 * interval.hi)

    def to_json(self) -> dict[str, float | int | str | None]:
        """The object that stands in results.json; nan becomes null because JSON has no nan."""
        numbers = {"value": _finite(self.value), "n": self.n, "lo": _finite(self.lo), "hi": _finite(self.hi)}
        return {**numbers, "note": self.note} if self.note else {**numbers}

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> "Score":
        """The inverse of `to_json`."""
        value = item["value"]
        return cls(math.nan if value is None else float(value), int(item["n"]), item.get("lo"), item.get("hi"), str(item.get("note", "")))

    def show(self) -> str:
        """Text such as ``7.10 [6.20, 8.00]``."""
        if not math.isfinite(self.value):
            return "n/a"
        text = f"{self.value:.2f}"
        return text if self.lo is None or self.hi is None else f"{text} [{self.lo:.2f}, {self.hi:.2f}]"


def _finite(value: float | None) -> float | None:
    return round(value, 4) if value is not None and math.isfinite(value) else None


def read_results(path: Path) -> dict[str, Score]:
    """Scores of results.json in file order; empty when there is no file."""
    if not path.exists():
        return {}
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
        return {key: Score.from_json(item) for key, item in items.items()}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f'{path}: expected one object {{"name": {{"value", "n", "lo", "hi"}}}}, got {error}; mend or delete it') from error


def merge_results(path: Path, scores: Mapping[str, Score]) -> dict[str, Score]:
    """Put scores into results.json, replacing those of the same key; returns all of them."""
    merged = {**read_results(path), **scores}
    write_text(path, json.dumps({key: score.to_json() for key, score in sorted(merged.items())}, indent=1) + "\n")
    return merged


def markdown_table(scores: Mapping[str, Score]) -> str:
    """The body of RESULTS.md."""
    lines = ["| score | value | 95 % interval | n | unit |", "|---|---:|---:|---:|---|"]
    for key, score in scores.items():
        value = f"{score.value:.2f}" if math.isfinite(score.value) else "n/a"
        span = "–" if score.lo is None or score.hi is None else f"{score.lo:.2f} … {score.hi:.2f}"
        lines.append(f"| {key} | {value} | {span} | {score.n} | {unit_of(key)} |")
    notes: dict[str, list[str]] = {}
    for key, score in scores.items():
        if score.note:
            notes.setdefault(score.note, []).append(key)
    return "\n".join(lines) + "\n" + "".join(f"\n{', '.join(keys)}: {note}.\n" for note, keys in notes.items())
