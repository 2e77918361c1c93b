"""Figures a recipe wants to reach: a YAML file of relations beside its scores, such as

    tts.wer: <= 20
    s2s_interleaved.text: [">= 80", ">= s2s.text - 5"]

A relation is a bound or another score with something added or taken away.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from osum_echat.errors import ConfigError
from osum_echat.evaluate.results import Score

_RELATION = re.compile(r"(<=|>=)\s*(?:(?P<other>[a-z]\w*(?:\.\w+)*)\s*)?(?P<number>[+-]?\s*\d+(?:\.\d+)?)?")


@dataclass(frozen=True)
class Target:
    """`relation` "<=" or ">=" to `number`, or to the score `other` plus `number`."""

    text: str
    relation: str
    number: float
    other: str | None = None

    def is_met(self, value: float, scores: Mapping[str, Score]) -> bool | None:
        """None when the other score is not there yet."""
        base = 0.0 if self.other is None else scores[self.other].value if self.other in scores else math.nan
        bound = base + self.number
        if not math.isfinite(bound) or not math.isfinite(value):
            return None
        return value <= bound if self.relation == "<=" else value >= bound


def read_targets(path: Path) -> dict[str, list[Target]]:
    """Targets by score; a relation that cannot be read is an error that names it."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file of targets")
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(record, dict):
        raise ConfigError(f'{path}: expected scores with relations, such as "tts.wer: <= 20"; got {type(record).__name__}')
    return {
        str(key): [_parse(str(text), f"{path}: {key}") for text in (value if isinstance(value, list) else [value])]
        for key, value in record.items()
    }


def _parse(text: str, where: str) -> Target:
    match = _RELATION.fullmatch(text.strip())
    if match is None or (match["other"] is None and match["number"] is None):
        raise ConfigError(f"{where}: cannot read {text!r}; expected '<= 20', '>= 80' or a relation such as '>= s2s.text - 5'")
    return Target(text.strip(), match[1], float((match["number"] or "0").replace(" ", "")), match["other"])
