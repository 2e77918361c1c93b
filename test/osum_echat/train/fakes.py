"""A tiny model, resumable loader and objective for tests of the trainer; as a script it is one training process to kill or to launch."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from osum_echat.config import RunConfig
from osum_echat.data.tally import Tally
from osum_echat.train.checkpoint import RunDir
from osum_echat.train.engine import choose_device, make_engine
from osum_echat.train.objective import LossSums
from osum_echat.train.trainer import Trainer

VOCAB = 11


@dataclasses.dataclass(frozen=True)
class FakeBatch:
    """Next-id prediction over a few positions."""

    ids_T: torch.Tensor
    labels_T: torch.Tensor
    keys: list[str]
    tasks: list[str]
    num_supervised: int
    num_ctc: int = 0

    @property
    def num_positions(self) -> int:
        return len(self.ids_T)

    def to(self, device: torch.device) -> FakeBatch:
        return self


def make_batch(index: int, epoch: int, poison: bool = False) -> FakeBatch:
    """Batch number `index` of an epoch; sizes and contents are a function of (index, epoch)."""
    rng = torch.Generator().manual_seed(1000 * epoch + index)
    size = int(torch.randint(3, 9, (1,), generator=rng))
    ids = torch.randint(0, VOCAB, (size,), generator=rng)
    labels = (ids * 3 + 1) % VOCAB
    labels[0] = -100
    if poison:
        ids[1] = VOCAB  # the embedding row that is NaN
    return FakeBatch(ids, labels, [f"utt{index}"], ["asr" if index % 2 else "emotion"], size - 1)


class FakeLoader:
    """Every `world`-th batch of `total`, resumable."""

    def __init__(
        self, total: int, epoch: int, rank: int, world: int, state: dict[str, Any] | None, poison: int = -1, wait: float = 0.0
    ) -> None:
        self.total, self.epoch, self.rank, self.world, self.poison, self.wait = total, epoch, rank, world, poison, wait
        self.next = state["next"] if state else rank
        self.tally = Tally(num_read=total, drops={"too_long": {"asr": 1}}, examples={"too_long": ["a.list:3: key x: too long"]})

    def __iter__(self) -> Iterator[FakeBatch]:
        while self.next < self.total:
            index = self.next
            self.next += self.world
            time.sleep(self.wait)
            yield make_batch(index, self.epoch, index == self.poison)

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next}


class FakeModel(nn.Module):
    """Embedding, dropout, a part some batches do not use, output."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 8)
        self.llm = nn.ModuleDict({"embed": nn.Embedding(VOCAB + 1, 8), "out": nn.Linear(8, VOCAB)})
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: FakeBatch) -> torch.Tensor:
        hidden = self.llm["embed"](batch.ids_T)
        if batch.tasks[0] == "asr":
            hidden = hidden + self.encoder(hidden)
        return self.llm["out"](self.dropout(hidden))


class FakeObjective:
    """Cross-entropy sums."""

    ctc_weight = 0.3
    names = ("ce",)

    def losses(self, model: nn.Module, batch: FakeBatch) -> LossSums:
        ce = nn.functional.cross_entropy(model(batch), batch.labels_T, ignore_index=-100, reduction="sum")
        return LossSums(ce, ce.new_zeros(()))

    def scores(self, model: nn.Module, batch: FakeBatch) -> dict[str, torch.Tensor]:
        logits = model(batch)
        ce = nn.functional.cross_entropy(logits, batch.labels_T, ignore_index=-100, reduction="sum")
        correct = (logits.argmax(-1) == batch.labels_T).sum()
        return {batch.tasks[0]: torch.stack([ce, correct.float(), torch.tensor(float(batch.num_supervised))])}


def make_config(**train: Any) -> RunConfig:
    """A run configuration for the fake model (its model section is not used)."""
    values = {"max_steps": 12, "accum_steps": 2, "optim": {"lr": 0.02}, "schedule": {"warmup_steps": 3}, "save_every": 4, "eval_every": 4}
    return RunConfig.model_validate(
        {
            "model": {"llm": {"vocab_size": VOCAB, "width": 8, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "ffn_width": 8}},
            "tokenizer": {"kind": "hf", "path": "none"},
            "data": {"train": [{"list": "none"}], "dev": [{"list": "none"}]},
            "train": {**values, **train},
        }
    )


def make_trainer(
    folder: Any, config: RunConfig, total: int = 10, poison: int = -1, wait: float = 0.0, dropout: float = 0.1, engine: str = "single"
) -> Trainer:
    """A trainer over the fakes."""
    the_engine = make_engine(engine, choose_device("cpu"), config.train.dtype)
    torch.manual_seed(config.seed)
    model = FakeModel(dropout)
    if poison >= 0:
        model.llm["embed"].weight.data[VOCAB] = float("nan")

    def loaders(split: str, epoch: int, state: dict[str, Any] | None) -> FakeLoader:
        if split == "dev":
            return FakeLoader(4, 99, the_engine.rank, the_engine.world, None)
        return FakeLoader(total, epoch, the_engine.rank, the_engine.world, state, poison, wait)

    run = RunDir(folder)
    run.path.mkdir(parents=True, exist_ok=True)
    return Trainer(model, config, loaders, the_engine, run, FakeObjective())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--train", type=json.loads, default={})
    parser.add_argument("--wait", type=float, default=0.0)
    parser.add_argument("--total", type=int, default=10)
    parser.add_argument("--engine", default="single")
    parser.add_argument("--dropout", type=float, default=0.1)
    args = parser.parse_args()
    trainer = make_trainer(args.folder, make_config(**args.train), args.total, wait=args.wait, engine=args.engine, dropout=args.dropout)
    trainer.resume()
    result = trainer.run()
    trainer.engine.close()
    raise SystemExit(0 if result.finished else 130)


if __name__ == "__main__":
    main()
