"""A table of scores on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.table import Table

from osum_echat.evaluate.results import Score


def print_scores(results: Mapping[str, Score], unit: str, remark: Callable[[str], str]) -> None:
    """One line a score; `remark` says more about the score of that name (the last part of its key)."""
    table = Table(title=None, box=None, pad_edge=False)
    for name, justify in (("score", "left"), (unit, "right"), ("95 % interval", "right"), ("n", "right"), ("", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for key, item in results.items():
        span = "" if item.lo is None or item.hi is None else f"{item.lo:.2f} … {item.hi:.2f}"
        table.add_row(key, f"{item.value:.2f}", span, str(item.n), remark(key.rsplit(".", 1)[1]))
    Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(table)
