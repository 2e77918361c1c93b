"""How far a command is: a bar with the time left on a terminal, a plain line with it every ten seconds elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_EVERY = 10.0  # seconds between plain lines


class Progress:
    """``with Progress(console, "decode", "utterances") as bar: bar.show(3, 100, "1 dropped")``; the total may be unknown (None)."""

    def __init__(self, console: Console, name: str, unit: str, total: int | None = None) -> None:
        columns = (
            TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
            TimeRemainingColumn(), TextColumn("{task.fields[text]}"),
        )  # fmt: skip
        self._bar = RichProgress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(name, total=total, text="")
        self._console, self._name, self._unit, self._first = console, name, unit, 0
        self._begin = self._shown = time.monotonic()
        self._started = False

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._begin

    def show(self, done: int, total: int | None, text: str = "") -> None:
        """So much is done; what an earlier start of the command had done tells nothing about the speed of this one."""
        if not self._started:
            self._started, self._first = True, done - 1
        self._bar.update(self._task, completed=done, total=total, text=text)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._shown >= _EVERY:
            self._shown = now
            left = f", {self.seconds / (done - self._first) * (total - done):.0f} s left" if total else ""
            line = f"{self._name}: {done}/{total or '?'} {self._unit}, {self.seconds:.0f} s{left}"
            self._console.print(line + (f"; {text}" if text else ""), markup=False, highlight=False, soft_wrap=True)
