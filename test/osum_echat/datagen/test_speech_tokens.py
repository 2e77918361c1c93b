"""Extraction of speech tokens: equal to the tokenizer itself, for every kind of list, resumed after kill -9, and honest about drops."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from osum_echat.audio.features import num_speech_tokens
from osum_echat.audio.io import read_audio, write_wav
from osum_echat.bin import doctor, speech_tokens
from osum_echat.bin.main import main
from osum_echat.data.shards import ShardOptions, make_shards
from osum_echat.data.source import read_raw_list
from osum_echat.datagen.speech_tokens import ExtractSettings, extract
from osum_echat.errors import DataError, UserError
from osum_echat.train.assemble import load_speech_tokenizer

ROOT = Path(__file__).resolve().parents[3]
MODEL = {
    "arch": "speech_tokenizer",
    "encoder": {"width": 16, "num_layers": 1, "num_heads": 2, "ffn_width": 16},
    "quantizer": {"codebook_size": 64, "levels": [4, 4, 4]},
    "num_layers_after": 0,
}
RUN = """
import sys
from pathlib import Path
from osum_echat.datagen.speech_tokens import ExtractSettings, extract
config, checkpoint, list, out = sys.argv[1:]
if __name__ == "__main__":
    extract(ExtractSettings(config, checkpoint, list, rows_per_chunk=2), Path(out), 2, 0.0)
"""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """(train.yaml, final.pt) of a random tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    run = {"model": MODEL, "data": {"train": [{"list": "none"}]}, "train": {"max_steps": 1}}
    (folder / "train.yaml").write_text(yaml.safe_dump(run))
    from osum_echat.config import load_run
    from osum_echat.token2wav.speech_tokenizer import build_speech_tokenizer

    torch.manual_seed(0)
    torch.save(build_speech_tokenizer(load_run(folder / "train.yaml").model).state_dict(), folder / "final.pt")
    return str(folder / "train.yaml"), str(folder / "final.pt")


def write_rows(folder, count, make_wav=lambda path: str(path), **extra):
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        rng = np.random.default_rng(number)
        path = folder / f"{number}.wav"
        write_wav(path, (0.1 * rng.standard_normal(int(rng.integers(2000, 12000)))).astype(np.float32))
        rows.append({"key": f"u{number}", "wav": make_wav(path), "txt": f"text {number}", "emotion": "happy", **extra})
    (folder / "data.list").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "data.list")


def codes_of(path):
    return {row.key: row.speech_token for row in read_raw_list(path)}


def test_tokens_are_those_of_the_model_and_rows_keep_their_fields(tokenizer, tmp_path):
    data = write_rows(tmp_path / "d", 9)
    report = extract(ExtractSettings(*tokenizer, data, rows_per_chunk=4, batch_seconds=1.0), tmp_path / "out.list", 1, 0.0)
    model = load_speech_tokenizer(*tokenizer)
    total = 0
    for before, after in zip(read_raw_list(data), read_raw_list(tmp_path / "out.list"), strict=True):
        samples = read_audio(before.wav)
        alone = tuple(model.encode_samples([torch.from_numpy(samples)])[0].tolist())
        assert after.speech_token == alone and len(alone) == num_speech_tokens(len(samples))
        assert replace(after, speech_token=None, origin="") == replace(before, origin="")
        total += len(alone)
    counts = np.bincount([c for codes in codes_of(tmp_path / "out.list").values() for c in codes], minlength=64)
    shares = counts[counts > 0] / counts.sum()
    assert (report["rows"], report["read"], report["tokens"], report["drops"]) == (9, 9, total, {})
    assert report["codebook"]["used"] == pytest.approx((counts > 0).mean(), abs=1e-4)
    assert report["codebook"]["perplexity"] == pytest.approx(np.prod(shares**-shares), abs=0.01)
    assert json.loads((tmp_path / "out.list.json").read_text()) == report
    assert not (tmp_path / "out.list.parts").exists()


def test_number_of_processes_does_not_change_the_result(tokenizer, tmp_path):
    settings = ExtractSettings(*tokenizer, write_rows(tmp_path / "d", 12), rows_per_chunk=3)
    for jobs in (1, 3):
        extract(settings, tmp_path / f"{jobs}.list", jobs, 0.0)
    assert (tmp_path / "1.list").read_bytes() == (tmp_path / "3.list").read_bytes()


def test_finished_work_is_not_repeated_but_another_checkpoint_is_noticed(tokenizer, tmp_path):
    data, out = write_rows(tmp_path / "d", 3), tmp_path / "out.list"
    settings = ExtractSettings(*tokenizer, data)
    extract(settings, out, 1, 0.0)
    stamp = out.stat().st_mtime_ns
    calls = []
    extract(settings, out, 1, 0.0, calls.append)
    assert out.stat().st_mtime_ns == stamp and not calls
    other = tmp_path / "other.pt"
    weights = torch.load(tokenizer[1])
    weights["quantizer.down.bias"] = weights["quantizer.down.bias"] + 1.0
    torch.save(weights, other)
    before = codes_of(out)
    extract(replace(settings, checkpoint=str(other)), out, 1, 0.0)
    assert codes_of(out) != before


def test_shards_and_combine_lists_give_the_tokens_of_the_raw_list(tokenizer, tmp_path):
    data = write_rows(tmp_path / "d", 7)
    extract(ExtractSettings(*tokenizer, data), tmp_path / "raw.list", 1, 0.0)
    make_shards(read_raw_list(data), tmp_path / "shards", tmp_path / "shards.list", ShardOptions(num_per_shard=3))
    report = extract(ExtractSettings(*tokenizer, str(tmp_path / "shards.list"), "shard"), tmp_path / "tar.list", 2, 0.0)
    assert codes_of(tmp_path / "tar.list") == codes_of(tmp_path / "raw.list") and report["rows"] == 7
    # The way back to the audio in the tars: labels of the new list over the old tars.
    command = [sys.executable, str(ROOT / "tools/make_combine_list.py"), tmp_path / "shards.list", tmp_path / "tar.list"]
    subprocess.run([*map(str, command), str(tmp_path / "meta"), str(tmp_path / "combine.list")], check=True, capture_output=True)
    again = extract(ExtractSettings(*tokenizer, str(tmp_path / "combine.list"), "combine"), tmp_path / "again.list", 1, 0.0)
    assert codes_of(tmp_path / "again.list") == codes_of(tmp_path / "raw.list") and again["rows"] == 7


def test_answer_wav_and_segments(tokenizer, tmp_path):
    data = write_rows(tmp_path / "d", 4)
    rows = [json.loads(line) for line in Path(data).read_text().splitlines()]
    for row, other in zip(rows, rows[::-1], strict=True):
        row.update(answer_wav=other["wav"], start=0.05, end=0.12)
    (tmp_path / "s.list").write_text("".join(json.dumps(row) + "\n" for row in rows))
    extract(ExtractSettings(*tokenizer, data), tmp_path / "whole.list", 1, 0.0)
    extract(ExtractSettings(*tokenizer, str(tmp_path / "s.list"), audio="answer_wav"), tmp_path / "answer.list", 1, 0.0)
    whole = list(codes_of(tmp_path / "whole.list").values())
    assert list(codes_of(tmp_path / "answer.list").values()) == whole[::-1], "start and end belong to wav alone"
    extract(ExtractSettings(*tokenizer, str(tmp_path / "s.list")), tmp_path / "cut.list", 1, 0.0)
    assert {len(codes) for codes in codes_of(tmp_path / "cut.list").values()} == {num_speech_tokens(1120)}


def test_bad_audio_is_a_counted_drop(tokenizer, tmp_path):
    data = write_rows(tmp_path / "d", 10)
    (tmp_path / "d" / "3.wav").write_bytes(b"no audio at all")
    (tmp_path / "d" / "4.wav").unlink()
    write_wav(tmp_path / "d" / "5.wav", np.zeros(100, dtype=np.float32))
    lines = Path(data).read_text().splitlines()
    lines[6] = "{broken"
    del lines[7]
    lines.append(json.dumps({"key": "text_only", "txt": "x"}))
    Path(data).write_text("\n".join(lines) + "\n")
    settings = ExtractSettings(*tokenizer, data, rows_per_chunk=4)
    with pytest.raises(DataError, match=r"--max_drop 0.1 allows: 5 of 10 rows"):
        extract(settings, tmp_path / "out.list", 1, 0.1)
    assert not (tmp_path / "out.list").exists()
    report = extract(settings, tmp_path / "out.list", 1, 0.6)
    counts = {reason: sum(tasks.values()) for reason, tasks in report["drops"].items()}
    assert counts == {"corrupt_audio": 1, "missing_audio": 2, "too_short": 1, "bad_json": 1}
    assert any(f"{data}:4" in message for message in report["drop_examples"]["corrupt_audio"])
    assert list(codes_of(tmp_path / "out.list")) == ["u0", "u1", "u2", "u8", "u9"]


def test_mended_audio_is_tried_again(tokenizer, tmp_path):
    data = write_rows(tmp_path / "d", 6)
    good = (tmp_path / "d" / "3.wav").read_bytes()
    (tmp_path / "d" / "3.wav").write_bytes(b"")
    settings, calls = ExtractSettings(*tokenizer, data, rows_per_chunk=2), []
    with pytest.raises(DataError, match="max_drop"):
        extract(settings, tmp_path / "out.list", 1, 0.0)
    (tmp_path / "d" / "3.wav").write_bytes(good)
    report = extract(settings, tmp_path / "out.list", 1, 0.0, calls.append)
    assert report["rows"] == 6 and len(calls) == 1, "only the part with the drop is made anew"


def test_too_long_is_a_drop_and_bad_names_are_errors(tokenizer, tmp_path):
    data = write_rows(tmp_path / "d", 3)
    with pytest.raises(DataError, match=r"at most 0.01 s are taken"):
        extract(ExtractSettings(*tokenizer, data, max_seconds=0.01), tmp_path / "o.list", 1, 1.0)
    with pytest.raises(UserError, match="expected wav or answer_wav"):
        extract(ExtractSettings(*tokenizer, data, audio="mp3"), tmp_path / "o.list", 1, 1.0)
    with pytest.raises(UserError, match="no such list"):
        extract(ExtractSettings(*tokenizer, "nowhere.list"), tmp_path / "o.list", 1, 1.0)
    with pytest.raises(UserError, match="no such checkpoint"):
        extract(ExtractSettings(tokenizer[0], "nowhere.pt", data), tmp_path / "o.list", 1, 1.0)


def session_members(session):
    """Processes of a session, from /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_for(condition, seconds=40.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_killed_and_resumed_equals_uninterrupted(tokenizer, tmp_path):
    """kill -9 of the parent in the middle: workers leave too, finished parts are kept, and the result is the same to the byte."""
    slow = write_rows(tmp_path / "d", 24, lambda path: f"sleep 0.1; cat {path} |")
    out, parts = tmp_path / "out.list", tmp_path / "out.list.parts"
    command = [sys.executable, "-c", RUN, *tokenizer, slow]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(tmp_path / "whole.list")], env=environment, check=True)
    process = subprocess.Popen([*command, str(out)], env=environment, start_new_session=True)
    wait_for(lambda: len(list(parts.glob("part_*.jsonl"))) >= 3 or process.poll() is not None)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not session_members(process.pid))
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("part_*.jsonl")}
    assert 3 <= len(kept) < 12 and not out.exists()
    progress = []
    report = extract(ExtractSettings(*tokenizer, slow, rows_per_chunk=2), out, 2, 0.0, progress.append)
    assert len(progress) == 12 - len(kept) and progress[0].done == len(kept) + 1, "finished parts are not made again"
    assert out.read_bytes() == (tmp_path / "whole.list").read_bytes()
    whole = json.loads((tmp_path / "whole.list.json").read_text())
    assert {k: v for k, v in report.items() if k not in ("wall_seconds", "tokens_per_second")} == {
        k: v for k, v in whole.items() if k not in ("wall_seconds", "tokens_per_second")
    }


def test_command_and_its_messages(tokenizer, tmp_path, capsys, monkeypatch):
    data = write_rows(tmp_path / "d", 5)
    names = ["--config", tokenizer[0], "--checkpoint", tokenizer[1], "--list", data]
    assert main(["prepare", "speech-tokens", *names, "--out", str(tmp_path / "a.list"), "--num_jobs", "1", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "5 of 5 rows" in shown and "of 64 codes used, perplexity" in shown and "tokens/s" in shown
    monkeypatch.setattr(sys, "argv", ["x", *names, "--out", str(tmp_path / "a.list"), "--max_drop", "7"])
    assert speech_tokens.main() == 2
    echat = ROOT / "examples/mini/s0/conf/base.yaml"
    monkeypatch.setattr(sys, "argv", ["x", "--config", str(echat), *names[2:], "--out", str(tmp_path / "b.list")])
    assert speech_tokens.main() == 2
    assert "model.arch is echat, expected speech_tokenizer" in capsys.readouterr().err


def test_the_doctor_names_the_line_of_a_code_outside_the_codebook(tokenizer, tmp_path, capsys, monkeypatch):
    data = write_rows(tmp_path / "d", 30)
    extract(ExtractSettings(*tokenizer, data), tmp_path / "a.list", 1, 0.0)
    lines = [json.loads(line) for line in (tmp_path / "a.list").read_text().splitlines()]
    lines[7]["speech_token"][2] = 64
    lines[9]["history"] = [{"role": "assistant", "txt": "x", "speech_token": [1, -1]}]
    (tmp_path / "bad.list").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def problems(path, size):
        command = ["x", "--train", str(path), "--out", str(tmp_path / "doctor"), "--num_jobs", "1", "--codebook_size", str(size)]
        monkeypatch.setattr(sys, "argv", command)
        doctor.main()
        found = json.loads((tmp_path / "doctor/doctor.json").read_text())["findings"]
        return [example for finding in found if finding["kind"] == "bad_speech_token" for example in finding["examples"]]

    assert problems(tmp_path / "a.list", 64) == []
    first, second = problems(tmp_path / "bad.list", 64)
    assert first["origin"].endswith("bad.list:8") and "speech_token[2] is 64, outside the codebook of 64" in first["detail"]
    assert second["origin"].endswith("bad.list:10") and "history.0.speech_token[1] is -1" in second["detail"]
    assert len(problems(tmp_path / "bad.list", 0)) == 1


def test_earlier_replies_get_their_tokens_where_answers_do(tokenizer, tmp_path):
    data = write_rows(tmp_path / "d", 4)
    rows = [json.loads(line) for line in Path(data).read_text().splitlines()]
    user, said = {"role": "user", "wav": rows[1]["wav"]}, {"role": "assistant", "txt": "x", "wav": rows[2]["wav"]}
    known = {"role": "assistant", "txt": "x", "wav": rows[2]["wav"], "speech_token": [7]}
    rows[0].update(answer_wav=rows[3]["wav"], history=[user, said, user, known, user, {"role": "assistant", "txt": "written"}])
    rows[1].update(answer_wav=rows[3]["wav"], history=[user, {**said, "wav": "/nowhere.wav"}])
    (tmp_path / "h.list").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    extract(ExtractSettings(*tokenizer, data), tmp_path / "whole.list", 1, 0.0)
    whole = list(codes_of(tmp_path / "whole.list").values())
    report = extract(ExtractSettings(*tokenizer, str(tmp_path / "h.list"), audio="answer_wav"), tmp_path / "out.list", 1, 0.6)
    (row,) = read_raw_list(tmp_path / "out.list")
    assert row.speech_token == whole[3] and [turn.speech_token for turn in row.history] == [None, whole[2], None, (7,), None, None]
    assert list(report["drops"]) == ["missing_audio"]
    extract(ExtractSettings(*tokenizer, str(tmp_path / "h.list")), tmp_path / "heard.list", 1, 0.0)  # tokens of what is heard
    assert [turn.speech_token for row in read_raw_list(tmp_path / "heard.list") for turn in row.history][:2] == [None, None]
