"""Flow and vocoder through the one trainer: loss falls, exact resume, two processes, dev scores, what is dropped and refused."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from osum_echat.audio.io import write_wav
from osum_echat.bin import train
from osum_echat.config import load_run
from osum_echat.data.source import read_raw_list
from osum_echat.data.steps import Limits, Preparer
from osum_echat.errors import ConfigError
from osum_echat.token2wav.vocoder import Vocoder
from osum_echat.train.assemble import ARCHS, assemble, make_loaders, make_model
from osum_echat.train.checkpoint import RunDir, load_file, load_weights
from osum_echat.train.engine import Engine
from osum_echat.train.metrics import read_metrics
from osum_echat.train.preflight import preflight

ROOT = Path(__file__).resolve().parents[3]
TIMED = ("tokens_per_second", "data_wait", "seconds", "peak_memory_gb")
CASES = ["flow", "vocoder", "adversarial"]


def load(voice_runs, voices, case, *sets):
    judged = [f"loss.adversarial={json.dumps(voices.ADVERSARIAL)}"] if case == "adversarial" else []
    return load_run(voice_runs / ("flow.yaml" if case == "flow" else "vocoder.yaml"), [*judged, *sets])


def trainer_of(cfg, folder, resume=False):
    folder.mkdir(exist_ok=True)
    return assemble(cfg, RunDir(folder), Engine(torch.device("cpu")), Console(quiet=True), resume)


def loader_of(cfg, split="train", state=None):
    return make_loaders(cfg, Engine(torch.device("cpu")))(split, 0, state)


def rows_of(folder):
    return [{k: v for k, v in row.items() if k not in TIMED} for row in read_metrics(folder / "metrics.jsonl")]


def with_rows(cfg_path, tmp_path, voices, rows, *sets):
    path = voices.write_list(tmp_path / "rows.list", rows)
    return load_run(cfg_path, [f"data.train.0.list={path}", "data.max_drop=1", *sets])


def command(*arguments):
    return [sys.executable, "-m", "osum_echat.bin.train", *map(str, arguments)]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(("case", "steps", "part", "factor"), [("flow", 60, "loss", 0.8), ("vocoder", 40, "mel", 0.6)])
def test_the_command_trains_it(voice_runs, voices, tmp_path, monkeypatch, case, steps, part, factor):
    """The vocoder is judged by its mel: it starts near the pitch of these voices, whose error then varies from batch to batch."""
    sets = [f"train.max_steps={steps}", "train.save_every=1000", f"train.eval_every={steps // 2}", "data.num_workers=1"]
    arguments = ["--config", voice_runs / f"{case}.yaml", "--dir", tmp_path / "run", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["train", *map(str, arguments), *(word for item in sets for word in ("--set", item))])
    assert train.main() == 0
    rows = rows_of(tmp_path / "run")
    losses = [row[part] for row in rows if row["split"] == "train"]
    assert sum(losses[-8:]) < factor * sum(losses[:8]), losses
    dev = [row for row in rows if row["split"] == "dev"]
    assert {row["task"] for row in dev} == {"all", "s2s", "tts"} and "accuracy" not in dev[0]
    assert dev[-3]["loss"] < dev[0]["loss"]
    weights = load_file(tmp_path / "run/final.pt")
    if case == "vocoder":
        cfg = load_run(tmp_path / "run/train.yaml")
        vocoder = Vocoder(cfg.model, cfg.mel)
        load_weights(vocoder, tmp_path / "run/final.pt", part="vocoder.")
        assert all(torch.equal(value, weights[f"vocoder.{name}"]) for name, value in vocoder.state_dict().items())


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_resumed_equals_uninterrupted(voice_runs, voices, tmp_path, case):
    whole, first = (load(voice_runs, voices, case, f"train.max_steps={steps}") for steps in (8, 4))
    trainer_of(whole, tmp_path / "whole").run()
    trainer_of(first, tmp_path / "parts").run()
    resumed = trainer_of(whole, tmp_path / "parts", resume=True)
    preflight(resumed.model, resumed.objective, resumed.engine, ARCHS[whole.model.arch].largest_batch(whole))
    resumed.run()
    rows = rows_of(tmp_path / "whole")
    assert rows_of(tmp_path / "parts") == rows and {row["split"] for row in rows} == {"train", "dev", "epoch"}
    one, two = (load_file(tmp_path / name / "step_8.pt") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("case", CASES)
def test_the_parts_are_logged_and_the_loss_is_theirs(voice_runs, voices, tmp_path, case):
    trainer_of(load(voice_runs, voices, case, "train.max_steps=2"), tmp_path / "run").run()
    row = next(row for row in rows_of(tmp_path / "run") if row["split"] == "train")
    if case == "flow":
        assert row["total"] == row["loss"] == pytest.approx(row["velocity"] + 0.5 * row["prior"], rel=1e-5)
        assert row["supervised"] == 4 * 20 * row["tokens"]
        return
    total = 5 * row["mel"] + row["stft"] + row["f0"]
    if case == "adversarial":
        total += row["adversarial"] + 2 * row["features"] + row["judge"]
    assert row["total"] == row["loss"] == pytest.approx(total, rel=1e-5) and row["supervised"] == 3


@pytest.mark.parametrize("case", CASES)
def test_losses_of_a_batch_are_those_of_its_rows(voice_runs, voices, case):
    """So neither micro-batches nor ranks change a step: each row brings its own random numbers, and losses are sums."""
    cfg = load(voice_runs, voices, case)
    model = make_model(cfg, None, Console(quiet=True)).train()
    arch = ARCHS[cfg.model.arch]
    encoder, objective = arch.encoder(cfg), arch.objective(cfg)
    whole = next(iter(loader_of(cfg)))
    rows = {row.key: row for row in read_raw_list(cfg.data.train[0].list)}
    preparer = Preparer(cfg.data, encoder, Limits(cfg.train.max_tokens), cfg.seed, epoch=0, train=True)
    examples = [preparer.prepare(rows[key]) for key in whole.keys]
    with torch.no_grad():
        together = objective.losses(model, whole).ce
        alone = [objective.losses(model, encoder.collate([example])).ce for example in examples]
        again = objective.losses(model, encoder.collate(examples[::-1])).ce
    assert len(examples) == len(whole.keys) > 1
    torch.testing.assert_close(together, sum(alone), rtol=1e-4, atol=0)
    torch.testing.assert_close(together, again, rtol=1e-4, atol=0)


def test_segments_change_with_the_epoch_and_stay_on_dev(voice_runs, voices):
    cfg = load(voice_runs, voices, "vocoder")
    make = make_loaders(cfg, Engine(torch.device("cpu")))

    def segments(split, epoch):
        return {key: samples for batch in make(split, epoch, None) for key, samples in zip(batch.keys, batch.samples_BS, strict=True)}

    first, again, later = segments("train", 0), segments("train", 0), segments("train", 1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert sum(torch.equal(first[key], later[key]) for key in first) < len(first) // 3
    dev, dev_again = segments("dev", 0), segments("dev", 0)
    assert dev.keys() and all(torch.equal(dev[key], dev_again[key]) for key in dev)


def test_what_a_flow_cannot_learn_is_dropped_and_named(voice_runs, voices, tmp_path):
    rows = voices.make_rows(tmp_path, 8)
    rows[0]["speech_token"][3] = 12
    rows[1]["speech_token"] = rows[1]["speech_token"][:-5]
    del rows[2]["answer_wav"]
    del rows[3]["speech_token"]
    rows[4]["wav"] = rows[4].pop("answer_wav")  # a plain corpus
    rows[5]["speaker_embedding"] = [1.0, 2.0]
    rows[6]["speaker_embedding"] = [1.0, 2.0, 3.0, 4.0]
    rows[7]["answer_wav"] = str(tmp_path / "silent.wav")
    write_wav(tmp_path / "silent.wav", np.zeros(int(len(rows[7]["speech_token"]) * 240), np.float32), 6000)
    cfg = with_rows(voice_runs / "flow.yaml", tmp_path, voices, rows)
    loader = loader_of(cfg)
    batches = list(loader)
    reasons = {"token_out_of_range": 0, "token_mel_mismatch": 1, "missing_audio": 2, "missing_speech_token": 3, "bad_speaker": 5}
    assert {reason: list(tasks.values()) for reason, tasks in loader.drops.items()} == {reason: [1] for reason in reasons}
    for reason, place in reasons.items():
        assert f"rows.list:{place + 1}: key v{place}: " in loader.tally.table(), reason
    speakers = {key: speaker.tolist() for batch in batches for key, speaker in zip(batch.keys, batch.speaker_BS, strict=True)}
    assert speakers == {"v4": [0.0] * 4, "v6": [1.0, 2.0, 3.0, 4.0], "v7": [0.0] * 4}
    model = make_model(cfg, None, Console(quiet=True))
    for batch in batches:
        loss = ARCHS["flow"].objective(cfg).losses(model, batch).ce
        loss.backward()
        assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_vocoder_takes_silence_and_scraps_and_names_what_it_cannot(voice_runs, voices, tmp_path):
    rows = voices.make_rows(tmp_path, 4)
    for row, samples in ((rows[0], np.zeros(9000)), (rows[1], voices.voice(0.15, 120))):
        write_wav(row["answer_wav"], samples.astype(np.float32), 6000)
    write_wav(rows[2]["answer_wav"], np.zeros(300, np.float32), 6000)
    rows[3]["answer_wav"] = str(tmp_path / "nowhere.wav")
    cfg = with_rows(voice_runs / "vocoder.yaml", tmp_path, voices, rows, f"loss.adversarial={json.dumps(voices.ADVERSARIAL)}")
    loader = loader_of(cfg)
    (batch,) = list(loader)
    assert sorted(batch.keys) == ["v0", "v1"] and set(loader.drops) == {"too_short", "missing_audio"}
    assert "rows.list:4: key v3" in loader.tally.table()
    model = make_model(cfg, None, Console(quiet=True)).train()
    loss = ARCHS["vocoder"].objective(cfg).losses(model, batch).ce
    loss.backward()
    assert torch.isfinite(loss) and float(loss.detach()) < 1e4
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("case", CASES)
def test_the_largest_batch_is_no_smaller_than_those_of_the_list(voice_runs, voices, case):
    cfg = load(voice_runs, voices, case, "data.filter.max_seconds=1.7")
    largest = ARCHS[cfg.model.arch].largest_batch(cfg)
    assert 0.5 * cfg.train.max_tokens < largest.num_positions <= cfg.train.max_tokens
    batches = list(loader_of(cfg))
    assert len(batches) > 2
    for batch in batches:
        assert batch.mel_BFM.numel() <= largest.mel_BFM.numel() and batch.num_supervised <= largest.num_supervised


def test_wrong_configurations_name_what_is_wrong(voice_runs):
    with pytest.raises(ConfigError, match=r"mel.hop 50 differs from model.hop 60"):
        load_run(voice_runs / "flow.yaml", ["mel.hop=50"])
    with pytest.raises(ConfigError, match=r"segment_frames 500 exceeds train.max_tokens 120"):
        load_run(voice_runs / "vocoder.yaml", ["segment_frames=500"])
    with pytest.raises(ConfigError, match=r"data.augment is not used by this model"):
        load_run(voice_runs / "flow.yaml", ["data.augment.volume_db=[-3, 3]"])
    with pytest.raises(ConfigError, match=r"segment_frame: unknown key; nearest valid key: `segment_frames`"):
        load_run(voice_runs / "vocoder.yaml", ["segment_frame=5"])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_equals_uninterrupted(voice_runs, voices, tmp_path, case):
    sets = [
        "data.num_workers=2",
        "train.max_steps=40",
        *([f"loss.adversarial={json.dumps(voices.ADVERSARIAL)}"] if case == "adversarial" else []),
    ]
    config = voice_runs / ("flow.yaml" if case == "flow" else "vocoder.yaml")
    arguments = ["--config", config, *(word for item in sets for word in ("--set", item)), "--dir"]
    subprocess.run(command(*arguments, tmp_path / "whole"), env=environment(), check=True, capture_output=True)
    step = random.Random(case).randint(5, 35)
    process = subprocess.Popen(
        command(*arguments, tmp_path / "killed"), env=environment(), stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if any(row["step"] >= step for row in read_metrics(tmp_path / "killed/metrics.jsonl")):
            break
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(command(*arguments, tmp_path / "killed"), env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["flow", "adversarial"])
def test_two_processes_equal_one_at_equal_global_batch(voice_runs, voices, tmp_path, case):
    """Two readers in one process take turns; two processes with one reader each read the same shares (a window is one batch here)."""
    sets = ["train.max_steps=6", "data.window=2", "train.save_every=100", "train.eval_every=100"]
    sets += [f"loss.adversarial={json.dumps(voices.ADVERSARIAL)}"] if case == "adversarial" else []
    common = ["--config", voice_runs / ("flow.yaml" if case == "flow" else "vocoder.yaml"), "--device", "cpu"]
    one = [*common, *(word for item in [*sets, "data.num_workers=2", "train.accum_steps=2"] for word in ("--set", item))]
    two = [*common, *(word for item in [*sets, "data.num_workers=1", "train.accum_steps=1"] for word in ("--set", item))]
    subprocess.run(command(*one, "--dir", tmp_path / "one"), env=environment(), check=True, capture_output=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "osum_echat.bin.train"]
    arguments = [*launch, *map(str, two), "--dir", str(tmp_path / "two")]
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    one_rows, two_rows = ([row for row in rows_of(tmp_path / name) if row["split"] == "train"] for name in ("one", "two"))
    assert [row["key_list"] for row in one_rows] == [row["key_list"] for row in two_rows]
    assert [row["loss"] for row in two_rows] == pytest.approx([row["loss"] for row in one_rows], rel=1e-4)
    names, pairs = (
        one_rows[0].keys(),
        zip(load_file(tmp_path / "one/final.pt").items(), load_file(tmp_path / "two/final.pt").values(), strict=True),
    )
    assert names == two_rows[0].keys()
    assert all(torch.allclose(one_value, two_value, atol=2e-4) for (_, one_value), two_value in pairs)
