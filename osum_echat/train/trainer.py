"""The training loop: fetch, forward, backward, step, log, evaluate, save, stop, resume.

One optimizer step takes `accum_steps` micro-batches on every rank and divides the summed losses once by the global counts, so that the
result does not depend on how utterances are spread over micro-batches and ranks. Everything random inside a step is seeded from
(seed, step, rank): there is no generator state to save, and a resumed run repeats an uninterrupted one exactly.
Left out: anything that depends on the kind of parallelism (engine.py) or of model (objective.py).
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from rich.console import Console
from torch import nn

from osum_echat.config import AnyRun
from osum_echat.data.tally import Tally
from osum_echat.errors import CheckpointError, DataError, UserError
from osum_echat.train.checkpoint import RunDir, load_file, load_weights, weights_on_cpu
from osum_echat.train.engine import Engine
from osum_echat.train.evaluation import describe_score, evaluate
from osum_echat.train.metrics import MetricsWriter, hash_keys, peak_memory_bytes, read_metrics
from osum_echat.train.objective import Objective, TrainBatch
from osum_echat.train.optim import make_optimizer
from osum_echat.train.progress import StatusLine
from osum_echat.train.stop import StopRequest

GIGABYTE = 1e9


class Loader(Protocol):
    """Batches of one epoch for this rank (osum_echat.data.pipeline.Loader); `state_dict` is the position after the last one handed out."""

    @property
    def tally(self) -> Tally: ...

    def __iter__(self) -> Iterator[Any]: ...

    def state_dict(self) -> dict[str, Any]: ...


LoaderFactory = Callable[[str, int, dict[str, Any] | None], Loader]
"""(split "train" or "dev", epoch, position or None) -> loader"""


class RunResult(NamedTuple):
    """How a run ended: at which step, and whether at its end (or by a signal)."""

    step: int
    finished: bool


@dataclass
class Position:
    """Where training stands; `loader` is None at the start of an epoch."""

    step: int = 0
    epoch: int = 0
    epoch_start: int = 0
    batches: int = 0  # of this epoch, over all ranks
    tokens: int = 0
    loader: dict[str, Any] | None = None


class Fetched(NamedTuple):
    """Micro-batches of this rank for one step, with counts over all ranks."""

    batches: list[TrainBatch]
    num_supervised: int
    num_ctc: int
    num_batches: int
    num_tokens: int
    keys: int
    stop: int
    abort: int


@dataclass
class Meter:
    """Sums since the last log line."""

    begin: float = field(default_factory=time.monotonic)
    loss: float = 0.0
    steps: int = 0
    tokens: int = 0
    wait: float = 0.0


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make dropout a function of (seed, step, rank)."""
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "big") >> 1)


class Trainer:
    """Trains one model in one run directory."""

    def __init__(
        self, model: nn.Module, cfg: AnyRun, loader_factory: LoaderFactory, engine: Engine, run_dir: RunDir, objective: Objective,
        console: Console | None = None,
    ) -> None:  # fmt: skip
        self.model, self.cfg, self.train = model, cfg, cfg.train
        self.loaders, self.engine, self.run_dir, self.objective = loader_factory, engine, run_dir, objective
        self.console = console if engine.is_main else None
        engine.prepare(model)
        self.optimizer = make_optimizer(model, cfg.train, engine)
        self.position = Position()
        self.dev: tuple[int, float] | None = None  # (step, loss) of the last evaluation
        self.saved = -1  # step of the last checkpoint
        self.meter = Meter()
        self.failure: UserError | None = None  # of the data; raised when what is trained so far is saved

    # ---- start and resume

    def resume(self) -> int | None:
        """Go on from the newest complete checkpoint of the run directory, if there is one; returns its step."""
        step = self.run_dir.resumable()
        if step is None:
            return None
        path = self.run_dir.trainer_state(step)
        state = load_file(path)
        if state["world"] != self.engine.world:
            raise CheckpointError(
                f"{path} was saved by {state['world']} processes, now there are {self.engine.world}: each keeps its own data position. "
                f"Resume with {state['world']}, or start a new --dir with --init {self.run_dir.weights(step)}."
            )
        load_weights(self.model, self.run_dir.weights(step))
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise CheckpointError(
                f"{path}: the optimizer does not fit train.trainable and train.optim as they are now ({error}). "
                f"Start a new --dir with --init {self.run_dir.weights(step)}."
            ) from None
        self.position = Position(**state["positions"][self.engine.rank])
        self.saved = step
        return step

    def run(self) -> RunResult:
        """Train to the end or to a signal."""
        begin = self.position.step
        epoch = self.position.epoch + self._done()  # the report of an epoch that goes on now is written again
        writer = MetricsWriter(self.run_dir.path, begin, epoch, enabled=self.engine.is_main)
        with StopRequest() as stop, StatusLine(self.console, self.train.max_steps, begin) as status:
            self.stop, self.status, self.writer = stop, status, writer
            try:
                self._catch_up()
                finished = self._done()
                while not finished and self._run_epoch():
                    finished = self._done()
                self._close_run(finished)
            finally:
                writer.close()
        if self.failure:
            raise self.failure
        return RunResult(self.position.step, finished)

    def _catch_up(self) -> None:
        """Evaluate now what a stop or a kill left out at the step resumed from."""
        step, every = self.position.step, self.train.eval_every
        rows = read_metrics(self.run_dir.path / "metrics.jsonl") if self.engine.is_main else []
        losses = [row["loss"] for row in rows if row["split"] == "dev" and row["step"] == step and row["task"] == "all"]
        known = self.engine.gather(losses)[0]
        if known:
            self.dev = (step, known[0])
        elif step and ((every and step % every == 0) or self._done()):
            self._evaluate()

    def _done(self) -> bool:
        steps, epochs = self.train.max_steps, self.train.max_epochs
        return bool((steps and self.position.step >= steps) or (epochs and self.position.epoch >= epochs))

    def _close_run(self, finished: bool) -> None:
        step = self.position.step
        if finished and step and not (self.dev and self.dev[0] == step):
            self._evaluate()
        if step and self.saved != step:
            self._save()
        if finished and self.engine.is_main and self.run_dir.weights(step).exists():
            self.run_dir.link_final(self.run_dir.weights(step).name)

    # ---- one epoch

    def _run_epoch(self) -> bool:
        """Train to the end of the epoch or of the run; False when a signal asked to stop."""
        loader = self.loaders("train", self.position.epoch, self.position.loader)
        fresh = self.position.loader is None
        batches = iter(loader)
        self.model.train()
        self.meter = Meter()
        while not self._done():
            fetched = self._fetch(batches)
            if fetched.abort:
                return False
            if not fetched.num_batches:
                if fresh and self.position.step == self.position.epoch_start:
                    raise DataError(f"epoch {self.position.epoch} has no batch: {loader.tally.table()}", "empty_epoch")
                self._end_epoch(loader)
                return True
            self._step(fetched)
            self.position.loader = loader.state_dict()
            self._periodic()
            if fetched.stop or (self.stop.asked and self.engine.world == 1):  # several ranks must agree: they stop one step later
                break
        self._report_epoch(loader, "so far")
        return self._done()

    def _fetch(self, batches: Iterator[TrainBatch]) -> Fetched:
        begin = time.monotonic()
        micro: list[TrainBatch] = []
        abort = 0
        try:
            micro.extend(itertools.islice(batches, self.train.accum_steps))
        except UserError as error:
            abort, self.failure = 1, error
        except RuntimeError:
            if not self.stop.asked:
                raise
            abort = 1  # the signal also ended a reader process: stop at the last finished step
        self.meter.wait += time.monotonic() - begin
        counts = (
            sum(batch.num_supervised for batch in micro),
            sum(batch.num_ctc for batch in micro),
            len(micro),
            sum(batch.num_positions for batch in micro),
            sum(hash_keys(batch.keys) for batch in micro),
            int(self.stop.asked),
            abort,
        )
        return Fetched(micro, *self.engine.sum_counts(counts))

    def _report_epoch(self, loader: Loader, state_of_it: str) -> int:
        """What was read and dropped, for the log and metrics.jsonl; returns the steps of the epoch."""
        position = self.position
        steps = position.step - position.epoch_start
        tally = Tally()
        for state in self.engine.gather(loader.tally.state()):
            tally.merge(Tally.from_state(state))
        row = {"step": position.step, "split": "epoch", "epoch": position.epoch, "steps": steps, "read": tally.num_read}
        fill = position.tokens / (position.batches * self.train.max_tokens)
        self.writer.row({**row, "drops": tally.drops, "known": tally.known, "batches": position.batches, "fill": round(fill, 4)})
        self.status.log(f"epoch {position.epoch} {state_of_it}: {steps} steps, batches {fill:.1%} full; {tally.table()}")
        return steps

    def _end_epoch(self, loader: Loader) -> None:
        position = self.position
        steps = self._report_epoch(loader, "done")
        self.position = Position(position.step, position.epoch + 1, position.step)
        if self.train.max_epochs:
            total = position.step + steps * (self.train.max_epochs - position.epoch - 1)
            self.status.set_total(min(total, self.train.max_steps or total))
        if self.train.eval_every is None:
            self._evaluate()
        if self.train.save_every is None:
            self._save()

    # ---- one step

    def _step(self, fetched: Fetched) -> None:
        step, engine = self.position.step + 1, self.engine
        seed_step(self.cfg.seed, step, engine.rank)
        engine.buffer().zero()
        sums = torch.zeros(1 + len(self.objective.names), device=engine.device)
        per_batch = []
        for batch in fetched.batches:
            with engine.autocast():
                losses = self.objective.losses(self.model, batch.to(engine.device))
            loss = losses.ce / max(1, fetched.num_supervised) + self.objective.ctc_weight * losses.ctc / max(1, fetched.num_ctc)
            if loss.requires_grad:  # not so when everything this batch uses is frozen
                loss.backward()
            per_batch.append(torch.stack([losses.ce.detach(), losses.ctc.detach(), *losses.parts]).float())
            sums = sums + per_batch[-1]
        engine.sync_gradients()
        norm = engine.buffer().clip(self.train.clip)
        # the one wait for the device
        ce_sum, ctc_sum, *part_sums, grad_norm = torch.cat([engine.sum_tensor(sums), norm[None]]).tolist()
        if not math.isfinite(ce_sum + ctc_sum + grad_norm):
            self._refuse(step, fetched, per_batch)
        learning_rate = self.train.optim.lr * self.optimizer.step(step)
        ce, *parts = (value / max(1, fetched.num_supervised) for value in (ce_sum, *part_sums))
        ctc = ctc_sum / max(1, fetched.num_ctc)
        row = {"step": step, "split": "train", "epoch": self.position.epoch, "loss": ce + self.objective.ctc_weight * ctc}
        row |= dict(zip(self.objective.names, (ce, *parts), strict=True))
        row |= {"ctc": ctc} if fetched.num_ctc else {}
        row |= {"grad_norm": grad_norm, "lr": learning_rate}
        row |= {"tokens": fetched.num_tokens, "supervised": fetched.num_supervised}
        self.position.step = step
        self.position.batches += fetched.num_batches
        self.position.tokens += fetched.num_tokens
        self._log(row | {"keys": fetched.keys}, fetched)

    def _refuse(self, step: int, fetched: Fetched, per_batch: list[torch.Tensor]) -> None:
        """Write the offending micro-batches of this rank to a file and stop the run."""
        bad = [b for b, sums in zip(fetched.batches, per_batch, strict=True) if not bool(torch.isfinite(sums).all())]
        what = "loss" if any(self.engine.gather(bool(bad))) else "gradient"
        dump = bad if what == "loss" else fetched.batches
        keys = [key for batch in dump for key in batch.keys]
        path = self.run_dir.path / f"bad_batch_rank{self.engine.rank}.pt"
        if dump:
            torch.save({"step": step, "keys": keys, "batches": [batch.__dict__ for batch in dump]}, path)
        every = [(rank, some) for rank, some in enumerate(self.engine.gather(keys)) if some]
        shown = "; ".join(f"rank {rank}: {', '.join(some[:8])}{' ...' if len(some) > 8 else ''}" for rank, some in every)
        raise DataError(
            f"the {what} of step {step} is not finite; the weights were not changed by it. Utterances: {shown}. "
            f"Their batch is in {self.run_dir.path}/bad_batch_rank*.pt. Check them with `osum-echat doctor`, or lower train.optim.lr.",
            "non_finite",
        )

    def _log(self, row: dict[str, Any], fetched: Fetched) -> None:
        meter, step = self.meter, self.position.step
        meter.loss, meter.steps, meter.tokens = meter.loss + row["loss"], meter.steps + 1, meter.tokens + fetched.num_tokens
        due = step % self.train.log_every == 0
        if self.train.log_keys:
            row["key_list"] = sorted(itertools.chain(*self.engine.gather([key for batch in fetched.batches for key in batch.keys])))
        text = ""
        if due:
            seconds = max(1e-9, time.monotonic() - meter.begin)
            speed = {"tokens_per_second": round(meter.tokens / seconds, 1), "data_wait": round(meter.wait / seconds, 4)}
            memory = peak_memory_bytes(self.engine.device) / GIGABYTE
            row |= speed | {"seconds": round(seconds / meter.steps, 4), "peak_memory_gb": round(memory, 3)}
            text = f"loss {meter.loss / meter.steps:.4f}, lr {row['lr']:.3g}, {speed['tokens_per_second']:.0f} tokens/s, "
            text += f"data wait {speed['data_wait']:.1%}, peak memory {memory:.1f} GB"
            self.status.log(text, step)
            self.writer.scalars(row)
            self.meter = Meter()
        self.writer.row(row)
        self.status.advance(step, text)

    # ---- what happens between steps

    def _periodic(self) -> None:
        step = self.position.step
        if self.train.eval_every and step % self.train.eval_every == 0 and not self.stop.asked:
            self._evaluate()
        if self.train.save_every and step % self.train.save_every == 0:
            self._save()

    def _evaluate(self) -> None:
        if not self.cfg.data.dev:
            return
        begin, step = time.monotonic(), self.position.step
        scores = evaluate(self.model, self.objective, iter(self.loaders("dev", 0, None)), self.engine)
        for task, score in scores.items():
            row = {"step": step, "split": "dev", "task": task, **score}
            self.writer.row(row)
            self.writer.scalars(row)
        total = scores.get("all")
        if total is None:
            raise DataError("data.dev gave no batch: every utterance was dropped", "empty_dev")
        self.dev = (step, total["loss"])
        what = "dev loss (token accuracy)" if "accuracy" in total else "dev loss"
        tasks = ", ".join(f"{task} {describe_score(score)}" for task, score in scores.items())
        self.status.log(f"step {step}: {what}: {tasks}; {time.monotonic() - begin:.0f} s")
        self.meter = Meter()

    def _save(self) -> None:
        position = self.position
        positions = self.engine.gather(asdict(position))
        self.saved = position.step
        if not self.engine.is_main:
            return
        side: dict[str, Any] = {"step": position.step, "epoch": position.epoch, "init": self.train.init, "seed": self.cfg.seed}
        if self.dev and self.dev[0] == position.step:
            side["dev_loss"] = self.dev[1]
        state = {"world": self.engine.world, "positions": positions, "optimizer": self.optimizer.state_dict()}
        self.run_dir.save(position.step, weights_on_cpu(self.model), side, state, self.train.keep_last)
        self.status.log(f"step {position.step}: saved {self.run_dir.weights(position.step)}")
        self.meter = Meter()
