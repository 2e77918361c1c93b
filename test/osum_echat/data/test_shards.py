"""Writers: what is written, that it is whole or absent, and that raw = shard = combine."""

import hashlib
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from osum_echat.audio.io import encode_pcm16, read_audio
from osum_echat.config import DataConfig, SourceConfig
from osum_echat.data.pipeline import make_loader
from osum_echat.data.shards import ShardOptions, make_combine, make_raw_list, make_shards
from osum_echat.data.source import ShardSource, read_raw_list
from osum_echat.data.steps import SequenceEncoder
from osum_echat.errors import DataError
from osum_echat.utterance import Turn, Utterance

ROOT = Path(__file__).parents[3]


@pytest.fixture
def raw(tmp_path: Path, make_rows: Callable[..., list[dict[str, object]]], write_list: Callable[..., Path]) -> Path:
    return write_list(tmp_path / "raw.list", make_rows(tmp_path / "wav", 11))


def read_shards(path: Path) -> list[Utterance]:
    source = ShardSource(path)
    rows = [make() for index in range(len(source)) for make in source.rows(index)]
    assert all(isinstance(row, Utterance) for row in rows)
    return [row for row in rows if isinstance(row, Utterance)]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_manifest_counts_hours_and_checksums(tmp_path: Path, raw: Path, num_processes: int) -> None:
    options = ShardOptions(prefix="mini", num_per_shard=4, num_processes=num_processes)
    manifest = make_shards(read_raw_list(raw), tmp_path / "s", tmp_path / "s.list", options)
    names = [f"mini_{i:09d}.tar" for i in range(3)]
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["manifest.json", *names]
    assert (tmp_path / "s.list").read_text().split() == [str(tmp_path / "s" / name) for name in names]
    assert json.loads((tmp_path / "s" / "manifest.json").read_text()) == json.loads(json.dumps(manifest))
    assert [shard["num_utterances"] for shard in manifest["shards"]] == [4, 4, 3] and manifest["num_utterances"] == 11
    seconds = sum(len(read_audio(str(u.wav))) for u in read_raw_list(raw)) / 16000
    assert manifest["hours"] == pytest.approx(seconds / 3600, abs=1e-6)
    for shard in manifest["shards"]:
        content = (tmp_path / "s" / shard["name"]).read_bytes()
        assert (shard["sha256"], shard["num_bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))


def test_members_are_wenets_and_labels_travel(tmp_path: Path, raw: Path) -> None:
    make_shards(read_raw_list(raw), tmp_path / "s", tmp_path / "s.list")
    with tarfile.open(tmp_path / "s" / "shards_000000000.tar") as tar:
        assert tar.getnames()[:3] == ["utt000.txt", "utt000.wav", "utt000.json"]
    for written, read in zip(read_raw_list(raw), read_shards(tmp_path / "s.list"), strict=True):
        assert replace(read, audio=None, origin="", wav=written.wav) == replace(written, origin="")
        assert read.audio == Path(str(written.wav)).read_bytes()  # 16 kHz mono files are copied as they are


def test_segments_rates_and_channels_are_written_anew(tmp_path: Path) -> None:
    ramp = np.arange(-8000, 8000, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", ramp, 16000)
    soundfile.write(tmp_path / "b.flac", np.stack([ramp, ramp], axis=1), 8000)
    rows = [
        Utterance("seg", wav=f"{tmp_path}/a.wav", start=0.25, end=0.5, txt="x"),
        Utterance("stereo", wav=f"{tmp_path}/b.flac"),
        Utterance("textonly", task="t2t", txt="answer", question="why"),
        Utterance("talk", wav=f"{tmp_path}/a.wav", history=(Turn("user", wav=f"{tmp_path}/a.wav"), Turn("assistant", txt="hm"))),
    ]
    make_shards(rows, tmp_path / "s", tmp_path / "s.list", ShardOptions(audio_format="flac"))
    segment, stereo, textonly, talk = read_shards(tmp_path / "s.list")
    assert (segment.start, segment.end, segment.audio[:4] if segment.audio else None) == (None, None, b"fLaC")
    np.testing.assert_array_equal(read_audio(segment.audio or b""), ramp[4000:8000] / np.float32(32768))
    assert len(read_audio(stereo.audio or b"", rate=0)) == 32000
    assert (textonly.audio, textonly.question, textonly.txt) == (None, "why", "answer")
    np.testing.assert_array_equal(read_audio(talk.history[0].audio or b""), ramp / np.float32(32768))
    make_shards(rows[1:2], tmp_path / "n", tmp_path / "n.list", ShardOptions(rate=0))
    assert len(read_audio(read_shards(tmp_path / "n.list")[0].audio or b"", rate=0)) == 16000


def test_unreadable_audio_is_counted_and_too_much_of_it_leaves_nothing(tmp_path: Path, raw: Path) -> None:
    rows = [*read_raw_list(raw), Utterance("gone", wav="/nowhere.wav", origin="x.list:9")]
    manifest = make_shards(rows, tmp_path / "s", tmp_path / "s.list", ShardOptions(max_drop=0.1))
    assert manifest["dropped"] == {"missing_audio": {"asr": 1}} and "x.list:9" in manifest["dropped_examples"]["missing_audio"][0]
    assert manifest["num_utterances"] == 11
    with pytest.raises(DataError, match=r"x\.list:9"):
        make_shards(rows, tmp_path / "t", tmp_path / "t.list", ShardOptions(max_drop=0.05))
    assert not (tmp_path / "t.list").exists() and not (tmp_path / "t" / "manifest.json").exists()


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_failing_writer_is_an_error(tmp_path: Path, raw: Path, num_processes: int) -> None:
    (tmp_path / "s" / "shards_000000001.tar").mkdir(parents=True)  # the rename of the second tar cannot succeed
    with pytest.raises(OSError, match="shards_000000001"):
        make_shards(read_raw_list(raw), tmp_path / "s", tmp_path / "s.list", ShardOptions(num_per_shard=4, num_processes=num_processes))
    assert not (tmp_path / "s.list").exists()
    assert not list((tmp_path / "s").glob("*.tmp*"))


def test_equal_input_gives_equal_bytes(tmp_path: Path, raw: Path) -> None:
    first, second = (make_shards(read_raw_list(raw), tmp_path / x, tmp_path / f"{x}.list")["shards"] for x in "ab")
    assert first == second


def test_duplicate_keys_and_empty_input_are_refused(tmp_path: Path) -> None:
    twice = [Utterance("a", origin="f:1"), Utterance("b", origin="f:2"), Utterance("a", origin="f:3")]
    options = ShardOptions(num_per_shard=1)
    for write in (lambda u: make_raw_list(u, tmp_path / "x"), lambda u: make_shards(u, tmp_path, tmp_path / "x", options)):
        with pytest.raises(DataError, match=r"f:3.*f:1"):
            write(twice)
        with pytest.raises(DataError, match="no utterance"):
            write([])
    assert not (tmp_path / "x").exists()


def test_combine_refuses_rows_without_audio(tmp_path: Path, raw: Path) -> None:
    make_shards(read_raw_list(raw), tmp_path / "s", tmp_path / "s.list", ShardOptions(num_per_shard=4))
    with pytest.raises(DataError, match=r"f:1: key nobody"):
        make_combine(tmp_path / "s.list", [Utterance("nobody", origin="f:1")], tmp_path / "c", tmp_path / "c.list")


def test_raw_equals_shard_equals_combine(
    tmp_path: Path, raw: Path, encoder: SequenceEncoder, data_config: Callable[..., DataConfig]
) -> None:
    make_shards(read_raw_list(raw), tmp_path / "s", tmp_path / "s.list", ShardOptions(num_per_shard=4))
    assert make_combine(tmp_path / "s.list", read_raw_list(raw), tmp_path / "c", tmp_path / "c.list") == 11
    seen = []
    for kind, name in (("raw", "raw"), ("shard", "s"), ("combine", "c")):
        sources = [SourceConfig(kind=kind, list=str(tmp_path / f"{name}.list"))]
        loader = make_loader(sources, data_config(), encoder, max_tokens=400, seed=1, epoch=0)
        rows = {}
        for batch in loader:
            for number, key in enumerate(batch.keys):
                span = slice(int(batch.cu_seqlens[number]), int(batch.cu_seqlens[number + 1]))
                mel_FM = batch.mel_BFM[number, : int(batch.mel_lens_B[number])]
                rows[key] = (batch.ids_T[span].tolist(), batch.labels_T[span].tolist(), mel_FM.numpy().tobytes())
        seen.append(rows)
    assert len(seen[0]) == 11 and seen[0] == seen[1] == seen[2]


def test_tools_take_wenets_arguments(tmp_path: Path, raw: Path) -> None:
    utterances = list(read_raw_list(raw))
    (tmp_path / "wav.scp").write_text("".join(f"{u.key} {u.wav}\n" for u in utterances))
    (tmp_path / "text").write_text("".join(f"{u.key} {u.txt}\n" for u in utterances))
    (tmp_path / "utt2emotion").write_text("".join(f"{u.key} {u.emotion}\n" for u in utterances))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *(str(tmp_path / a[1:]) if a.startswith("@") else a for a in arguments)]
        return subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)

    done = run("tools/make_raw_list.py", "@wav.scp", "@text", "@data.list")
    assert done.returncode == 0, done.stderr
    made = list(read_raw_list(tmp_path / "data.list"))
    assert [(u.key, u.txt, u.emotion) for u in made] == [(u.key, u.txt, u.emotion) for u in utterances]
    done = run("tools/make_shard_list.py", "--num_utts_per_shard", "6", "--prefix", "p", "@wav.scp", "@text", "@shards", "@shards.list")
    assert done.returncode == 0 and "11 utterances" in done.stdout, done.stderr
    assert [u.key for u in read_shards(tmp_path / "shards.list")] == [u.key for u in utterances]
    done = run("tools/make_combine_list.py", "@shards.list", "@data.list", "@meta", "@combine.list")
    assert done.returncode == 0 and len((tmp_path / "combine.list").read_text().split()) == 2, done.stderr
    done = run("tools/make_raw_list.py", "@nowhere.scp", "@text", "@other.list")
    assert done.returncode == 2 and "nowhere.scp" in done.stderr and "Traceback" not in done.stderr


def test_flac_shards_hold_the_same_samples() -> None:
    samples = np.random.default_rng(0).integers(-3000, 3000, 4000) / np.float32(32768)
    np.testing.assert_array_equal(read_audio(encode_pcm16(samples, container="FLAC")), read_audio(encode_pcm16(samples)))
