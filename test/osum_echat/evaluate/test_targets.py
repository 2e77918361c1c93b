"""Figures to reach: what a relation means, and what cannot be read."""

import math
from pathlib import Path

import pytest

from osum_echat.errors import ConfigError
from osum_echat.evaluate.results import Score, unit_of
from osum_echat.evaluate.targets import read_targets

SCORES = {"s2s.text": Score(90.0, 10), "s2s.nan": Score(math.nan, 10)}


def read(path: Path, text: str):
    (path / "t.yaml").write_text(text)
    return read_targets(path / "t.yaml")


@pytest.mark.parametrize(
    ("relation", "value", "met"),
    [
        ("<= 20", 20.0, True),
        ("<= 20", 20.1, False),
        (">= 80", 79.9, False),
        (">=80.5", 80.5, True),
        ("<= -1.5", -2.0, True),
        (">= s2s.text - 5", 85.0, True),
        (">= s2s.text - 5", 84.9, False),
        ("<= s2s.text+2.5", 92.6, False),
        (">= s2s.text", 90.0, True),
        (">= tts.wer", 1.0, None),
        (">= s2s.nan", 1.0, None),
        ("<= 20", math.nan, None),
    ],
)
def test_relations(tmp_path: Path, relation: str, value: float, met: bool | None) -> None:
    (target,) = read(tmp_path, f'k: "{relation}"')["k"]
    assert target.is_met(value, SCORES) is met and target.text == relation


@pytest.mark.parametrize("text", ["k: 20", "k: '< 20'", "k: '>='", "k: '<= 2 + 3'", "k: '<= S2S.text'", "- a", "k: [", "k: '<= 20 %'"])
def test_what_is_no_relation_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"t\.yaml"):
        read(tmp_path, text)
    with pytest.raises(ConfigError, match="no such file"):
        read_targets(tmp_path / "gone.yaml")


def test_the_targets_of_the_mini_recipe_can_be_read(root: Path) -> None:
    targets = read_targets(root / "examples" / "mini" / "s0" / "targets.yaml")
    assert len(targets["s2s_interleaved.text"]) == 2 and targets["tts.wer"][0].is_met(20.0, {}) is True


@pytest.mark.parametrize(
    ("key", "unit"),
    [
        ("tts.wer", "%"),
        ("tts.mcd", "dB"),
        ("s2s.f0_rmse", "Hz"),
        ("rtf", ""),
        ("latency.first_audio_ms.p95", "ms"),
        ("a.boundary_ms", "ms"),
    ],
)
def test_units(key: str, unit: str) -> None:
    assert unit_of(key) == unit
