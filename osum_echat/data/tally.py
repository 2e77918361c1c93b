"""``Tally``: rows read, rows dropped and why, labels known in think blocks. It travels with the resume position."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from osum_echat.data.source import Drop

MAX_EXAMPLES = 3  # messages kept per reason
_ASKED_FOR = ("not_fully_labelled",)  # left out because the configuration says so: nothing is wrong with the data


@dataclass
class Tally:
    """Rows read and dropped; ``drops`` is reason → task → count and ``examples`` the first messages of each reason.

    ``known`` counts, for every part of a think block, in how many rows it was known and in how many not.
    """

    num_read: int = 0
    drops: dict[str, dict[str, int]] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    known: dict[str, list[int]] = field(default_factory=dict)

    def add(self, drop: Drop) -> None:
        """Counts one drop (the row itself is counted by ``num_read``)."""
        tasks = self.drops.setdefault(drop.reason, {})
        task = drop.task or "-"
        tasks[task] = tasks.get(task, 0) + 1
        kept = self.examples.setdefault(drop.reason, [])
        if len(kept) < MAX_EXAMPLES:
            kept.append(drop.message)

    def add_known(self, known: Mapping[str, bool]) -> None:
        """Counts the parts of one row's think block."""
        for part, is_known in known.items():
            self.known.setdefault(part, [0, 0])[not is_known] += 1

    def merge(self, other: "Tally") -> None:
        """Adds the counts of another reader."""
        self.num_read += other.num_read
        for reason, tasks in other.drops.items():
            mine = self.drops.setdefault(reason, {})
            for task, count in tasks.items():
                mine[task] = mine.get(task, 0) + count
            self.examples[reason] = (self.examples.get(reason, []) + other.examples[reason])[:MAX_EXAMPLES]
        for part, counts in other.known.items():
            mine_of_part = self.known.get(part, [0, 0])
            self.known[part] = [mine_of_part[0] + counts[0], mine_of_part[1] + counts[1]]

    @property
    def num_dropped(self) -> int:
        return sum(count for tasks in self.drops.values() for count in tasks.values())

    @property
    def drop_rate(self) -> float:
        """Share of the rows that something is wrong with, of those that are wanted."""
        unwanted = sum(sum(self.drops.get(reason, {}).values()) for reason in _ASKED_FOR)
        wanted = self.num_read - unwanted
        return (self.num_dropped - unwanted) / wanted if wanted else 0.0

    def state(self) -> dict[str, Any]:
        """A copy of plain values; ``Tally(**state)`` is the way back (through ``from_state``)."""
        return {
            "num_read": self.num_read,
            "drops": {reason: dict(tasks) for reason, tasks in self.drops.items()},
            "examples": {reason: list(kept) for reason, kept in self.examples.items()},
            "known": {part: list(counts) for part, counts in self.known.items()},
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Tally":
        """A tally of its own: the state is not touched later."""
        return cls(**cls(**state).state())

    def table(self) -> str:
        """Reasons, most frequent first, with counts per task and the messages kept; then how many labels were known."""
        share = self.num_dropped / self.num_read if self.num_read else 0.0
        lines = [f"{self.num_dropped} of {self.num_read} rows dropped ({100 * share:.2f} %)"]
        for reason, tasks in sorted(self.drops.items(), key=lambda item: -sum(item[1].values())):
            per_task = ", ".join(f"{task} {count}" for task, count in sorted(tasks.items()))
            lines.append(f"  {reason}: {sum(tasks.values())} ({per_task})")
            lines += [f"    {message}" for message in self.examples[reason]]
        if self.known:
            counts = ", ".join(f"{part} {known} of {known + unknown}" for part, (known, unknown) in self.known.items())
            lines.append(f"  known in think blocks: {counts}")
        return "\n".join(lines)
