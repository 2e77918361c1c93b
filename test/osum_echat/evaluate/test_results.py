"""results.json: merging, rendering, damage."""

import json
import os
from pathlib import Path

import pytest

from osum_echat.errors import DataError, UserError
from osum_echat.evaluate.bootstrap import Interval
from osum_echat.evaluate.results import Score, markdown_table, merge_results, read_results
from osum_echat.files import write_text


def test_merge_keeps_other_keys_and_replaces_its_own(tmp_path: Path) -> None:
    path = tmp_path / "exp" / "results.json"
    merge_results(path, {"understand.wer": Score(9.0, 10), "rtf": Score(0.1, 10)})
    merge_results(path, {"understand.wer": Score.percent(Interval(0.071, 0.062, 0.08, 400, "speaker", 8))})
    assert json.loads(path.read_text()) == {
        "rtf": {"value": 0.1, "n": 10, "lo": None, "hi": None},
        "understand.wer": {"value": 7.1, "n": 400, "lo": 6.2, "hi": 8.0},
    }


def test_not_a_number_survives_as_null(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    merge_results(path, {"x": Score(float("nan"), 0)})
    assert "NaN" not in path.read_text() and read_results(path)["x"].show() == "n/a"


def test_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text('{"a": 3}')
    with pytest.raises(DataError, match=r"r\.json"):
        read_results(path)


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")

    def full_disk(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_markdown_row() -> None:
    table = markdown_table({"a.wer": Score(7.1, 400, 6.2, 8.0), "rtf": Score(0.05, 400)})
    assert "| a.wer | 7.10 | 6.20 … 8.00 | 400 |" in table and "| rtf | 0.05 | – | 400 |" in table
