"""The training loop on a tiny fake model: exact resume, equality over ranks, stop, bad batches, log rows."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from osum_echat.errors import CheckpointError, DataError
from osum_echat.train.checkpoint import load_file
from osum_echat.train.metrics import hash_keys, read_metrics

FAKES = Path(__file__).with_name("fakes.py")
ROOT = FAKES.parents[3]
TIMED = ("tokens_per_second", "data_wait", "seconds", "peak_memory_gb")


def rows_of(folder: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in TIMED} for row in read_metrics(folder / "metrics.jsonl")]


def losses_of(folder: Path) -> list[float]:
    return [row["loss"] for row in rows_of(folder) if row["split"] == "train"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(folder: Path, *extra: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, str(FAKES), str(folder), *extra], env=environment(), stderr=subprocess.PIPE)


def wait_for_step(folder: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if any(row["step"] >= step for row in read_metrics(folder / "metrics.jsonl")):
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step}: {process.communicate()[1].decode()}")


def test_learns_and_writes_every_file(fakes, tmp_path):
    trainer = fakes.make_trainer(tmp_path, fakes.make_config(max_steps=40, keep_last=2, dtype="float32"))
    assert trainer.run() == (40, True)
    losses = losses_of(tmp_path)
    assert len(losses) == 40 and losses[-1] < 0.7 * losses[0]
    assert sorted(p.name for p in tmp_path.glob("step_*")) == [
        "step_36.pt",
        "step_36.yaml",
        "step_40.pt",
        "step_40.trainer.pt",
        "step_40.yaml",
    ]
    assert (tmp_path / "final.pt").resolve() == tmp_path / "step_40.pt"
    assert set(load_file(tmp_path / "final.pt")) == set(trainer.model.state_dict())
    assert any((tmp_path / "tensorboard").iterdir())
    dev = [row for row in rows_of(tmp_path) if row["split"] == "dev"]
    assert {row["task"] for row in dev} == {"all", "asr", "emotion"} and max(row["step"] for row in dev) == 40
    total = {row["task"]: row["tokens"] for row in dev if row["step"] == 40}
    assert total["all"] == total["asr"] + total["emotion"]


def test_step_rows_hold_loss_and_keys(fakes, tmp_path):
    fakes.make_trainer(tmp_path, fakes.make_config(max_steps=6, log_keys=True)).run()
    train = [row for row in rows_of(tmp_path) if row["split"] == "train"]
    assert [row["step"] for row in train] == [1, 2, 3, 4, 5, 6]
    assert train[1]["key_list"] == ["utt2", "utt3"] and train[1]["keys"] == hash_keys(["utt3", "utt2"])
    assert [row["epoch"] for row in train] == [0, 0, 0, 0, 0, 1]
    assert [row["lr"] for row in train[:3]] == pytest.approx([0.02 / 3, 0.04 / 3, 0.02])
    epoch = [row for row in rows_of(tmp_path) if row["split"] == "epoch"]
    assert epoch[0]["drops"] == {"too_long": {"asr": 1}} and epoch[0]["steps"] == 5


def test_a_run_that_ends_inside_an_epoch_reports_its_drops(fakes, tmp_path):
    console = Console(file=StringIO(), width=200)
    trainer = fakes.make_trainer(tmp_path, fakes.make_config(max_steps=7))
    trainer.console = console
    trainer.run()
    epochs = [row for row in rows_of(tmp_path) if row["split"] == "epoch"]
    assert [(row["epoch"], row["steps"], row["drops"]) for row in epochs] == [(n, k, {"too_long": {"asr": 1}}) for n, k in ((0, 5), (1, 2))]
    text = console.file.getvalue()
    assert "epoch 0 done" in text and "epoch 1 so far: 2 steps" in text and text.count("key x: too long") == 2


def test_accumulation_equals_one_large_batch(fakes, tmp_path):
    """Losses are divided by the counts of the whole step, not of each micro-batch."""
    fakes.make_trainer(tmp_path / "a", fakes.make_config(max_steps=1, accum_steps=3), dropout=0.0).run()
    torch.manual_seed(777)
    model = fakes.FakeModel(0.0)
    batches = [fakes.make_batch(i, 0) for i in range(3)]
    total = sum(fakes.FakeObjective().losses(model, batch).ce for batch in batches) / sum(batch.num_supervised for batch in batches)
    assert losses_of(tmp_path / "a")[0] == pytest.approx(float(total.detach()), rel=1e-6)
    total.backward()
    norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in model.parameters()]))
    assert rows_of(tmp_path / "a")[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-5)


@pytest.mark.parametrize("muon", [None, {"prefixes": ["encoder"]}], ids=["adamw", "muon"])
def test_resume_in_process_is_exact_at_every_step(fakes, tmp_path, muon):
    config = fakes.make_config(max_epochs=2, max_steps=None, optim={"lr": 0.02, "muon": muon})
    fakes.make_trainer(tmp_path / "whole", config).run()
    for stop_at in (1, 5, 7):
        folder = tmp_path / f"parts{stop_at}"
        trainer = fakes.make_trainer(folder, config)
        old = trainer._periodic

        def stop_then(trainer=trainer, old=old, stop_at=stop_at):
            trainer.stop.asked |= trainer.position.step >= stop_at
            old()

        trainer._periodic = stop_then
        assert trainer.run() == (stop_at, False)
        resumed = fakes.make_trainer(folder, config)
        assert resumed.resume() == stop_at
        assert resumed.run().finished
        assert rows_of(folder) == rows_of(tmp_path / "whole")
        for key, value in load_file(tmp_path / "whole/final.pt").items():
            assert torch.equal(value, load_file(folder / "final.pt")[key]), key


@pytest.mark.parametrize("eval_every", [None, 5])
def test_killed_between_the_end_of_an_epoch_and_the_next_checkpoint(fakes, tmp_path, eval_every):
    """The rows of the epoch's end and of its evaluation are in the file, the checkpoint is from just before: nothing stands twice."""
    config = fakes.make_config(max_steps=12, save_every=5, eval_every=eval_every)
    fakes.make_trainer(tmp_path / "whole", config).run()
    trainer = fakes.make_trainer(tmp_path / "killed", config)
    end_epoch = trainer._end_epoch

    def end_epoch_then_die(loader):
        end_epoch(loader)
        raise KeyboardInterrupt

    trainer._end_epoch = end_epoch_then_die
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert [row["split"] for row in rows_of(tmp_path / "killed")].count("epoch") == 1
    resumed = fakes.make_trainer(tmp_path / "killed", config)
    assert resumed.resume() == 5
    resumed.run()
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")


@pytest.mark.slow
def test_kill_at_random_steps_then_resume_equals_uninterrupted(fakes, tmp_path):
    train = {"max_steps": 30, "save_every": 3, "eval_every": 5}
    fakes.make_trainer(tmp_path / "whole", fakes.make_config(**train)).run()
    rng = random.Random(1)
    for step in (rng.randint(2, 12), rng.randint(13, 28)):
        process = start(tmp_path / "killed", "--train", json.dumps(train), "--wait", "0.02")
        wait_for_step(tmp_path / "killed", step, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = start(tmp_path / "killed", "--train", json.dumps(train))
    assert process.wait(60) == 0
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_says_it_did_not_finish(fakes, tmp_path, number):
    train = {"max_steps": 1000, "save_every": 500, "eval_every": 500}
    process = start(tmp_path, "--train", json.dumps(train), "--wait", "0.02")
    wait_for_step(tmp_path, 3, process)
    process.send_signal(number)
    assert process.wait(60) == 130
    step = max(row["step"] for row in rows_of(tmp_path))
    assert (tmp_path / f"step_{step}.trainer.pt").exists() and not (tmp_path / "final.pt").exists()
    trainer = fakes.make_trainer(tmp_path, fakes.make_config(max_steps=step + 1))
    assert trainer.resume() == step


@pytest.mark.slow
def test_two_ranks_equal_one_process(fakes, tmp_path):
    """9 batches an epoch: in the last step of an epoch one rank has fewer batches, then none. Each rank has one of Muon's two matrices."""
    train = {"max_steps": 14, "accum_steps": 4, "log_keys": True, "optim": {"lr": 0.02, "muon": {"prefixes": ["encoder", "llm.out"]}}}
    fakes.make_trainer(tmp_path / "one", fakes.make_config(**train), total=9, dropout=0.0).run()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(FAKES), str(tmp_path / "two")]
    extra = ["--train", json.dumps({**train, "accum_steps": 2}), "--total", "9", "--dropout", "0", "--engine", "auto"]
    done = subprocess.run([*torchrun, *extra], env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    one, two = losses_of(tmp_path / "one"), losses_of(tmp_path / "two")
    assert two == pytest.approx(one, rel=1e-5)
    keys = [[row["key_list"] for row in rows_of(tmp_path / name) if row["split"] == "train"] for name in ("one", "two")]
    assert keys[0] == keys[1]
    dev = [[row["loss"] for row in rows_of(tmp_path / name) if row["split"] == "dev"] for name in ("one", "two")]
    assert dev[1] == pytest.approx(dev[0], rel=1e-5)
    trainer = fakes.make_trainer(tmp_path / "two", fakes.make_config(**train))
    with pytest.raises(CheckpointError, match="saved by 2 processes, now there are 1"):
        trainer.resume()


def test_non_finite_loss_dumps_the_batch_and_names_the_utterance(fakes, tmp_path):
    trainer = fakes.make_trainer(tmp_path, fakes.make_config(max_steps=12, save_every=1, eval_every=100), poison=5)
    with pytest.raises(DataError, match=r"loss of step 3 is not finite.*utt5"):
        trainer.run()
    dump = load_file(tmp_path / "bad_batch_rank0.pt")
    assert dump["keys"] == ["utt5"] and torch.equal(dump["batches"][0]["ids_T"], fakes.make_batch(5, 0, True).ids_T)
    weights = load_file(tmp_path / "step_2.pt")
    assert torch.equal(weights["encoder.weight"], trainer.model.state_dict()["encoder.weight"]), "the bad step changed the weights"


def test_empty_epoch_is_an_error_not_a_loop(fakes, tmp_path):
    with pytest.raises(DataError, match="epoch 0 has no batch"):
        fakes.make_trainer(tmp_path, fakes.make_config(), total=0).run()


def test_finished_run_does_nothing_more(fakes, tmp_path):
    fakes.make_trainer(tmp_path, fakes.make_config()).run()
    before = (tmp_path / "metrics.jsonl").read_text()
    trainer = fakes.make_trainer(tmp_path, fakes.make_config())
    assert trainer.resume() == 12 and trainer.run() == (12, True)
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_longer_run_goes_on_from_the_end(fakes, tmp_path):
    fakes.make_trainer(tmp_path / "long", fakes.make_config(max_steps=20)).run()
    fakes.make_trainer(tmp_path / "short", fakes.make_config(max_steps=12)).run()
    trainer = fakes.make_trainer(tmp_path / "short", fakes.make_config(max_steps=20))
    trainer.resume()
    trainer.run()
    assert rows_of(tmp_path / "short") == rows_of(tmp_path / "long")


def test_frozen_parts_stay_and_are_not_optimised(fakes, tmp_path):
    trainer = fakes.make_trainer(tmp_path, fakes.make_config())
    model = fakes.FakeModel()
    model.encoder.requires_grad_(False)
    again = type(trainer)(model, trainer.cfg, trainer.loaders, trainer.engine, trainer.run_dir, trainer.objective)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    again.run()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"llm.embed.weight", "llm.out.weight", "llm.out.bias"}


def test_data_error_saves_what_is_trained_first(fakes, tmp_path):
    trainer = fakes.make_trainer(tmp_path, fakes.make_config(save_every=1000, max_steps=100), total=6)
    plain = trainer.loaders

    class Failing(fakes.FakeLoader):
        def __iter__(self):
            yield from super().__iter__()
            raise DataError("more rows were dropped than data.max_drop allows", "max_drop")

    def loaders(split, epoch, state):
        return plain(split, epoch, state) if split == "dev" else Failing(6, epoch, 0, 1, state)

    trainer.loaders = loaders
    with pytest.raises(DataError, match="max_drop"):
        trainer.run()
    assert (tmp_path / "step_3.trainer.pt").exists() and not (tmp_path / "final.pt").exists()
    again = fakes.make_trainer(tmp_path, fakes.make_config(max_steps=5), total=6)
    assert again.resume() == 3 and again.run() == (5, True)
