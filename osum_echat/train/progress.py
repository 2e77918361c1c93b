"""What the person at the terminal sees: one live status line there, plain log lines everywhere else.

Only the main rank shows anything. The numbers of a line: loss, learning rate, LLM positions per second, share of the time spent
waiting for data, peak memory, time left.
"""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def format_duration(seconds: float) -> str:
    """`h:mm:ss` or `m:ss`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


class StatusLine:
    """Progress of the optimizer steps; `total` may be unknown (None) until an epoch has been seen."""

    def __init__(self, console: Console | None, total: int | None, start: int) -> None:
        self.console = console
        self._live = Progress(
            TextColumn("[bold]train"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"), console=console,
            refresh_per_second=2, disable=console is None or not console.is_terminal,
        )  # fmt: skip
        self._task: TaskID = self._live.add_task("train", total=total, completed=start, text="")
        self._text = ""
        self._total, self._start, self._begin = total, start, time.monotonic()

    def __enter__(self) -> StatusLine:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def set_total(self, total: int | None) -> None:
        """The number of steps is known now."""
        self._total = total
        self._live.update(self._task, total=total)

    def advance(self, step: int, text: str) -> None:
        """Move the bar; `text` stays until the next call."""
        self._text = text or self._text
        self._live.update(self._task, completed=step, text=self._text)

    def log(self, text: str, step: int | None = None) -> None:
        """A line that stays; with `step` it is a step's line, which a terminal already shows in the status line."""
        if self.console is None:
            return
        if step is None:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif not self.console.is_terminal:
            of = f"/{self._total}, {format_duration(self.seconds_left(step))} left" if self._total else ""
            self.console.print(f"step {step}{of}: {text}", markup=False, highlight=False, soft_wrap=True)

    def seconds_left(self, step: int) -> float:
        """Time to the end at the mean speed of this start."""
        done = max(1, step - self._start)
        return (time.monotonic() - self._begin) / done * max(0, (self._total or step) - step)
