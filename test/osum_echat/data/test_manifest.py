"""Manifests and Kaldi directories to training and test lists."""

import json
from pathlib import Path

import pytest

from osum_echat.data.manifest import Split, choose_task, known_labels, prepare, read_kaldi, read_manifest, select, write_list
from osum_echat.errors import DataError
from osum_echat.utterance import Utterance


def write_manifest(folder: Path, *rows: dict[str, object]) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def speakers(num: int) -> list[dict[str, object]]:
    genders = ("m", "f")
    return [{"key": f"u{i}", "wav": f"wav/u{i}.flac", "txt": "One, two!", "speaker": f"s{i}", "gender": genders[i % 2]} for i in range(num)]


def test_paths_are_relative_to_the_manifest_and_a_foreign_task_is_kept_aside(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, {"key": "a", "wav": "wav/a.flac", "task": "cough-heavy", "age": 29, "set": "x"})
    (row,) = read_manifest(path)
    assert row.wav == str(tmp_path / "wav" / "a.flac")
    assert (row.task, row.extra) == ("asr", {"set": "x", "manifest_task": "cough-heavy"})
    assert row.age_years == 29


def test_repeated_keys_and_broken_lines_name_their_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest.jsonl:2: key a was already given at .*:1"):
        read_manifest(write_manifest(tmp_path, {"key": "a", "wav": "x"}, {"key": "a", "wav": "y"}))
    (tmp_path / "manifest.jsonl").write_text('{"key": "a", "wav": "x"}\n{broken\n')
    with pytest.raises(DataError, match=r"manifest.jsonl:2: "):
        read_manifest(tmp_path / "manifest.jsonl")


@pytest.mark.parametrize(
    ("conditions", "keys"),
    [
        (["set=a"], "uv"),
        (["set=a|b"], "uvw"),
        (["set!=a"], "wx"),
        (["age>=13"], "v"),
        (["age<=13"], "u"),
        (["age=*", "set=a"], "uv"),
        (["age="], "wx"),
        (["speaker=s1", "set=b"], "w"),
    ],
)
def test_select(conditions: list[str], keys: str) -> None:
    rows = [
        Utterance("u", age_years=6.0, speaker="s0", extra={"set": "a"}),
        Utterance("v", age_years=31.0, speaker="s0", extra={"set": "a"}),
        Utterance("w", speaker="s1", extra={"set": "b"}),
        Utterance("x", age="child"),
    ]
    if conditions == ["age="]:
        rows[3] = Utterance("x")
    assert "".join(row.key for row in select(rows, conditions)) == keys


def test_select_refuses_what_it_does_not_understand_and_empty_results() -> None:
    rows = [Utterance("u", extra={"set": "a"})]
    for bad in ("set", "age>=x"):
        with pytest.raises(DataError, match="--select"):
            select(rows, [bad])
    with pytest.raises(DataError, match=r"none of 1 rows.*set"):
        select(rows, ["set=b"])


@pytest.mark.parametrize(
    ("row", "task"),
    [
        (Utterance("u", txt="hi"), "asr"),
        (Utterance("u", txt="hi", gender="m"), "asr_gender"),
        (Utterance("u", txt="hi", gender="m", age_years=30.0), "asr_age_gender"),
        (Utterance("u", txt="hi", gender="m", age_years=30.0, emotion="joy", event="laughter"), "asr_p"),
        (Utterance("u", event="cough"), "event"),
        (Utterance("u", gender="m", age_years=3.0, emotion="sad", event="cry"), "only_p"),
        (Utterance("u", txt=" ", gender="unknown"), None),
    ],
)
def test_choose_task(row: Utterance, task: str | None) -> None:
    chosen = choose_task(row, known_labels(row, drop_unknown=False))
    assert (chosen.name if chosen else None) == task


def test_speakers_stand_on_one_side_and_folds_cover_all(tmp_path: Path) -> None:
    rows = read_manifest(write_manifest(tmp_path, *speakers(10)))
    seen: list[str] = []
    for fold in range(5):
        got = prepare(rows, Split(num_folds=5, fold=fold))
        assert {row.speaker for row in got.train}.isdisjoint({row.speaker for row in got.test})
        assert {row.gender for row in got.test} == {"m", "f"}  # dealt by gender
        seen += [row.key for row in got.test]
    assert sorted(seen) == sorted(row.key for row in rows)
    named = prepare(rows, Split(test_speakers=("s3",)))
    assert [row.key for row in named.test] == ["u3"]
    with pytest.raises(DataError, match="s99"):
        prepare(rows, Split(test_speakers=("s99",)))


def test_task_text_style_and_skipped_rows(tmp_path: Path) -> None:
    rows = read_manifest(write_manifest(tmp_path, *speakers(6), {"key": "n", "wav": "n.wav", "speaker": "s0", "gender": "m"}))
    got = prepare(rows, Split(num_folds=2), task="asr", text="plain")
    assert {row.task for row in got.train + got.test} == {"asr"}
    assert {row.txt for row in got.train + got.test} == {"one two"}
    assert sum(got.skipped.values()) == 1


def test_unknown_labels_stop_or_vanish() -> None:
    rows = [Utterance(f"u{i}", wav="x", txt="a", speaker=f"s{i}", style="drunk") for i in range(4)]
    with pytest.raises(DataError, match="drunk"):
        prepare(rows, Split(num_folds=2))
    got = prepare(rows, Split(num_folds=2), drop_unknown=True)
    assert all(row.style is None and row.task == "asr" for row in got.train + got.test)


def test_written_list_reads_back(tmp_path: Path) -> None:
    rows = read_manifest(write_manifest(tmp_path, *speakers(3)))
    write_list(tmp_path / "out" / "x.list", rows)
    lines = (tmp_path / "out" / "x.list").read_text().splitlines()
    assert [Utterance.from_json(line) == row for line, row in zip(lines, rows, strict=True)].count(False) == 3  # origins differ
    assert [Utterance.from_json(line).to_json() for line in lines] == [row.to_json() for row in rows]


def test_kaldi_directory(tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_text("a /x/a.wav\nb /x/b.wav\n")
    (tmp_path / "text").write_text("a one\nb two\n")
    (tmp_path / "utt2spk").write_text("a s1\nb s2\n")
    (tmp_path / "utt2gender").write_text("a male\nb female\n")
    got = prepare(read_kaldi(tmp_path), Split(num_folds=2))
    assert {row.key for row in got.train + got.test} == {"a", "b"}
    assert {row.task for row in got.train + got.test} == {"asr_gender"}


def test_real_manifest(real_data: Path) -> None:
    rows = select(read_manifest(real_data / "manifest.jsonl"), ["set=digits_fsdd"])
    got = prepare(rows, Split(test_speakers=("fsdd_theo",)), task="asr")
    assert (len(got.train), len(got.test)) == (150, 50)
    assert all(Path(row.wav or "").is_file() for row in got.train + got.test)
