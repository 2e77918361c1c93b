"""An epoch is complete, without repetition over ranks and workers, and goes on exactly where it was stopped."""

import io
import json
import logging
import multiprocessing
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from osum_echat.config import AugmentConfig, ConvertConfig, DataConfig, SourceConfig, TokenizerConfig
from osum_echat.data.batch import Batch
from osum_echat.data.pipeline import Loader, make_loader
from osum_echat.data.shards import ShardOptions, make_shards
from osum_echat.data.source import read_raw_list
from osum_echat.data.steps import SequenceEncoder
from osum_echat.errors import ConfigError, DataError

NUM = 40
Rows = list[dict[str, object]]
Make = Callable[..., Loader]


@pytest.fixture
def rows(tmp_path: Path, make_rows: Callable[..., Rows]) -> Rows:
    return make_rows(tmp_path / "wav", NUM)


@pytest.fixture
def loader(
    tmp_path: Path, rows: Rows, encoder: SequenceEncoder, data_config: Callable[..., DataConfig], write_list: Callable[..., Path]
) -> Make:
    raw = write_list(tmp_path / "raw.list", rows)
    make_shards(read_raw_list(raw), tmp_path / "shards", tmp_path / "shards.list", ShardOptions(num_per_shard=3))
    lists = {"raw": raw, "shard": tmp_path / "shards.list"}

    def make(kind: str = "raw", sources: list[SourceConfig] | None = None, **changes: Any) -> Loader:
        names = ("max_tokens", "max_batch_seconds", "seed", "epoch", "rank", "world", "train", "state")
        given = {"max_tokens": 150, "seed": 5, "epoch": 1} | {name: changes.pop(name) for name in names if name in changes}
        sources = sources or [SourceConfig(kind=kind, list=str(lists[kind]))]
        return make_loader(sources, data_config(**changes), encoder, **given)

    return make


def keys(batches: Iterable[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def assert_equal(left: list[Batch], right: list[Batch]) -> None:
    assert [batch.keys for batch in left] == [batch.keys for batch in right]
    for one, other in zip(left, right, strict=True):
        for name, value in vars(one).items():
            same = torch.equal(value, getattr(other, name)) if isinstance(value, torch.Tensor) else value == getattr(other, name)
            assert same, name


@pytest.mark.parametrize("kind", ["raw", "shard"])
@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_and_workers_share_the_epoch(loader: Make, kind: str, num_workers: int, world: int) -> None:
    shares = [keys(loader(kind, rank=rank, world=world, num_workers=num_workers)) for rank in range(world)]
    assert sorted(key for share in shares for key in share) == [f"utt{i:03d}" for i in range(NUM)]


def test_epochs_differ_and_repeat_by_seed(loader: Make) -> None:
    first = list(loader())
    assert_equal(first, list(loader()))
    assert keys(first) != keys(loader(epoch=2)) and keys(first) != keys(loader(seed=6))
    assert keys(loader(train=False, max_tokens=1000, window=40)) == keys(loader(train=False, max_tokens=1000, window=40, seed=9, epoch=3))


AUGMENT = AugmentConfig(speed=[0.9, 1.1], noise_snr_db=(5.0, 9.0), spec_time_masks=1)


@pytest.mark.parametrize("kind", ["raw", "shard"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_after_any_batch_gives_the_same_rest(loader: Make, kind: str, num_workers: int) -> None:
    convert = [ConvertConfig(from_="asr_emotion", to="asr", rate=0.5)]
    options: dict[str, Any] = {"kind": kind, "num_workers": num_workers, "augment": AUGMENT, "convert": convert, "window": 7}
    whole = list(loader(**options))
    assert len(whole) > 10
    points = range(len(whole) + 1) if num_workers == 0 else (0, 1, 2, 3, 5, len(whole) - 2, len(whole) - 1, len(whole))
    for stop in points:
        first = loader(**options)
        batches = iter(first)
        done = [next(batches) for _ in range(stop)]
        state = json.loads(json.dumps(first.state_dict()))
        batches.close()  # type: ignore[attr-defined]
        second = loader(**options, state=state)
        rest = list(second)
        assert_equal(done + rest, whole)
        assert second.num_batches == len(whole) and second.tally.num_read == NUM


def test_the_state_is_small_and_loads_without_pickle(loader: Make) -> None:
    one = loader(num_workers=2)
    next(iter(one))
    buffer = io.BytesIO()
    torch.save(one.state_dict(), buffer)
    assert buffer.tell() < 4000
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True) == one.state_dict()


def test_resume_after_a_second_resume(loader: Make) -> None:
    whole = list(loader(num_workers=2))
    state, done = None, []
    for _ in range(len(whole)):
        one = loader(num_workers=2, state=state)
        done.append(next(iter(one)))
        state = one.state_dict()
    assert_equal(done, whole)
    assert list(loader(num_workers=2, state=state)) == []


@pytest.mark.parametrize(("change", "name"), [({"num_workers": 2}, "num_readers"), ({"world": 2}, "world"), ({"epoch": 4}, "epoch")])
def test_resume_refuses_another_split(loader: Make, change: dict[str, int], name: str) -> None:
    state = loader().state_dict()
    with pytest.raises(DataError, match=f"{name} was .* when the position was saved"):
        loader(**change, state=state)


def test_resume_with_another_budget_reads_the_window_again(loader: Make, caplog: pytest.LogCaptureFixture) -> None:
    one = loader(window=20)
    batches = iter(one)
    first_keys = list(next(batches).keys)
    state = one.state_dict()
    with caplog.at_level(logging.WARNING):
        rest = keys(loader(window=20, max_tokens=200, state=state))
    assert "window or budget changed" in caplog.text
    assert sorted(rest) == [f"utt{i:03d}" for i in range(NUM)] and set(first_keys) <= set(rest)


def test_weights_and_tasks_of_sources(loader: Make, tmp_path: Path) -> None:
    path = str(tmp_path / "raw.list")
    sources = [SourceConfig(list=path, weight=2.0), SourceConfig(list=path, weight=0.5, task="emotion")]
    batches = list(loader(sources=sources, num_workers=2))
    tasks = Counter(task for batch in batches for task in batch.tasks)
    assert tasks["asr_emotion"] == 2 * NUM and 8 < tasks["emotion"] < 32


def test_budgets_hold(loader: Make) -> None:
    batches = list(loader(max_batch_seconds=3.0, window=40))
    assert max(len(batch.ids_T) for batch in batches) <= 150 and max(batch.num_audio_seconds for batch in batches) <= 3.0
    assert len(batches) > len(list(loader(window=40)))


def test_batches_are_full(loader: Make) -> None:
    one = loader(window=40, max_tokens=400)
    batches = list(one)
    assert sum(len(batch.keys) for batch in batches) == NUM and one.num_batches == len(batches)
    assert sum(batch.num_positions for batch in batches) > 0.75 * 400 * len(batches)


def _spoil(rows: Rows, tmp_path: Path) -> Rows:
    rows[1]["wav"] = "/nowhere.wav"
    (tmp_path / "broken.wav").write_bytes(b"RIFFxxxx")
    rows[2]["wav"] = str(tmp_path / "broken.wav")
    del rows[3]["emotion"]
    rows[4]["task"] = "nonsense"
    return rows


@pytest.mark.parametrize("num_workers", [0, 2])
def test_drops_are_counted_by_reason_and_task(
    loader: Make, rows: Rows, tmp_path: Path, write_list: Callable[..., Path], num_workers: int
) -> None:
    path = write_list(tmp_path / "spoilt.list", _spoil(rows, tmp_path))
    path.write_text(path.read_text() + '{"key": "cut\n')
    one = loader(sources=[SourceConfig(list=str(path))], num_workers=num_workers, max_drop=0.2)
    assert len(keys(one)) == NUM - 4
    assert one.drops == {
        "missing_audio": {"asr_emotion": 1},
        "corrupt_audio": {"asr_emotion": 1},
        "missing_label": {"asr_emotion": 1},
        "unknown_task": {"nonsense": 1},
        "bad_json": {"-": 1},
    }
    assert one.tally.num_read == NUM + 1
    for line in (2, 3, 4, 5, 41):
        assert f"{path}:{line}" in one.tally.table()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_too_many_drops_stop_the_epoch_with_the_table(
    loader: Make, rows: Rows, tmp_path: Path, write_list: Callable[..., Path], num_workers: int
) -> None:
    path = write_list(tmp_path / "spoilt.list", _spoil(rows, tmp_path))
    with pytest.raises(DataError, match=r"(?s)max_drop 0\.05.*4 of 40.*corrupt_audio: 1 \(asr_emotion 1\)"):
        list(loader(sources=[SourceConfig(list=str(path))], max_drop=0.05, num_workers=num_workers))


def test_a_hopeless_epoch_stops_early(loader: Make, tmp_path: Path, write_list: Callable[..., Path]) -> None:
    good = json.loads((tmp_path / "raw.list").read_text().split("\n")[0])
    bad = [{**good, "key": f"bad{i}", "wav": "/nowhere.wav"} for i in range(3000)]
    path = write_list(tmp_path / "bad.list", [{**good, "key": f"good{i}"} for i in range(300)] + bad)
    one = loader(sources=[SourceConfig(list=str(path))], window=32, max_drop=0.02)
    with pytest.raises(DataError, match="missing_audio"):
        list(one)
    assert 1000 <= one.tally.num_read < 2000


def test_a_failing_worker_says_why(loader: Make, encoder: SequenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = TokenizerConfig(kind="sentencepiece", path="/nowhere/tiny.model")  # readers load it themselves
    monkeypatch.setattr(encoder, "tokenizer_config", gone)
    with pytest.raises(ConfigError, match=r"tokenizer file .* does not exist"):
        list(loader(num_workers=2))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_outlive_the_signals_of_their_group(loader: Make, number: signal.Signals) -> None:
    batches = iter(loader(num_workers=2))
    read = [next(batches)]
    workers = multiprocessing.active_children()
    assert len(workers) == 2 and all(isinstance(worker, ForkServerProcess) for worker in workers)
    for worker in workers:
        subprocess.run(["kill", f"-{int(number)}", str(worker.pid)], check=True)
    assert len(keys([*read, *batches])) == NUM
    assert not any(worker.is_alive() for worker in workers)


def test_workers_end_when_their_parent_says_so(loader: Make) -> None:
    batches = iter(loader(num_workers=1))
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        list(batches)


def test_workers_end_with_an_abandoned_epoch(loader: Make) -> None:
    next(iter(loader(num_workers=2)))
    assert not multiprocessing.active_children()


def test_workers_use_one_thread(loader: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    real = SequenceEncoder.sequence

    def check(self: SequenceEncoder, *arguments: Any) -> Any:
        if torch.get_num_threads() != 1:
            raise RuntimeError("more than one thread")
        return real(self, *arguments)

    monkeypatch.setattr(SequenceEncoder, "sequence", check)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert len(keys(loader(num_workers=1))) == NUM
    finally:
        torch.set_num_threads(before)
