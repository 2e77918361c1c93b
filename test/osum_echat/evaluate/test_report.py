"""report.html: complete, correct, and readable without a network."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from osum_echat.bin import report as report_command
from osum_echat.bin import score as score_command
from osum_echat.evaluate.plots import line_chart, thin
from osum_echat.evaluate.report import Sample, choose_samples, gather
from osum_echat.evaluate.report_html import render_page

VOID = {"meta", "br", "line", "img", "link", "input", "hr"}


class Balance(HTMLParser):
    """Checks that every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.resources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.resources += [value or "" for name, value in attrs if name in ("src", "href", "data", "srcset", "poster", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


def page_of(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    arguments = ["--ref", experiment.parent / "data" / "test.list", "--hyp", experiment / "decode_test", "--labels", "emotion,age"]
    monkeypatch.setattr(
        sys, "argv", ["score", *map(str, arguments), "--prefix", "understand", "--results", str(experiment / "results.json")]
    )
    assert score_command.main() == 0
    monkeypatch.setattr(sys, "argv", ["report", "--dir", str(experiment)])
    assert report_command.main() == 0
    return (experiment / "report.html").read_text()


def test_page_holds_what_the_run_left_and_nothing_from_outside(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_of(experiment, monkeypatch)
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert parser.resources and all(link.startswith(("#", "data:")) for link in parser.resources)
    assert not re.search(r"https?://|@import|url\(|<script", page)
    for expected in (
        "understand.wer",
        "16.67",
        "75.00",
        "n = 8",
        "abc123",
        "1a_align",
        "39 steps",
        "too_long",
        "corrupt_audio",
        "RTF 0.125",
    ):
        assert expected in page, expected
    assert "cut off &lt;early&gt;" in page and "<early>" not in page
    assert page.count("<audio") == 8 and page.count("data:audio/flac;base64,ZkxhQ") == 8
    assert "no hypothesis" in page and "happy → sad ✗" in page and '<span class="del" title="not answered">IS</span>' in page
    assert "happy 6, sad 3, neutral 3" in page  # data card of the training list


def test_results_md_is_rendered_from_results_json(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page_of(experiment, monkeypatch)
    text = (experiment / "RESULTS.md").read_text()
    assert re.search(r"\| understand\.wer \| 16\.67 \| .+ … .+ \| 8 \|", text) and "task asr_p, 7 utterances" in text


def test_drops_of_all_ranks_are_added(experiment: Path) -> None:
    report = gather(experiment, [])
    assert dict(report.stages[0].drops) == {"asr_p / too_long": 3}
    assert [card.name for card in report.cards] == ["train"] and report.cards[0].num == 12
    assert report.cards[0].hours == pytest.approx(12 * 0.1 / 3600) and not report.cards[0].hours_are_estimated


def test_an_unfinished_run_still_gives_a_page(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "metrics.jsonl").write_text('{"step": 1, "split": "train", "loss": NaN}\n{"step": 2, "spl')
    (tmp_path / "s" / "train.yaml").write_text("nonsense: 1\n")
    report = gather(tmp_path, [])
    assert report.problems and "train.yaml" in report.problems[0]
    assert "No results.json yet" in render_page(report)


def test_missing_list_is_told_on_the_page(experiment: Path) -> None:
    (experiment.parent / "data" / "test.list").unlink()
    report = gather(experiment, [experiment / "decode_test"])
    assert any("test.list" in card.note for card in report.cards if card.name == "test")
    assert "test.list" in render_page(report)


def test_samples_are_half_wrong_and_filled_up() -> None:
    def sample(at: int, wrong: bool) -> Sample:
        return Sample(str(at), (("A", "B" if wrong else "A"),), (), "a", None, "")

    mixed = [sample(at, at < 30) for at in range(60)]
    chosen = choose_samples(mixed, 20)
    assert [item.is_wrong for item in chosen] == [True] * 10 + [False] * 10
    few_wrong = choose_samples([sample(at, at < 3) for at in range(60)], 20)
    assert sum(item.is_wrong for item in few_wrong) == 3 and len(few_wrong) == 20
    assert len(choose_samples([sample(at, True) for at in range(60)], 20)) == 20
    assert choose_samples(mixed, 20) == chosen


def test_curves_keep_their_ends_apart_and_skip_what_is_not_a_number() -> None:
    points = [(float(x), 1.0 / x) for x in range(1, 5001)]
    short = thin(points)
    assert len(short) == 400 and short[0][1] > 0.2 and short[-1][0] > 4990
    assert line_chart("x", {"a": [(1.0, float("nan"))]}) == ""
    chart = line_chart("a < b", {"train": points, "dev": [(2.0, 0.5)]})
    assert chart.count("<polyline") == 2 and "a &lt; b" in chart and "nan" not in chart
