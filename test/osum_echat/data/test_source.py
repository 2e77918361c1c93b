"""Sources, weights and the plan of an epoch; broken rows and tars come out as drops in their place."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from osum_echat.audio.io import encode_pcm16
from osum_echat.config import SourceConfig
from osum_echat.data.shards import ShardOptions, make_shards
from osum_echat.data.source import CombineSource, Drop, Mixture, RawSource, Row, ShardSource, Source, read_raw_list
from osum_echat.errors import DataError
from osum_echat.utterance import Utterance

TONE = encode_pcm16(np.sin(np.arange(8000) * 0.1) * 0.3)


def rows_of(source: Source) -> list[Row]:
    return [make() for index in range(len(source)) for make in source.rows(index)]


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def lines(path: Path, *rows: str) -> Path:
    path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
    return path


def test_raw_list_keeps_order_and_names_broken_lines(tmp_path: Path) -> None:
    path = lines(tmp_path / "data.list", '{"key": "a", "wav": "/x.wav"}', "", '{"key": "b", ', '{"key": "c", "txt": "ä"}')
    first, broken, last = rows_of(RawSource(path))
    assert isinstance(first, Utterance) and (first.key, first.origin) == ("a", f"{path}:1")
    assert isinstance(broken, Drop) and (broken.reason, broken.origin) == ("bad_json", f"{path}:3") and f"{path}:3" in broken.message
    assert isinstance(last, Utterance) and (last.txt, last.origin) == ("ä", f"{path}:4")
    with pytest.raises(DataError, match=r"data\.list:3"):
        list(read_raw_list(path))


def test_relative_audio_is_found_beside_the_list(tmp_path: Path) -> None:
    (tmp_path / "wav").mkdir()
    (tmp_path / "wav" / "a.wav").write_bytes(TONE)
    wavs = {"a": "wav/a.wav", "b": "wav/none.wav", "c": "cat x |"}
    path = lines(tmp_path / "m.jsonl", *(json.dumps({"key": key, "wav": wav}) for key, wav in wavs.items()))
    found, absent, pipe = read_raw_list(path)
    assert (found.wav, absent.wav, pipe.wav) == (str(tmp_path / "wav/a.wav"), "wav/none.wav", "cat x |")


@pytest.mark.parametrize(
    ("kind", "content", "reason"),
    [
        ("raw", None, "missing_list"),
        ("raw", "\n\n", "empty_list"),
        ("raw", '{"key": "a"}\n{"key": "b"}\n{"key": "a"}\n', "duplicate_key"),
        ("shard", "", "empty_list"),
        ("shard", "/nowhere/a.tar\n", "missing_list"),
        ("combine", "a.jsonl\n", "bad_list"),
        ("combine", "/nowhere/a.jsonl|/nowhere/a.tar\n", "missing_list"),
    ],
)
def test_structural_errors_stop_at_the_start(tmp_path: Path, kind: str, content: str | None, reason: str) -> None:
    path = tmp_path / "x.list"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=r"x\.list") as caught:
        Mixture([SourceConfig(kind=kind, list=str(path))])
    assert caught.value.reason == reason


def test_a_shard_listed_twice_is_an_error(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [("u.txt", b"x"), ("u.wav", TONE)])
    with pytest.raises(DataError, match=r"x.list:2") as caught:
        ShardSource(lines(tmp_path / "x.list", str(tar), str(tar)))
    assert caught.value.reason == "duplicate_key"


def test_wenet_shard_reads_unchanged(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [("k.1.txt", "你好\n".encode()), ("k.1.wav", TONE), ("k2.wav", TONE), ("k2.txt", b"two")])
    first, second = rows_of(ShardSource(lines(tmp_path / "x.list", str(tar))))
    assert isinstance(first, Utterance) and isinstance(second, Utterance)
    assert (first.key, first.txt, first.task, first.audio) == ("k.1", "你好", "asr", TONE)
    assert (second.key, second.txt, second.origin) == ("k2", "two", f"{tar}:k2")


def test_osum_shard_reads_unchanged(tmp_path: Path) -> None:
    extra = {"age": "ADULT", "speech_token": [1, 2], "speech_token_1": [7, 8], "dataset": "d"}
    members = [
        ("u.txt", b"hi<HAPPY>"),
        ("u.wav", TONE),
        ("u.txt_1", b"before"),
        ("u.wav_1", TONE[:200]),
        ("u.task", b"<TRANSCRIBE> <EMOTION>"),
        ("u.lang", b"<EN>"),
        ("u.speaker", b"spk"),
        ("u.emotion", b"HAPPY"),
        ("u.gender", b"MALE"),
        ("u.duration", b"0.5"),
        ("u.extra", json.dumps(extra).encode()),
    ]
    tar = write_tar(tmp_path / "a.tar", members)
    (row,) = rows_of(ShardSource(lines(tmp_path / "x.list", str(tar))))
    assert isinstance(row, Utterance)
    assert (row.task, row.emotion, row.gender, row.age, row.speaker) == ("<TRANSCRIBE> <EMOTION>", "HAPPY", "MALE", "ADULT", "spk")
    assert (row.audio, row.speech_token, row.extra["duration"]) == (TONE, (1, 2), "0.5")
    assert [(turn.role, turn.txt, turn.audio, turn.speech_token) for turn in row.history] == [
        ("user", None, TONE[:200], None),
        ("assistant", "before", None, (7, 8)),
    ]


@pytest.mark.parametrize("cut", ["inside a member", "inside a header", "between two members", "before the end mark"])
def test_a_cut_tar_keeps_its_whole_utterances_and_says_so(tmp_path: Path, cut: str) -> None:
    tar = write_tar(tmp_path / "a.tar", [(f"u{i}.{part}", b"x" * 700) for i in range(4) for part in ("txt", "wav")])
    block = 512 + 1024
    inside_member, inside_header = 5 * block + 600, 6 * block + 100
    size = {
        "inside a member": inside_member,
        "inside a header": inside_header,
        "between two members": 6 * block,
        "before the end mark": 8 * block,
    }
    tar.write_bytes(tar.read_bytes()[: size[cut]])
    list_path = lines(tmp_path / "x.list", str(tar))
    *whole, last = rows_of(ShardSource(list_path))
    assert isinstance(last, Drop) and last.reason == "bad_tar" and f"{list_path}:1" in last.message and str(tar) in last.message
    assert [row.key for row in whole] == [f"u{i}" for i in range({"inside a member": 2, "before the end mark": 4}.get(cut, 3))]


def test_what_is_no_tar_is_a_drop(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"nothing of the kind")
    (row,) = rows_of(ShardSource(lines(tmp_path / "x.list", str(tmp_path / "a.tar"))))
    assert isinstance(row, Drop) and row.reason == "bad_tar"


def test_combine_lays_new_labels_over_old_audio(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [(f"u{i}.{part}", TONE if part == "wav" else b"old") for i in range(3) for part in ("txt", "wav")])
    new = {"key": "u1", "wav": "/elsewhere.wav", "start": 5.0, "txt": "new", "emotion": "sad", "task": "asr_emotion"}
    gone = {"key": "u9", "txt": "lost"}
    metadata = lines(tmp_path / "a.list", json.dumps(gone), json.dumps(new), "{broken", json.dumps(new))
    rows = rows_of(CombineSource(lines(tmp_path / "c.list", f"{metadata}|{tar}")))
    drops = [(row.key, row.reason) for row in rows if isinstance(row, Drop)]
    assert drops == [("", "bad_json"), ("u1", "duplicate_key"), ("u9", "missing_audio")]
    (row,) = [row for row in rows if isinstance(row, Utterance)]
    assert (row.key, row.txt, row.emotion, row.task, row.audio, row.wav, row.start) == ("u1", "new", "sad", "asr_emotion", TONE, None, None)
    plain = rows_of(CombineSource(lines(tmp_path / "p.list", f"-|{tar}")))
    assert [(row.key, row.txt) for row in plain if isinstance(row, Utterance)] == [("u0", "old"), ("u1", "old"), ("u2", "old")]
    (tmp_path / "combines_tar_root.txt").write_text(f"{tmp_path}\n")
    osum = rows_of(CombineSource(lines(tmp_path / "combines_list.txt", str(metadata))))
    assert [row.key for row in osum] == [row.key for row in rows]


def test_weights_copy_and_thin_by_key_and_epoch(tmp_path: Path) -> None:
    path = lines(tmp_path / "data.list", *(json.dumps({"key": f"u{i}"}) for i in range(400)))

    def keys(weight: float, seed: int, epoch: int) -> list[str]:
        mixture = Mixture([SourceConfig(list=str(path), weight=weight)])
        plan = mixture.plan(seed, epoch, shuffle=True)
        read = [mixture.read(mixture.unit(*map(int, unit)), seed, epoch) for unit in plan]
        return [row.key for rows in read for row in rows if row is not None]

    assert sorted(keys(2.0, 1, 0)) == sorted(2 * [f"u{i}" for i in range(400)])
    half = keys(0.5, 1, 0)
    assert 150 < len(half) < 250 and len(set(half)) == len(half)
    assert keys(0.5, 1, 0) == half
    assert set(keys(0.5, 1, 1)) != set(half) and set(keys(0.5, 2, 0)) != set(half)
    more = keys(1.5, 1, 0)
    assert set(half) == {key for key in more if more.count(key) == 2} and len(set(more)) == 400


def test_a_fractional_weight_keeps_the_same_keys_from_a_list_and_from_tars(
    tmp_path: Path, make_rows: Callable[..., list[dict[str, object]]], write_list: Callable[..., Path]
) -> None:
    raw = write_list(tmp_path / "raw.list", make_rows(tmp_path / "wav", 30))
    make_shards(read_raw_list(raw), tmp_path / "shards", tmp_path / "shards.list", ShardOptions(num_per_shard=7))
    kept = []
    for config in (SourceConfig(list=str(raw), weight=0.5), SourceConfig(kind="shard", list=str(tmp_path / "shards.list"), weight=0.5)):
        mixture = Mixture([config])
        units = [mixture.unit(*map(int, unit)) for unit in mixture.plan(3, 2, shuffle=True)]
        kept.append(sorted(row.key for unit in units for row in mixture.read(unit, 3, 2) if row is not None))
    assert kept[0] == kept[1] and 5 < len(kept[0]) < 25


def test_the_source_task_overrides_the_row(tmp_path: Path) -> None:
    path = lines(tmp_path / "data.list", '{"key": "a", "task": "asr"}')
    mixture = Mixture([SourceConfig(list=str(path), task="emotion")])
    (row,) = mixture.read(mixture.unit(0, 0, 0), 0, 0)
    assert row is not None and row.task == "emotion"


def test_skipped_rows_are_not_read(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [(f"u{i}.txt", b"\xff" if i < 2 else b"fine") for i in range(4)])
    mixture = Mixture([SourceConfig(kind="shard", list=str(lines(tmp_path / "x.list", str(tar))))])
    unit = mixture.unit(0, 0, 0)
    assert [type(row).__name__ for row in mixture.read(unit, 0, 0)] == ["Drop", "Drop", "Utterance", "Utterance"]
    assert [row.key for row in mixture.read(unit, 0, 0, skip=2) if row is not None] == ["u2", "u3"]


def test_the_plan_is_shuffled_by_seed_and_epoch(tmp_path: Path) -> None:
    path = lines(tmp_path / "data.list", *(json.dumps({"key": f"u{i}"}) for i in range(50)))
    mixture = Mixture([SourceConfig(list=str(path)), SourceConfig(list=str(path), weight=2)])
    plans = [mixture.plan(seed, epoch, shuffle=True).tolist() for seed, epoch in ((1, 0), (1, 1), (2, 0))]
    straight = mixture.plan(1, 0, shuffle=False).tolist()
    assert all(sorted(plan) == sorted(straight) for plan in plans) and len(straight) == 150
    assert plans[0] != plans[1] != plans[2] != plans[0] and plans[0] == mixture.plan(1, 0, shuffle=True).tolist()
