"""Every finding of the doctor is provoked once, and a clean pair of lists is called ok."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from osum_echat.config import SourceConfig
from osum_echat.data.doctor import KINDS, Diagnosis, ListSpec, check_lists, detect_kind
from osum_echat.data.doctor_html import render
from osum_echat.data.doctor_rows import Limits
from osum_echat.errors import DataError

RATE = 16000


def tone(path: Path, seed: int, seconds: float = 0.5, rate: int = RATE, gain: float = 0.1) -> str:
    samples = gain * np.random.default_rng(seed).standard_normal(round(seconds * rate))
    soundfile.write(path, np.clip(samples, -1, 32767 / 32768), rate, subtype="PCM_16")
    return str(path)


def rows(folder: Path, split: str, num: int, **fields: object) -> list[dict[str, object]]:
    base = 0 if split == "train" else 1000
    folder.mkdir(exist_ok=True)
    return [
        {
            "key": f"{split}{i}",
            "wav": tone(folder / f"{split}{i}.wav", base + i),
            "txt": f"hello {split} {i}",
            "speaker": f"{split}-{i % 2}",
            **fields,
        }
        for i in range(num)
    ]


def write(path: Path, lines: list[dict[str, object] | str]) -> str:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(path)


def diagnose(train: str, test: str | None = None, **limits: object) -> Diagnosis:
    names = [("train", train)] + ([("test", test)] if test else [])
    specs = [ListSpec(split, SourceConfig(kind=detect_kind(name), list=name)) for split, name in names]  # type: ignore[arg-type]
    return check_lists(specs, Limits(**limits))  # type: ignore[arg-type]


def found(diagnosis: Diagnosis) -> dict[str, int]:
    return {finding.kind: finding.count for finding in diagnosis.findings}


def test_clean_lists_are_ok(tmp_path: Path) -> None:
    train = write(tmp_path / "train.list", rows(tmp_path / "a", "train", 6, gender="male", task="asr_gender"))  # type: ignore[arg-type]
    test = write(tmp_path / "test.list", rows(tmp_path / "b", "test", 3, gender="male", task="asr_gender"))  # type: ignore[arg-type]
    diagnosis = diagnose(train, test)
    assert (diagnosis.verdict, diagnosis.findings) == ("ok", [])
    assert [(x.num, x.num_speakers) for x in diagnosis.lists] == [(6, 2), (3, 2)]
    assert [x.labels for x in diagnosis.lists] == [{"gender": {"male": 6}}, {"gender": {"male": 3}}]
    assert diagnosis.lists[0].audio.hours == pytest.approx(6 * 0.5 / 3600, abs=1e-4)


def test_every_broken_row_is_named(tmp_path: Path) -> None:
    good = rows(tmp_path / "a", "train", 4)
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "empty.wav").write_bytes(b"")
    nan = tmp_path / "nan.wav"
    soundfile.write(nan, np.array([0.1, np.nan, 0.2], dtype=np.float32), RATE, subtype="FLOAT")
    bad: dict[str, dict[str, object] | str] = {
        "bad_json": '{"key": "broken',
        "missing_audio": {"key": "b1", "wav": "/nowhere.wav", "txt": "a"},
        "corrupt_audio": {"key": "b2", "wav": str(tmp_path / "text.wav"), "txt": "a"},
        "empty_audio": {"key": "b3", "wav": str(tmp_path / "empty.wav"), "txt": "a"},
        "nan_audio": {"key": "b4", "wav": str(nan), "txt": "a"},
        "unknown_task": {**good[0], "key": "b5", "task": "asrr"},
        "unknown_label": {**good[1], "key": "b6", "emotion": "hungryish"},
        "missing_label": {**good[2], "key": "b7", "task": "asr_gender"},
    }
    diagnosis = diagnose(write(tmp_path / "x.list", [*good, *bad.values()]))
    assert diagnosis.verdict == "errors"
    assert {kind: found(diagnosis).get(kind) for kind in bad} == dict.fromkeys(bad, 1)
    for finding in diagnosis.findings:
        if finding.kind in bad:
            line = 5 + list(bad).index(finding.kind)
            assert finding.examples[0]["origin"] == f"{tmp_path / 'x.list'}:{line}"


def test_few_bad_rows_can_be_tolerated(tmp_path: Path) -> None:
    lines = [*rows(tmp_path / "a", "train", 9), {"key": "gone", "wav": "/nowhere.wav", "txt": "a"}]
    name = write(tmp_path / "x.list", lines)  # type: ignore[arg-type]
    assert diagnose(name).verdict == "errors"
    assert diagnose(name, max_bad=0.05).verdict == "errors"
    assert diagnose(name, max_bad=0.1).verdict == "warnings"


def test_leaks_between_splits(tmp_path: Path) -> None:
    train = rows(tmp_path / "a", "train", 6, gender="male")
    clean = rows(tmp_path / "b", "test", 3, gender="male")
    name = write(tmp_path / "train.list", train)  # type: ignore[arg-type]

    def kinds(row: dict[str, object], **limits: object) -> dict[str, str]:
        other = write(tmp_path / "test.list", [*clean, row])  # type: ignore[arg-type]
        return {f.kind: f.severity for f in diagnose(name, other, **limits).findings}

    new = {"key": "n", "wav": tone(tmp_path / "n.wav", 77), "txt": "new words", "speaker": "somebody"}
    assert kinds(new) == {}
    assert kinds({**new, "key": "train3"}) == {"key_leak": "error"}
    assert kinds({**new, "wav": train[0]["wav"]}) == {"audio_leak": "error"}
    assert kinds({**new, "speaker": "train-1"}) == {"speaker_leak": "error"}
    assert kinds({**new, "speaker": "train-1"}, speaker_overlap="warning") == {"speaker_leak": "warning"}
    assert kinds({**new, "speaker": "train-1"}, speaker_overlap="ok") == {}
    assert kinds({**new, "txt": "hello train 2"}) == {"same_text": "info"}
    assert kinds({**new, "gender": "female"}) == {"unseen_class": "warning"}


def test_the_same_audio_in_another_container_is_a_leak(tmp_path: Path) -> None:
    train = rows(tmp_path / "a", "train", 2)
    samples, rate = soundfile.read(str(train[0]["wav"]), dtype="int16")
    soundfile.write(tmp_path / "copy.flac", samples, rate)
    test = [{"key": "copy", "wav": str(tmp_path / "copy.flac"), "txt": "other", "speaker": "z"}]
    diagnosis = diagnose(write(tmp_path / "a.list", train), write(tmp_path / "b.list", test))  # type: ignore[arg-type]
    assert found(diagnosis) == {"audio_leak": 1}


def test_suspicious_audio_and_text(tmp_path: Path) -> None:
    lines: list[dict[str, object] | str] = [*rows(tmp_path / "a", "train", 30)]
    make = {
        "clipping": tone(tmp_path / "clip.wav", 1, gain=3.0),
        "silence": tone(tmp_path / "quiet.wav", 2, gain=1e-4),
        "too_short": tone(tmp_path / "short.wav", 3, seconds=0.05),
        "too_long": tone(tmp_path / "long.wav", 4, seconds=3.0),
        "low_rate": tone(tmp_path / "low.wav", 5, rate=8000),
        "duplicate_audio": str(lines[0]["wav"]),  # type: ignore[index]
    }
    texts = {"too_short": "x", "too_long": "hello train 5 " * 6}  # as dense as the others
    lines += [{"key": kind, "wav": wav, "txt": texts.get(kind, "hello train 9")} for kind, wav in make.items()]
    lines.append({"key": "text", "wav": tone(tmp_path / "t.wav", 506), "txt": "far too many words for half a second " * 4})
    diagnosis = diagnose(write(tmp_path / "x.list", lines), max_seconds=2.0)
    counts = found(diagnosis)
    assert diagnosis.verdict == "warnings"
    assert {kind: counts.get(kind) for kind in make} == dict.fromkeys(make, 1)
    assert counts["text_rate"] == 1
    assert counts["mixed_rates"] == 2


def test_a_reply_has_no_rate_but_needs_its_speech_tokens(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = rows(tmp_path / "a", "train", 30)
    long = {"wav": tone(tmp_path / "t.wav", 506), "txt": "far too many words for half a second " * 4}
    lines += [
        {"key": "good", "task": "s2s", "speech_token": [1], **long},
        {"key": "bad", "task": "s2s_interleaved", **long},
        {"key": "said", "task": "tts", **long},
    ]
    findings = {f.kind: [example["key"] for example in f.examples] for f in diagnose(write(tmp_path / "x.list", lines)).findings}
    assert findings["missing_label"] == ["bad", "said"] and findings["text_rate"] == ["said"]


def dialogues(folder: Path, split: str, num: int, seed: int = 0) -> list[dict[str, object]]:
    """Spoken questions of speakers of the split, answered by one voice."""
    asked = rows(folder, split, num, task="s2s")
    return [
        {**row, "question": row["txt"], "txt": f"reply {i}", "answer_wav": tone(folder / f"answer{i}.wav", seed + 5000 + i, rate=24000)}
        for i, row in enumerate(asked)
    ]


def read_aloud(folder: Path, split: str, num: int) -> list[dict[str, object]]:
    made = dialogues(folder, split, num, seed=100)
    return [{"key": f"tts{row['key']}", "task": "tts", "txt": row["txt"], "speaker": "us", "answer_wav": row["answer_wav"]} for row in made]


def test_one_voice_may_answer_in_training_and_test(tmp_path: Path) -> None:
    train = [*dialogues(tmp_path / "a", "train", 4), *read_aloud(tmp_path / "c", "train", 3)]
    test = [*dialogues(tmp_path / "b", "test", 4), *read_aloud(tmp_path / "d", "test", 3)]  # the same answers, to the sample
    diagnosis = diagnose(write(tmp_path / "a.list", train), write(tmp_path / "b.list", test))  # type: ignore[arg-type]
    assert diagnosis.verdict == "ok" and found(diagnosis).keys() == {"no_speech_token", "same_text"}
    summary = diagnosis.lists[0]
    assert (summary.audio.rates, summary.answers.rates) == ({"16000": 4}, {"24000": 7})
    assert summary.answers.hours == pytest.approx(7 * 0.5 / 3600, abs=1e-4)
    assert "24000 Hz (7)" in render(diagnosis)
    lines = [{**row, "speech_token": [1]} for row in train]
    assert diagnose(write(tmp_path / "a.list", lines)).findings == []  # type: ignore[arg-type]


def test_questions_leak_by_their_words_and_reply_and_askers_by_their_voice(tmp_path: Path) -> None:
    train = write(tmp_path / "a.list", dialogues(tmp_path / "a", "train", 4))  # type: ignore[arg-type]
    (new,) = dialogues(tmp_path / "b", "test", 1)

    def kinds(**fields: object) -> set[str]:
        return found(diagnose(train, write(tmp_path / "b.list", [{**new, **fields}]))).keys() - {"no_speech_token"}

    assert kinds() == set()
    assert kinds(question="hello train 1") == {"same_text"}
    assert kinds(question="hello train 1", txt="reply 1") == {"same_text", "exchange_leak"}
    assert kinds(question="hello train 1", txt="reply 1", task="t2t", wav=None) == {"same_text", "exchange_leak"}
    assert kinds(speaker="train-1") == {"speaker_leak"}
    assert kinds(speaker="train-1", task="tts", wav=None) == set()  # nobody is heard
    assert kinds(wav=str(tmp_path / "a" / "train0.wav")) == {"audio_leak"}


def test_answers_are_examined_as_recordings_are(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not audio")
    bad = {
        "missing_audio": "/nowhere.wav",
        "corrupt_audio": str(tmp_path / "text.wav"),
        "clipping": tone(tmp_path / "clip.wav", 1, gain=3.0),
        "silence": tone(tmp_path / "quiet.wav", 2, gain=1e-4),
        "low_rate": tone(tmp_path / "low.wav", 5, rate=8000),
        "text_rate": tone(tmp_path / "long.wav", 6, seconds=5.0),
    }
    lines = [{**row, "speech_token": [1]} for row in dialogues(tmp_path / "a", "train", 30)]
    for line, wav in zip(lines, bad.values(), strict=False):
        line["answer_wav"] = wav
    findings = {f.kind: f for f in diagnose(write(tmp_path / "x.list", lines)).findings}  # type: ignore[arg-type]
    keys = {kind: [example["key"] for example in finding.examples] for kind, finding in findings.items()}
    assert keys.pop("mixed_rates") == ["", "", ""]  # the answers' own rates: 24000, 16000 and 8000 Hz
    assert keys == {kind: [f"train{i}"] for i, kind in enumerate(bad)}
    assert findings["clipping"].examples[0]["detail"].startswith("answer_wav: ")


def test_rare_classes(tmp_path: Path) -> None:
    lines = rows(tmp_path / "a", "train", 60, emotion="joy")
    lines[0]["emotion"] = "sad"
    (finding,) = diagnose(write(tmp_path / "x.list", lines)).findings  # type: ignore[arg-type]
    assert (finding.kind, finding.examples[0]["detail"]) == ("rare_class", "emotion sad: 1 of 60")


def test_list_errors_are_findings(tmp_path: Path) -> None:
    twice = rows(tmp_path / "a", "train", 2)
    assert found(diagnose(write(tmp_path / "x.list", [*twice, twice[0]]))) == {"duplicate_key": 1}  # type: ignore[list-item]
    (tmp_path / "empty.list").write_text("\n")
    assert found(diagnose(str(tmp_path / "empty.list"))) == {"bad_list": 1}
    with pytest.raises(DataError, match="no such list"):
        detect_kind(str(tmp_path / "none.list"))


def test_shards_and_processes_give_the_same_as_raw_lists(tmp_path: Path) -> None:
    lines = rows(tmp_path / "a", "train", 5, gender="male")
    lines.append({**lines[0], "key": "mute", "wav": tone(tmp_path / "q.wav", 9, gain=1e-4)})
    raw = write(tmp_path / "raw.list", lines)  # type: ignore[arg-type]
    for part in (0, 1):
        with tarfile.open(tmp_path / f"{part}.tar", "w") as tar:
            for row in lines[part * 3 : part * 3 + 3]:
                meta = tmp_path / f"{row['key']}.json"
                meta.write_text(json.dumps({k: v for k, v in row.items() if k not in ("key", "wav")}))
                tar.add(meta, arcname=f"{row['key']}.json")
                tar.add(str(row["wav"]), arcname=f"{row['key']}.wav")
    shards = write(tmp_path / "shards.list", [str(tmp_path / "0.tar"), str(tmp_path / "1.tar")])
    assert (detect_kind(raw), detect_kind(shards)) == ("raw", "shard")
    one, two = diagnose(raw), diagnose(shards)
    parallel = check_lists([ListSpec("train", SourceConfig(kind="shard", list=shards))], num_jobs=2)
    for other in (two, parallel):
        assert found(other) == found(one) == {"silence": 1}
        assert (other.lists[0].labels, other.lists[0].audio.hours) == (one.lists[0].labels, one.lists[0].audio.hours)


def test_cut_shard_is_an_error(tmp_path: Path) -> None:
    lines = rows(tmp_path / "a", "train", 3)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for row in lines:
            tar.add(str(row["wav"]), arcname=f"{row['key']}.wav")
    data = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(data[: len(data) // 2])
    assert found(diagnose(write(tmp_path / "x.list", [str(tmp_path / "x.tar")])))["bad_tar"] == 1


def test_page_is_complete_and_escapes_what_lists_say(tmp_path: Path) -> None:
    lines = rows(tmp_path / "a", "train", 3, gender="male")
    lines.append({"key": "<script>x", "wav": "/nowhere.wav", "txt": "a"})
    diagnosis = diagnose(write(tmp_path / "x.list", lines))  # type: ignore[arg-type]
    page = render(diagnosis)
    assert "&lt;script&gt;x" in page
    assert "<script" not in page
    assert "http" not in page
    assert KINDS["missing_audio"].title in page
    assert json.loads(json.dumps(diagnosis.to_json()))["verdict"] == "errors"
