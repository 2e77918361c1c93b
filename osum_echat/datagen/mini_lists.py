"""Writes the mini corpus as Kaldi directories and data lists, and holds its one entry point ``make_mini_corpus``.

No training row for paralinguistics tells all labels, as in real corpora: who speaks is known everywhere, the emotion of one half and the
events of the other (OSUM-EChat fills the rest by decoding, arXiv:2508.09600, stage 1). Dev and test tell all. Text-only rows
(``mini_text``) teach the small language model to follow instructions; they use training sentences only.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from osum_echat.data.manifest import write_list
from osum_echat.datagen.events import EVENTS, NO_EVENT
from osum_echat.datagen.facts import questions
from osum_echat.datagen.grammar import SPLITS
from osum_echat.datagen.mini_corpus import MiniSettings, UserPlan, make_plans
from osum_echat.datagen.mini_empathy_lists import plan_empathy, write_empathy
from osum_echat.datagen.mini_speech_lists import plan_speech, write_speech
from osum_echat.datagen.mini_text import text_rows
from osum_echat.datagen.prosody import EMOTIONS
from osum_echat.datagen.rendering import Progress, Rendered, render_corpus
from osum_echat.datagen.speakers import AGES, GENDERS
from osum_echat.errors import DataError
from osum_echat.files import write_text
from osum_echat.tasks.task import TASKS
from osum_echat.text.prompts import load_prompts
from osum_echat.utterance import Utterance

TRAIN_TASKS = ("asr_age_gender_emotion", "asr_age_gender_event", "asr_age_gender_emotion")  # emotions need more examples than events
_WORD_TASKS = ("asr", "asr_age_gender", "asr_age_gender")
_LABELS = ("age", "gender", "event", "emotion")
_SEGMENT_MARGIN_S, _SEGMENT_MIN_S = 0.03, 0.15
_VALUES: dict[str, tuple[str, ...]] = {"age": AGES, "gender": GENDERS, "event": (NO_EVENT, *EVENTS), "emotion": tuple(EMOTIONS)}


@dataclass(frozen=True)
class Row:
    """A plan and what became of it."""

    plan: UserPlan
    rendered: Rendered
    task: str

    @property
    def labels(self) -> dict[str, str]:
        speaker = self.plan.speaker
        return {"age": speaker.age, "gender": speaker.gender, "event": self.plan.event, "emotion": self.plan.emotion}


def make_mini_corpus(
    out: Path, settings: MiniSettings, num_processes: int, overwrite: bool = False, progress: Progress | None = None
) -> dict[str, dict[str, object]]:
    """Makes the whole corpus under ``out`` or finishes one begun there; returns counts per split and per list of speech."""
    out = Path(os.path.abspath(out))
    _claim(out, settings, overwrite)
    complete = out / ".complete"
    if not (complete.exists() and complete.read_text().strip() == settings.digest()):
        plans = [plan for split in SPLITS for plan in make_plans(settings, split)]
        speech = plan_speech(settings)
        empathy = plan_empathy(settings)
        rendered = render_corpus([*plans, *speech.plans, *empathy.plans], out, num_processes, progress)
        bounds = len(plans), len(plans) + len(speech.plans)
        rows = [Row(plan, sound, "asr_p") for plan, sound in zip(plans, rendered[: bounds[0]], strict=True)]
        card = write_corpus(out, settings, rows) | write_speech(out, speech, rendered[bounds[0] : bounds[1]])
        card |= write_empathy(out, empathy, rendered[bounds[1] :], settings.seed)
        write_text(out / "summary.json", json.dumps(card, indent=1) + "\n")
        write_text(complete, settings.digest() + "\n")
    return dict(json.loads((out / "summary.json").read_text()))


def _claim(out: Path, settings: MiniSettings, overwrite: bool) -> None:
    """Writes the settings beside the data, or compares them with what lies there."""
    path = out / "settings.json"
    wanted = asdict(settings)
    if overwrite and path.exists():  # only a folder that this command made
        shutil.rmtree(out)
    if path.exists():
        found = json.loads(path.read_text())
        differing = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
        if differing:
            details = ", ".join(f"{name}: has {found.get(name)}, wanted {wanted.get(name)}" for name in differing)
            raise DataError(f"{out} holds a mini corpus with other settings ({details}); take another --out or add --overwrite", "settings")
    write_text(path, json.dumps(wanted, indent=1) + "\n")


def write_corpus(out: Path, settings: MiniSettings, rows: Sequence[Row]) -> dict[str, dict[str, object]]:
    """The users' Kaldi directories and lists; returns :func:`summary` per split."""
    by_split = {split: [row for row in rows if row.plan.split == split] for split in SPLITS}
    rng = np.random.default_rng([settings.seed, 9])
    by_split["train"] = _assign_tasks(by_split["train"], rng)
    for split, split_rows in by_split.items():
        _write_kaldi(out / split, split_rows)
    train = by_split["train"]
    write_list(out / "train_asr.list", (_utterance(row, "asr") for row in train))
    write_list(out / "train_words.list", _word_rows(train, rng))
    write_list(out / "train_asr_p.list", (_utterance(row, row.task) for row in train))
    for split in ("dev", "test"):
        write_list(out / f"{split}.list", (_utterance(row, "asr_p") for row in by_split[split]))
    sentences = [*(row.plan.sentence.text for row in train), *(question.text for question in questions("train"))] * 2
    write_list(out / "train_text.list", text_rows(sentences, _VALUES, load_prompts("mini"), rng))
    return {split: summary(split_rows) for split, split_rows in by_split.items()}


def _assign_tasks(rows: Sequence[Row], rng: np.random.Generator) -> list[Row]:
    order = rng.permutation(len(rows))
    return [Row(row.plan, row.rendered, TRAIN_TASKS[place % len(TRAIN_TASKS)]) for row, place in zip(rows, order, strict=True)]


def _utterance(row: Row, task: str) -> Utterance:
    """With the labels that the task asks for."""
    label = {name: row.labels[name] for name in TASKS[task].labels}.get
    extra = {"topic": row.plan.sentence.topic, "seconds": row.rendered.seconds}
    return Utterance(
        key=row.plan.key,
        task=task,
        wav=row.rendered.wav,
        txt=row.plan.sentence.text,
        lang="en",
        speaker=row.plan.speaker.name,
        words=row.rendered.words,
        gender=label("gender"),
        age=label("age"),
        emotion=label("emotion"),
        event=label("event"),
        extra=extra,
    )


def _word_rows(rows: Sequence[Row], rng: np.random.Generator) -> Iterator[Utterance]:
    """Segments of one to three words: with so little to align, an encoder from scratch learns the sounds in a few hundred steps.

    Two of three tell gender and age, which can be heard in a word; an emotion takes a sentence.
    """
    for row in rows:
        words = row.rendered.words
        for number, task in enumerate(_WORD_TASKS):
            size = int(rng.integers(1, 4))
            first = int(rng.integers(max(1, len(words) - size + 1)))
            chosen = words[first : first + size]
            start, end = max(0.0, chosen[0][1] - _SEGMENT_MARGIN_S), min(row.rendered.seconds, chosen[-1][2] + _SEGMENT_MARGIN_S)
            if end - start >= _SEGMENT_MIN_S:
                text = " ".join(word for word, _, _ in chosen)
                part = replace(_utterance(row, task), key=f"{row.plan.key}-{number}", txt=text, words=None, extra={})
                yield replace(part, start=round(start, 3), end=round(end, 3))


def _write_kaldi(folder: Path, rows: Sequence[Row]) -> None:
    """Kaldi files sorted by key; also ``ctm`` (word times), ``utt2event_time`` and ``speakers.jsonl`` (how each voice is made)."""
    rows = sorted(rows, key=lambda row: row.plan.key)
    tables = {
        "wav.scp": {row.plan.key: row.rendered.wav for row in rows},
        "text": {row.plan.key: row.plan.sentence.text for row in rows},
        "utt2spk": {row.plan.key: row.plan.speaker.name for row in rows},
        "utt2dur": {row.plan.key: f"{row.rendered.seconds:.4f}" for row in rows},
        "utt2task": {row.plan.key: row.task for row in rows},
        "utt2event_time": {row.plan.key: "{:.3f} {:.3f}".format(*row.rendered.event_time) for row in rows if row.rendered.event_time},
    }
    tables |= {f"utt2{name}": {row.plan.key: row.labels[name] for row in rows} for name in _LABELS}
    speakers = {row.plan.speaker.name: row.plan.speaker for row in sorted(rows, key=lambda row: row.plan.speaker.name)}
    tables["spk2utt"] = {name: " ".join(row.plan.key for row in rows if row.plan.speaker.name == name) for name in speakers}
    tables["spk2gender"] = {name: speaker.gender for name, speaker in speakers.items()}
    tables["spk2age"] = {name: speaker.age for name, speaker in speakers.items()}
    for name, table in tables.items():
        write_text(folder / name, "".join(f"{key} {value}\n" for key, value in table.items()))
    ctm = (f"{row.plan.key} 1 {start:.3f} {end - start:.3f} {word}\n" for row in rows for word, start, end in row.rendered.words)
    write_text(folder / "ctm", "".join(ctm))
    write_text(folder / "speakers.jsonl", "".join(json.dumps(asdict(speaker)) + "\n" for speaker in speakers.values()))


def summary(rows: Sequence[Row]) -> dict[str, object]:
    """Counts for a data card."""
    labels = {name: dict(sorted(Counter(row.labels[name] for row in rows).items())) for name in _LABELS}
    seconds = [row.rendered.seconds for row in rows]
    return {
        "utterances": len(rows),
        "hours": round(sum(seconds) / 3600, 3),
        "mean_seconds": round(float(np.mean(seconds)), 2) if rows else 0.0,
        "speakers": len({row.plan.speaker.name for row in rows}),
        "sentences": len({row.plan.sentence.text for row in rows}),
        "words": len({word for row in rows for word in row.plan.sentence.text.split()}),
        **labels,
    }
