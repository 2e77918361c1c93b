"""The table of ablations: rows, cells, where it shows."""

from osum_echat.evaluate.ablation import HEADER, ablation_markdown, ablation_rows
from osum_echat.evaluate.results import Score

FULL = {"echat.emotion": Score(71.25, 100, 60.8, 80.4), "echat.multi": Score(92, 100), "think.wer": Score(5.8, 400, 4.5, 7.2)}


def test_nothing_to_compare_with_is_no_table() -> None:
    assert ablation_rows({}) == ablation_rows(FULL) == [] and ablation_markdown(FULL) == ""
    assert ablation_rows({"think_no_understanding.wer": Score(9, 400), **FULL}) == []  # notes without replies are no system


def test_a_row_holds_the_scores_of_one_system() -> None:
    others = {"echat.multi.no_think": Score(40.0, 100, 30, 50), "echat.emotion.neither": Score(20, 100), "think_neither.wer": Score(1, 2)}
    rows = {row[0]: row[1:] for row in ablation_rows({**others, **FULL})}
    assert list(rows) == ["full: notes, then answers", "without dual think", "without both"]
    assert all(len(cells) == len(HEADER) - 1 for cells in rows.values())
    full, no_think, neither = (dict(zip(HEADER[1:], cells, strict=True)) for cells in rows.values())
    assert (full["echat emotion"], full["echat multi"], full["noted: wer"]) == ("71.2 [60.8, 80.4]", "92.0", "5.8 [4.5, 7.2]")
    assert (no_think["echat emotion"], no_think["echat multi"], no_think["noted: wer"]) == ("–", "40.0 [30.0, 50.0]", "–")
    assert (neither["echat emotion"], neither["noted: wer"]) == ("20.0", "1.0")


def test_the_markdown_has_a_cell_a_column() -> None:
    lines = ablation_markdown({"echat.age.direct": Score(50, 60), **FULL}).splitlines()
    assert lines[0] == "## Ablations" and [line.count("|") for line in lines[2:]] == [len(HEADER) + 1] * 4
