"""One row of a list under the doctor's eyes: task, labels, audio, answer. What is found has a name of ``doctor.KINDS``.

Left out: anything that needs a model (a transcript that is not what is said, a wrong label).
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from osum_echat.audio.io import read_native
from osum_echat.data.source import Drop
from osum_echat.data.source import Row as SourceRow
from osum_echat.errors import DataError
from osum_echat.tasks.task import Task, get_task
from osum_echat.text.tags import KINDS as LABELS
from osum_echat.text.tags import age_from_years, canonical, is_missing
from osum_echat.utterance import Utterance

_CLIP_LEVEL = 0.9995  # of full scale; a normalised recording touches it a few times, a clipped one stays there
_FRAME_SECONDS = 0.1
_LOWEST_RATE = 16000


@dataclass(frozen=True)
class Limits:
    """Where a row or a list becomes suspicious."""

    min_seconds: float = 0.1
    max_seconds: float = 60.0
    max_clipped: float = 0.001  # share of samples at full scale
    silence_db: float = -50.0  # dB re full scale of the loudest tenth of a second
    max_deviations: float = 6.0  # robust deviations of log characters per second, and at least a factor of two
    max_bad: float = 0.0  # share of a list that may be unusable before that is an error
    codebook_size: int = 0  # codes of the speech tokenizer; 0: unknown, only negative ones are wrong
    speaker_overlap: str = "error"  # between training and test: error, warning or ok


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one row."""

    kind: str
    detail: str


@dataclass(frozen=True)
class Recording:
    """What is remembered of audio once it was decoded."""

    seconds: float
    rate: int
    hash: bytes


@dataclass(frozen=True)
class Exam:
    """What is remembered of a row; ``labels`` are canonical.

    ``text`` are the words of ``heard`` (the row's ``wav``): a transcript, or the question of a dialogue, whose ``reply`` is the answer's
    text. A row that is read aloud has only ``text``. ``answer`` is its ``answer_wav``.
    """

    key: str
    origin: str
    task: str = ""
    text: str | None = None
    reply: str | None = None
    speaker: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    heard: Recording | None = None
    answer: Recording | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def said(self) -> str | None:
        """The words of the answer."""
        return self.text if self.reply is None else self.reply


def examine(row: SourceRow, limits: Limits) -> Exam:
    """Everything that can be said about one row alone."""
    if isinstance(row, Drop):
        return Exam(row.key, row.origin, row.task, problems=(Problem(row.reason, row.message),))
    labels, problems = _check_fields(row)
    problems += _check_codes(row, limits.codebook_size)
    task = _task_of(row)
    source = row.audio if row.audio is not None else row.wav
    if source is None and task is not None and task.reads_audio:
        problems.append(Problem("missing_audio", "neither wav nor embedded audio"))
    heard = _listen(source, row.start, row.end, limits, problems)
    answer = _listen(row.answer_wav, None, None, limits, problems, "answer_wav: ")
    in_dialogue = task is not None and task.follow_up is not None
    text, reply = (row.question, row.txt) if in_dialogue else (row.txt, None)
    return Exam(row.key, row.origin, row.task, text, reply, row.speaker, tuple(labels.items()), heard, answer, tuple(problems))


def _listen(
    source: str | bytes | None, start: float | None, end: float | None, limits: Limits, problems: list[Problem], of: str = ""
) -> Recording | None:
    """None without audio that can be decoded; what is wrong is appended to ``problems``, its detail begun with ``of``."""
    if source is None:
        return None
    try:
        samples_S, rate = read_native(source, start, end)
    except DataError as error:
        problems.append(Problem(error.reason, f"{of}{error}"))
        return None
    problems += [Problem(problem.kind, of + problem.detail) for problem in _check_samples(samples_S, rate, limits)]
    return Recording(len(samples_S) / rate, rate, _hash(samples_S))


def _hash(samples_S: np.ndarray) -> bytes:
    """Equal for the same 16-bit audio in any lossless container."""
    return hashlib.blake2b(np.rint(samples_S * 32768.0).astype(np.int32).tobytes(), digest_size=12).digest()


def _task_of(row: Utterance) -> Task | None:
    """None for an unknown task: the row is reported for that alone."""
    try:
        return get_task(row.task)
    except DataError:
        return None


def _check_fields(row: Utterance) -> tuple[dict[str, str], list[Problem]]:
    labels: dict[str, str] = {}
    problems: list[Problem] = []
    unknown: set[str] = set()
    for name in LABELS:
        value = getattr(row, name)
        try:
            if name == "age" and row.age_years is not None:
                labels[name] = age_from_years(row.age_years)
            elif value is not None and not is_missing(name, value):
                labels[name] = canonical(name, value)
        except DataError as error:
            unknown.add(name)
            problems.append(Problem("unknown_label", str(error)))
    try:
        task = get_task(row.task)
    except DataError as error:
        return labels, [*problems, Problem("unknown_task", str(error))]
    absent = ["txt"] if task.transcript and not (row.txt or "").strip() else []
    if task.schedule != "text" and not row.speech_token:
        if row.answer_wav:
            problems.append(Problem("no_speech_token", f"task {row.task}"))
        else:
            absent.append("speech_token")
    absent += [name for name in task.needs if name not in labels and name not in unknown]
    if absent:
        problems.append(Problem("missing_label", f"task {row.task} needs {', '.join(absent)}"))
    return labels, problems


def _check_codes(row: Utterance, codebook_size: int) -> Iterator[Problem]:
    places = [("speech_token", row.speech_token), *((f"history.{n}.speech_token", t.speech_token) for n, t in enumerate(row.history))]
    for place, codes in places:
        wrong = [(n, code) for n, code in enumerate(codes or ()) if code < 0 or (codebook_size and code >= codebook_size)]
        if wrong:
            codebook = f"the codebook of {codebook_size}" if codebook_size else "any codebook"
            yield Problem("bad_speech_token", f"{place}[{wrong[0][0]}] is {wrong[0][1]}, outside {codebook} ({len(wrong)} such)")


def _check_samples(samples_S: np.ndarray, rate: int, limits: Limits) -> Iterator[Problem]:
    seconds = len(samples_S) / rate
    if seconds < limits.min_seconds:
        yield Problem("too_short", f"{seconds:.3f} s")
    if seconds > limits.max_seconds:
        yield Problem("too_long", f"{seconds:.1f} s")
    if rate < _LOWEST_RATE:
        yield Problem("low_rate", f"{rate} Hz")
    clipped = float(np.mean(np.abs(samples_S) >= _CLIP_LEVEL))
    if clipped > limits.max_clipped:
        yield Problem("clipping", f"{100 * clipped:.2f} % of the samples at full scale")
    level = _loudest_db(samples_S, rate)
    if level < limits.silence_db:
        yield Problem("silence", f"loudest tenth of a second at {level:.0f} dB")


def _loudest_db(samples_S: np.ndarray, rate: int) -> float:
    frame = max(1, min(len(samples_S), round(_FRAME_SECONDS * rate)))
    frames = samples_S[: len(samples_S) // frame * frame].reshape(-1, frame)
    power = float(np.max(np.mean(frames.astype(np.float64) ** 2, axis=1)))
    return 10 * math.log10(power) if power > 0 else -200.0
