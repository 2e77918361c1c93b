"""Lists to batches: an epoch is dealt to ranks and readers, read in windows, packed, and can be resumed after any batch.

A *reader* is one DataLoader worker (or this process, with num_workers 0). It fills a window of utterances, packs the window into batches
and hands them out in shuffled order. All of its state is where its window starts and how many batches of it are out: a resumed reader reads
that window again, skips as many batches and goes on, so nothing large is saved. Readers take turns strictly; one that has finished keeps
answering with empty items, because torch's own handling of exhausted workers depends on timing. Left out: changing the number of ranks or
readers within an epoch.
"""

import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from osum_echat.config import DataConfig, SourceConfig
from osum_echat.data.source import Drop, Mixture, Row, generator
from osum_echat.data.steps import Encoder, Example, Limits, Measured, Preparer, as_utterance
from osum_echat.data.tally import Tally
from osum_echat.errors import DataError
from osum_echat.processes import clean_context

logger = logging.getLogger(__name__)

MAX_WINDOW_SECONDS = 7200.0  # a window of long recordings ends early: its log-mels are held in memory (230 MB at 80 bins)
_EARLY_ROWS, _EARLY_RATE = 1000, 0.5  # a run that loses half of its first rows stops at once, not after an epoch


@dataclass(frozen=True)
class Position:
    """Where a reader stands: the start of its window (unit of its share, row in it) and the batches already out."""

    unit: int = 0
    row: int = 0
    window: int = 0
    emitted: int = 0
    done: bool = False
    tally: dict[str, Any] = field(default_factory=lambda: Tally().state())


@dataclass(frozen=True)
class Item:
    """What a reader hands out: a batch (None at its end), the position behind it, and its counts so far."""

    batch: Any
    position: Position
    tally: dict[str, Any]


@dataclass(frozen=True)
class Share:
    """Which part of an epoch this rank reads, with how many readers."""

    rank: int
    world: int
    num_readers: int


class Pipeline(IterableDataset[Item]):
    """The readers of one rank; ``positions`` are by reader and ``first`` is the reader whose turn it is."""

    def __init__(self, mixture: Mixture, prepare: Preparer, share: Share, positions: Sequence[Position], first: int) -> None:
        self.mixture = mixture
        self.prepare = prepare
        self.share = share
        self.positions = list(positions)
        self.first = first

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        # torch always asks its worker 0 first; after a resume that one plays the reader whose turn it is.
        reader = ((worker.id if worker else 0) + self.first) % self.share.num_readers
        position = self.positions[reader]
        if not position.done:
            for item in self._read(reader, position):
                yield item
                position = item.position
        while True:
            yield Item(None, position, position.tally)

    def _read(self, reader: int, start: Position) -> Iterator[Item]:
        tally = Tally.from_state(start.tally)
        rows = _Rows(self.mixture, self.prepare, self._plan(reader), start)
        window, skip = start.window, start.emitted
        while True:
            unit, row, before = rows.unit, rows.row, tally.state()
            examples = self._fill(rows, tally)
            after = tally.state()
            if not examples:
                yield Item(None, Position(rows.unit, rows.row, window, 0, True, after), after)
                return
            bins = self._bins(examples, reader, window)
            for number in range(skip, len(bins)):
                inside = Position(unit, row, window, number + 1, False, before)
                behind = Position(rows.unit, rows.row, window + 1, 0, False, after)
                chosen = [examples[i] for i in bins[number]]
                yield Item(self.prepare.encoder.collate(chosen), behind if number + 1 == len(bins) else inside, after)
            window, skip = window + 1, 0

    def _plan(self, reader: int) -> np.ndarray:
        plan = self.mixture.plan(self.prepare.seed, self.prepare.epoch, shuffle=self.prepare.train)
        return plan[self.share.rank * self.share.num_readers + reader :: self.share.world * self.share.num_readers]

    def _fill(self, rows: "_Rows", tally: Tally) -> list[Measured]:
        """The next window: up to ``data.window`` utterances that survive the list."""
        examples: list[Measured] = []
        seconds = 0.0
        for result, copy in rows:
            tally.num_read += 1
            prepared = as_utterance(result, self.prepare, copy)
            if isinstance(prepared, Drop):
                tally.add(prepared)
            else:
                examples.append(prepared)
                if isinstance(prepared, Example):
                    tally.add_known(prepared.sequences[0].known)
                seconds += prepared.seconds
            if len(examples) == self.prepare.data.window or seconds >= MAX_WINDOW_SECONDS:
                break
        return examples

    def _bins(self, examples: list[Measured], reader: int, window: int) -> list[list[int]]:
        bins = self.prepare.encoder.pack(examples, self.prepare.limits)
        if not self.prepare.train:
            return bins
        shuffled = generator("bins", self.prepare.seed, self.prepare.epoch, self.share.rank, reader, window).permutation(len(bins))
        return [bins[i] for i in shuffled]


class _Rows:
    """Rows of a reader's units with their copy number; (unit, row) always is the position of the next one."""

    def __init__(self, mixture: Mixture, prepare: Preparer, plan: np.ndarray, start: Position) -> None:
        self.unit, self.row = start.unit, start.row
        self._iterator = self._iterate(mixture, prepare, plan)

    def __iter__(self) -> Iterator[tuple[Row, int]]:
        return self._iterator

    def _iterate(self, mixture: Mixture, prepare: Preparer, plan: np.ndarray) -> Iterator[tuple[Row, int]]:
        while self.unit < len(plan):
            unit = mixture.unit(*map(int, plan[self.unit]))
            for row in mixture.read(unit, prepare.seed, prepare.epoch, skip=self.row):
                self.row += 1
                if row is not None:
                    yield row, unit.copy
            self.unit, self.row = self.unit + 1, 0


class Loader:
    """Batches of one epoch for one rank. Make it with ``make_loader``.

    ``state_dict()`` is the position behind the last batch that was handed out; ``drops`` is reason → task → count, ``tally.table()`` prints
    it. At the end of the epoch a share of drops above ``data.max_drop`` is a ``DataError``.
    """

    def __init__(self, mixture: Mixture, prepare: Preparer, share: Share, num_workers: int, state: dict[str, Any] | None) -> None:
        self._mixture = mixture
        self._prepare = prepare
        self._share = share
        self._num_workers = num_workers
        self._positions = [Position()] * share.num_readers
        self._next = 0
        self._num_batches = 0
        if state is not None:
            self._load_state(state)
        self._tallies = [position.tally for position in self._positions]

    def __iter__(self) -> Iterator[Any]:
        items = self._items()
        try:
            while not all(position.done for position in self._positions):
                item = _next_item(items)
                self._positions[self._next] = item.position
                self._tallies[self._next] = item.tally
                self._next = (self._next + 1) % self._share.num_readers
                self._check_early()
                if item.batch is not None:
                    self._num_batches += 1
                    yield item.batch
        finally:
            del items  # ends the readers now, not when the garbage is collected
        self._check_drops(self._prepare.data.max_drop)

    def _items(self) -> Iterator[Item]:
        pipeline = Pipeline(self._mixture, self._prepare, self._share, self._positions, self._next)
        if not self._num_workers:
            return iter(DataLoader(pipeline, batch_size=None))
        context, start = clean_context(), partial(_start_worker, os.getpid())
        return iter(
            DataLoader(pipeline, batch_size=None, num_workers=self._num_workers, worker_init_fn=start, multiprocessing_context=context)
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain values: small, and loadable with ``weights_only=True``."""
        return {
            "signature": self._signature(),
            "packing": self._packing(),
            "next": self._next,
            "num_batches": self._num_batches,
            "readers": [asdict(position) for position in self._positions],
        }

    @property
    def num_batches(self) -> int:
        """Batches handed out in this epoch, those before a resume included."""
        return self._num_batches

    @property
    def tally(self) -> Tally:
        """Counts of all readers of this rank."""
        total = Tally()
        for state in self._tallies:
            total.merge(Tally.from_state(state))
        return total

    @property
    def drops(self) -> dict[str, dict[str, int]]:
        """Dropped utterances: reason → task → count."""
        return self.tally.drops

    def _signature(self) -> dict[str, int]:
        """What must not change within an epoch."""
        where = {"seed": self._prepare.seed, "epoch": self._prepare.epoch, "num_units": self._mixture.num_units}
        return {**asdict(self._share), **where}

    def _packing(self) -> list[float | None]:
        """What decides which batches a window becomes."""
        return [self._prepare.data.window, self._prepare.limits.max_tokens, self._prepare.limits.max_seconds]

    def _load_state(self, state: dict[str, Any]) -> None:
        here = self._signature()
        for name, value in here.items():
            saved = state["signature"].get(name)
            if saved != value:
                raise DataError(
                    f"cannot resume in the middle of this epoch: {name} was {saved} when the position was saved and is {value} now; "
                    "use the old value until the epoch ends, or start the next epoch",
                    "bad_resume",
                )
        readers = [Position(**reader) for reader in state["readers"]]
        if state["packing"] != self._packing():
            logger.warning("window or budget changed from %s to %s: open windows are read again", state["packing"], self._packing())
            readers = [Position(**{**asdict(reader), "emitted": 0}) for reader in readers]
        self._positions = readers
        self._next = int(state["next"])
        self._num_batches = int(state["num_batches"])

    def _check_early(self) -> None:
        if sum(state["num_read"] for state in self._tallies) >= _EARLY_ROWS:
            self._check_drops(max(self._prepare.data.max_drop, _EARLY_RATE))

    def _check_drops(self, max_drop: float) -> None:
        tally = self.tally
        if tally.drop_rate > max_drop:
            raise DataError(f"more rows were dropped than data.max_drop {self._prepare.data.max_drop} allows: {tally.table()}", "max_drop")


def make_loader(
    sources: Sequence[SourceConfig],
    data: DataConfig,
    encoder: Encoder,
    *,
    max_tokens: int,
    seed: int,
    epoch: int,
    max_batch_seconds: float | None = None,
    rank: int = 0,
    world: int = 1,
    train: bool = True,
    state: dict[str, Any] | None = None,
) -> Loader:
    """Opens the lists (errors in them are raised here) and returns the batches of one epoch; ``state`` resumes.

    Without ``train`` nothing is shuffled, converted or augmented and every instruction has its first wording.
    """
    prepare = Preparer(data, encoder, Limits(max_tokens, max_batch_seconds), seed, epoch, train)
    share = Share(rank, world, max(1, data.num_workers))
    return Loader(Mixture(sources), prepare, share, data.num_workers, state)


def _next_item(items: Iterator[Item]) -> Item:
    """The next item. An error loses torch's frames: they would keep the readers alive; the message holds the reader's own traceback."""
    try:
        return next(items)
    except Exception as error:
        raise error.with_traceback(None) from None


def _start_worker(parent: int, _worker: int) -> None:
    """When all are told to end, the trainer wants batches until its step is done and saved.

    So a reader, which starts with both signals blocked, heeds SIGTERM only from its parent, and otherwise ends when its loader lets go of
    it or the parent is gone.
    """
    threading.Thread(target=_heed_parent, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _heed_parent(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)
