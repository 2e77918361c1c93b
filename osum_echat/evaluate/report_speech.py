"""The speech section of the report, gathered from every speech.json below an experiment: samples to listen to beside their recordings."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from osum_echat.audio.io import encode_pcm16, read_audio
from osum_echat.config import SourceConfig
from osum_echat.errors import UserError
from osum_echat.evaluate.samples import choose_samples
from osum_echat.evaluate.score import read_references
from osum_echat.evaluate.spectrogram import RATE, spectrogram_png
from osum_echat.evaluate.speech import SPEECH_FILE
from osum_echat.evaluate.text import align_tokens, tokenize
from osum_echat.tasks.task import TASKS
from osum_echat.utterance import Utterance

NUM_SAMPLES = 8
MAX_SECONDS = 20.0
Columns = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sound:
    """One player: a caption, FLAC and PNG in base64 ("" without a picture), how long it lasts."""

    caption: str
    flac_base64: str
    png_base64: str
    seconds: float


@dataclass(frozen=True)
class SpeechSample:
    """One utterance. `written` aligns the reply with its reference, `heard` what was heard with what should be said."""

    key: str
    row: Mapping[str, Any]
    written: Columns
    heard: Columns
    sounds: tuple[Sound, ...] = ()

    @property
    def is_wrong(self) -> bool:
        """True when a word differs, or something is missing."""
        return bool(self.row["empty"] or self.row["truncated"]) or any(lab != rec for lab, rec in (*self.written, *self.heard))


@dataclass(frozen=True)
class SpeechReport:
    """One scored decode (or the recordings as codes): what it is, how many utterances, some of them."""

    name: str
    info: Mapping[str, Any]
    num: int
    samples: tuple[SpeechSample, ...]


def gather_speech(folder: Path, problems: list[str]) -> list[SpeechReport]:
    """All of an experiment; what cannot be read is added to `problems`."""
    found = []
    for path in sorted(folder.glob(f"**/{SPEECH_FILE}")):
        try:
            found.append(_report(path, str(path.parent.relative_to(folder)), problems))
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"{path}: not what osum-echat score speech writes ({error})")
    return found


def transcript_folders(reports: Sequence[SpeechReport]) -> set[Path]:
    """Decodes that are only transcripts of speech: their words stand in the speech section."""
    names = ("heard", "heard_in_recordings")
    return {Path(report.info[name]).resolve() for report in reports for name in names if name in report.info}


def _report(path: Path, name: str, problems: list[str]) -> SpeechReport:
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = content.pop("rows")
    judged = [_sample(key, row) for key, row in rows.items()]
    chosen = choose_samples(judged, NUM_SAMPLES)
    questions = _questions(content, {sample.key for sample in chosen}, problems)
    samples = tuple(
        SpeechSample(sample.key, sample.row, sample.written, sample.heard, _sounds(sample.row, questions.get(sample.key), problems))
        for sample in chosen
    )
    return SpeechReport(name, content, len(rows), samples)


def _sample(key: str, row: Mapping[str, Any]) -> SpeechSample:
    written = _align(row["ref"], row["written"]) if row["written"] is not None else ()
    heard = _align(row["says"], row["heard"]) if row["heard"] is not None else ()
    return SpeechSample(key, row, written, heard)


def _align(reference: str, answer: str) -> Columns:
    return align_tokens(tokenize(reference), tokenize(answer))


def _questions(info: Mapping[str, Any], keys: set[str], problems: list[str]) -> dict[str, Utterance]:
    """Rows of the list whose questions were heard, by key."""
    task = TASKS.get(info.get("task", ""))
    if task is None or not task.reads_audio:
        return {}
    try:
        rows, _ = read_references(SourceConfig(kind=info["data_type"], list=info["list"]), keep_audio=True, keys=keys)
    except UserError as error:
        problems.append(f"no questions of {info['list']}: {error}")
        return {}
    return {row.key: row for row in rows}


def _sounds(row: Mapping[str, Any], question: Utterance | None, problems: list[str]) -> tuple[Sound, ...]:
    asked = None if question is None else question.audio if question.audio is not None else question.wav
    span = (None, None) if question is None else (question.start, question.end)
    sources = (("question", asked, span), ("recording", row["recording"], (None, None)), ("generated", row["wav"], (None, None)))
    found = []
    for caption, source, (start, end) in sources:
        if source is None:
            continue
        try:
            found.append(_sound(caption, read_audio(source, start, end, RATE)))
        except UserError as error:
            problems.append(str(error))
    return tuple(found)


def _sound(caption: str, samples_S: np.ndarray) -> Sound:
    seconds, samples_S = len(samples_S) / RATE, samples_S[: int(MAX_SECONDS * RATE)]
    caption += f", {seconds:.1f} s" + (f" (first {MAX_SECONDS:.0f} s)" if seconds > MAX_SECONDS else "")
    flac, picture = encode_pcm16(samples_S, RATE, "FLAC"), spectrogram_png(samples_S)
    return Sound(caption, base64.b64encode(flac).decode(), base64.b64encode(picture).decode(), len(samples_S) / RATE)
