"""The corpus end to end at a tiny size: same seed same bytes, resume, disjoint splits, lists that tell what they should and no more."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from osum_echat.bin.make_mini_corpus import main
from osum_echat.datagen.facts import all_facts, questions
from osum_echat.datagen.grammar import split_of
from osum_echat.datagen.mini_corpus import MiniSettings, make_plans
from osum_echat.datagen.mini_lists import TRAIN_TASKS, make_mini_corpus
from osum_echat.datagen.mini_text import PAUSE
from osum_echat.errors import DataError
from osum_echat.tasks.task import TASKS
from osum_echat.text.prompts import load_prompts
from osum_echat.text.tags import canonical, parse_labels
from osum_echat.utterance import Utterance

pytest.importorskip("espeakng_loader")
NO_EMPATHY = {"train_empathy": 0, "dev_empathy": 0, "test_empathy": 0}
SPEECH = {"train_tts": 8, "dev_tts": 2, "test_tts": 3, "train_s2s": 9, "dev_s2s": 2, "test_s2s": 3, **NO_EMPATHY}
SETTINGS = MiniSettings(train=18, dev=4, test=6, **SPEECH, seed=5)
NUM_REPLIES = 3  # of facts that are asked for: four questions each in training


def _read(path: Path) -> list[Utterance]:
    return [Utterance.from_json(line, f"{path}:{number}") for number, line in enumerate(path.read_text().splitlines(), 1)]


def _hashes(out: Path) -> dict[str, str]:
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.rglob("*.wav"))}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mini") / "a"
    make_mini_corpus(out, SETTINGS, num_processes=2)
    return out


def test_same_seed_gives_the_same_bytes_whatever_the_number_of_processes(corpus: Path, tmp_path: Path) -> None:
    make_mini_corpus(tmp_path / "b", SETTINGS, num_processes=1)
    assert len(_hashes(corpus)) == 18 + 4 + 6 + sum(SPEECH.values()) + NUM_REPLIES
    assert _hashes(tmp_path / "b") == _hashes(corpus)
    for path in corpus.glob("*.list"):
        assert path.read_text().replace(str(corpus), "") == (tmp_path / "b" / path.name).read_text().replace(str(tmp_path / "b"), "")


def test_a_lost_chunk_is_made_again_and_finished_ones_are_not_touched(corpus: Path) -> None:
    before = _hashes(corpus)
    lost = [path for folder in ("dev", "assistant/replies") for path in (corpus / "wav" / folder).glob("*.wav")]
    assert len(lost) == 4 + NUM_REPLIES
    kept = next((corpus / "wav" / "test").glob("*.wav"))
    stamp = kept.stat().st_mtime_ns
    markers = [corpus / ".chunks" / f"{name}_0000.jsonl" for name in ("dev", "assistant_replies")]
    for path in (*lost, *markers, corpus / ".complete"):
        path.unlink()
    make_mini_corpus(corpus, SETTINGS, num_processes=1)
    assert _hashes(corpus) == before
    assert kept.stat().st_mtime_ns == stamp


def test_other_settings_in_the_same_folder_are_refused_by_name(corpus: Path) -> None:
    with pytest.raises(DataError, match=r"train: has 18, wanted 17.*--overwrite"):
        make_mini_corpus(corpus, MiniSettings(train=17, dev=4, test=6, **SPEECH, seed=5), num_processes=1)


def test_sentences_and_voices_of_the_test_do_not_occur_in_training() -> None:
    plans = {split: make_plans(MiniSettings(), split) for split in ("train", "dev", "test")}
    texts = {split: {plan.sentence.text for plan in rows} for split, rows in plans.items()}
    voices = {split: {plan.speaker.variant for plan in rows} for split, rows in plans.items()}
    assert not texts["train"] & (texts["test"] | texts["dev"])
    assert not voices["train"] & (voices["test"] | voices["dev"])
    seen = Counter(word for plan in plans["train"] for word in plan.sentence.text.split())
    assert min(seen[word] for text in texts["test"] for word in text.split()) >= 15
    assert all(split_of(text) == "test" for text in texts["test"])


def test_labels_are_balanced_and_say_nothing_about_each_other_or_the_words() -> None:
    plans = make_plans(MiniSettings(), "train")
    facts = np.array([(p.speaker.gender, p.speaker.age, p.emotion, p.event, p.sentence.topic) for p in plans])
    assert set(Counter(facts[:, 2]).values()) == {800}
    assert Counter(facts[:, 3])["none"] == 2000
    for left in range(5):
        for right in range(left):
            pairs = Counter(zip(facts[:, left], facts[:, right], strict=True))
            ones, twos = Counter(facts[:, left]), Counter(facts[:, right])
            excess = [(pairs[a, b] - ones[a] * twos[b] / 4000) / (ones[a] * twos[b] / 4000) ** 0.5 for a in ones for b in twos]
            assert max(map(abs, excess)) < 4.5, (left, right)


def test_training_rows_tell_some_labels_and_test_rows_tell_all(corpus: Path) -> None:
    rows = _read(corpus / "train_asr_p.list")
    assert Counter(row.task for row in rows) == {task: len(rows) // 3 * TRAIN_TASKS.count(task) for task in TRAIN_TASKS}
    for row in rows:
        known = {name for name in ("age", "gender", "event", "emotion") if getattr(row, name) is not None}
        assert row.task in TRAIN_TASKS
        assert known == {"age", "gender", row.task.rpartition("_")[2]}
    for row in _read(corpus / "train_words.list"):
        assert (row.gender, row.age) == (None, None) if row.task == "asr" else row.gender and row.age
        assert row.emotion is None and row.event is None and 1 <= len(row.txt.split()) <= 3
    for row in _read(corpus / "test.list"):
        assert row.task == "asr_p"
        for name in ("age", "gender", "event", "emotion"):
            assert canonical(name, getattr(row, name)) == getattr(row, name)
    assert all(row.gender is None and row.emotion is None for row in _read(corpus / "train_asr.list"))


def test_audio_words_and_kaldi_files_fit_together(corpus: Path) -> None:
    keys = [line.split()[0] for line in (corpus / "test" / "wav.scp").read_text().splitlines()]
    assert keys == sorted(keys)
    events = {
        line.split()[0]: [float(x) for x in line.split()[1:]] for line in (corpus / "test" / "utt2event_time").read_text().splitlines()
    }
    assert {row.key for row in _read(corpus / "test.list") if row.event != "none"} == set(events)
    for row in _read(corpus / "test.list"):
        samples, rate = soundfile.read(row.wav)
        assert rate == 16000
        assert np.abs(samples).max() < 1.0
        assert len(samples) / rate == pytest.approx(row.extra["seconds"], abs=1e-3)
        assert row.words is not None
        assert [word for word, _, _ in row.words] == row.txt.split()
        edges = [time for _, start, end in row.words for time in (start, end)]
        assert edges == sorted(edges)
        assert edges[0] > 0.04 and edges[-1] <= len(samples) / rate - 0.04
        begin, end = events.get(row.key, (0.0, 0.0))
        assert end < edges[0] or begin >= edges[-1] + 0.03
        power = samples**2
        inside = power[int(edges[0] * rate) : int(edges[-1] * rate)].mean()
        assert inside > 10 * power[: int(0.04 * rate)].mean()


def test_text_rows_ask_for_a_part_of_what_they_hold(corpus: Path) -> None:
    sentences = {row.txt for row in _read(corpus / "train_asr.list")} | {question.text for question in questions("train")}
    prompts = load_prompts("mini")
    seen = set()
    for row in _read(corpus / "train_text.list"):
        task = TASKS[row.extra["kind"]]
        seen.add(task.name)
        instruction, content = row.question.split("\n")
        assert instruction == prompts.instruction(task.name, None)
        words, everything = parse_labels(content.replace(PAUSE, ""))
        text, labels = parse_labels(row.txt)
        assert words.strip() in sentences and len(everything) == 4
        assert text == (words.strip() if task.transcript else "")
        assert labels == {kind: everything[kind] for kind in task.labels}
    assert len(seen) == 11


def test_the_command_reports_and_fails_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"train": 3, "dev": 0, "test": 2} | dict.fromkeys(SPEECH, 0) | {"test_tts": 1}
    base = ["--out", str(tmp_path / "c"), *(word for name, size in sizes.items() for word in (f"--{name}", str(size)))]
    assert main(base) == 0
    shown = capsys.readouterr().out
    assert "train: utterances 3" in shown and "test_tts: utterances 1" in shown
    assert _read(tmp_path / "c" / "train_s2s.list") == [] and len(_read(tmp_path / "c" / "train_t2t.list")) == 4 * len(all_facts())
    rows = _read(tmp_path / "c" / "train_asr_p.list")
    assert Counter(row.task for row in rows) == Counter(TRAIN_TASKS)
    assert json.loads((tmp_path / "c" / "summary.json").read_text())["dev"]["utterances"] == 0
    assert main([*base, "--seed", "1"]) == 2
    assert "seed: has 777, wanted 1" in " ".join(capsys.readouterr().err.split())
