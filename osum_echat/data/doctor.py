"""Examines data lists before a training run spends hours on them: every row and its audio, each list, then training against test.

``check_lists`` gives a ``Diagnosis`` whose verdict is ok, warnings or errors; ``doctor_html.render`` draws it. What can be found stands in
``KINDS``, with its severity and what to do about it. Outliers are judged by the median and the median absolute deviation
(https://en.wikipedia.org/wiki/Median_absolute_deviation), so a few wild rows do not hide each other.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from osum_echat.config import SourceConfig
from osum_echat.data.doctor_rows import LABELS, Exam, Limits, Problem, Recording, examine
from osum_echat.data.source import SOURCES
from osum_echat.errors import DataError
from osum_echat.processes import clean_context, heed_sigterm

_MAX_EXAMPLES = 20
_ROWS_PER_JOB = 100
_MIN_ROWS_FOR_RATES = 20
_RARE_SHARE = 0.02
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_MAD_TO_SIGMA = 1.4826  # of a normal distribution


class Kind(NamedTuple):
    """What a finding means: error, warning or info, a title for the report and what to do."""

    severity: str
    title: str
    advice: str


# Row errors are tolerated up to Limits.max_bad of a list; list errors are not.
_ROW_ERRORS: dict[str, Kind] = {
    "bad_json": Kind("error", "Broken rows", "Mend or remove the named lines."),
    "bad_tar": Kind("error", "Broken shards", "Write the shard again; the manifest beside its list holds the checksum it had."),
    "bad_data": Kind("error", "Unusable rows", "Mend or remove the named rows."),
    "missing_audio": Kind("error", "Audio is missing", "Check the path, or remove the row."),
    "corrupt_audio": Kind("error", "Audio cannot be decoded", "Convert the file again, or remove the row."),
    "empty_audio": Kind("error", "Audio has no samples", "Remove the row; for segments check start and end."),
    "nan_audio": Kind("error", "Audio holds NaN or infinite samples", "Convert the file again."),
    "bad_speech_token": Kind("error", "Speech tokens outside the codebook", "Extract them again with the tokenizer that training uses."),
    "unknown_task": Kind("error", "Unknown tasks", "Use a name of docs/adding_a_task.md, or set `task` of the source."),
    "unknown_label": Kind("error", "Labels outside the inventory", "Map them (aliases: osum_echat/text/tags.py) or remove the field."),
    "missing_label": Kind("error", "The task needs a field that is not there", "Add the field, or give the row another task."),
}
_LIST_ERRORS: dict[str, Kind] = {
    "bad_list": Kind("error", "The list cannot be used", "See the message."),
    "duplicate_key": Kind("error", "The same key twice in a list", "Keys must be unique within a list."),
    "key_leak": Kind("error", "Keys of a test list in a training list", "Remove them from one side: such scores mean nothing."),
    "audio_leak": Kind("error", "The same audio in training and test", "Remove it from one side: such scores mean nothing."),
    "exchange_leak": Kind("error", "Questions of a test list with the same reply in a training list", "Remove them from one side."),
    "speaker_leak": Kind("error", "Speakers of a test list in a training list", "Split by speaker, or say --speaker_overlap ok."),
}
_WARNINGS: dict[str, Kind] = {
    "clipping": Kind("warning", "Clipped audio", "Record or convert with less gain."),
    "silence": Kind("warning", "Silent audio", "Nothing louder than the limit; probably an empty recording."),
    "too_short": Kind("warning", "Very short audio", "Training drops what is below data.filter.min_seconds."),
    "too_long": Kind("warning", "Very long audio", "Training drops what is above data.filter.max_seconds; cut it with `segments`."),
    "low_rate": Kind("warning", "Sampling rate below 16 kHz", "It is resampled, but the band above half the rate stays empty."),
    "duplicate_audio": Kind("warning", "The same audio under several keys of a list", "Fine when wanted; otherwise remove the copies."),
    "text_rate": Kind("warning", "Transcript too long or too short for its audio", "Often a shifted transcript: listen to some."),
    "rare_class": Kind("warning", "Classes with less than 2 % of the labels", "Weight them up, or expect poor recall."),
    "unseen_class": Kind("warning", "Test labels that never occur in training", "They cannot be learnt from these lists."),
    "no_speech_token": Kind("info", "Answers without speech tokens", "Run `osum-echat prepare speech-tokens` before training."),
    "same_text": Kind(
        "info", "Transcripts or questions that occur in training and test", "Fine for fixed word sets; else the test is too easy."
    ),
    "mixed_rates": Kind("info", "Several sampling rates", "Make sure that the rate does not give a label away."),
}
KINDS: dict[str, Kind] = {**_ROW_ERRORS, **_LIST_ERRORS, **_WARNINGS}
_SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True)
class ListSpec:
    """A list to examine; ``split`` is train, dev or test."""

    split: str
    source: SourceConfig

    @property
    def name(self) -> str:
        return self.source.list


@dataclass
class Finding:
    """All occurrences of one kind in one place."""

    kind: str
    severity: str
    where: str
    count: int
    examples: list[dict[str, str]]

    def to_json(self) -> dict[str, Any]:
        """With the title and the advice, for readers without the table."""
        return {**vars(self), "title": KINDS[self.kind].title, "advice": KINDS[self.kind].advice}


@dataclass
class AudioSummary:
    """All recordings of one kind in a list."""

    hours: float
    rates: dict[str, int]
    seconds: list[float] = field(repr=False)
    chars_per_second: list[float] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Distributions become their quantiles."""
        return {**vars(self), "seconds": _quantiles(self.seconds), "chars_per_second": _quantiles(self.chars_per_second)}


@dataclass
class ListSummary:
    """Counts of one list; ``audio`` is what is heard, ``answers`` what is to be said."""

    name: str
    split: str
    num: int
    num_speakers: int
    tasks: dict[str, int]
    labels: dict[str, dict[str, int]]
    audio: AudioSummary
    answers: AudioSummary

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**vars(self), "audio": self.audio.to_json(), "answers": self.answers.to_json()}


@dataclass
class Diagnosis:
    """One summary per list and everything that was found, worst first."""

    lists: list[ListSummary]
    findings: list[Finding]

    @property
    def verdict(self) -> str:
        """ok, warnings or errors."""
        worst = {finding.severity for finding in self.findings}
        return "errors" if "error" in worst else "warnings" if "warning" in worst else "ok"

    def to_json(self) -> dict[str, Any]:
        """What doctor.json holds."""
        return {"verdict": self.verdict, "lists": [x.to_json() for x in self.lists], "findings": [x.to_json() for x in self.findings]}


def detect_kind(path: str) -> str:
    """raw, shard or combine, from the first line of a list."""
    if not Path(path).is_file():
        raise DataError(f"{path}: no such list", "bad_list")
    with open(path, encoding="utf-8", errors="replace") as file:
        first = next((line.strip() for line in file if line.strip()), "")
    return "raw" if first.startswith("{") else "combine" if "|" in first else "shard"


def check_lists(
    specs: Sequence[ListSpec], limits: Limits | None = None, num_jobs: int = 1, progress: Callable[[int, int], None] | None = None
) -> Diagnosis:
    """Examines every row of every list with ``num_jobs`` processes; ``progress(done, total)`` counts rows of raw lists and tars."""
    limits = limits or Limits()
    exams: list[list[Exam]] = [[] for _ in specs]
    findings: list[Finding] = []
    jobs: list[tuple[int, int, int]] = []
    for number, spec in enumerate(specs):
        try:
            size = len(SOURCES[spec.source.kind](spec.source.list))
        except DataError as error:
            kind = error.reason if error.reason in _LIST_ERRORS else "bad_list"
            findings.append(_finding(kind, spec.name, [("", str(error), "")]))
            continue
        step = _ROWS_PER_JOB if spec.source.kind == "raw" else 1
        jobs += [(number, start, min(start + step, size)) for start in range(0, size, step)]
    done, total = 0, sum(end - start for _, start, end in jobs)
    for (number, start, end), found in _run_jobs(jobs, specs, limits, num_jobs):
        exams[number] += found
        done += end - start
        if progress:
            progress(done, total)
    for spec, table in zip(specs, exams, strict=True):
        findings += _list_findings(spec, table, limits)
    findings += _split_findings(specs, exams, limits)
    findings.sort(key=lambda finding: (_SEVERITIES.index(finding.severity), -finding.count))
    return Diagnosis([_summary(spec, table) for spec, table in zip(specs, exams, strict=True)], findings)


def _run_jobs(
    jobs: Sequence[tuple[int, int, int]], specs: Sequence[ListSpec], limits: Limits, num_jobs: int
) -> Iterator[tuple[tuple[int, int, int], list[Exam]]]:
    work = partial(_examine_range, specs=specs, limits=limits)
    if num_jobs <= 1 or len(jobs) <= 1:
        yield from zip(jobs, map(work, jobs), strict=True)
        return
    with clean_context().Pool(min(num_jobs, len(jobs)), heed_sigterm) as pool:
        yield from zip(jobs, pool.imap(work, jobs), strict=True)


def _examine_range(job: tuple[int, int, int], specs: Sequence[ListSpec], limits: Limits) -> list[Exam]:
    number, start, end = job
    source = SOURCES[specs[number].source.kind](specs[number].source.list)
    return [examine(make(), limits) for index in range(start, end) for make in source.rows(index)]


Example = tuple[str, str, str]  # key, detail, origin


def _finding(kind: str, where: str, examples: Sequence[Example], severity: str | None = None) -> Finding:
    shown = [{"key": key, "detail": detail, "origin": origin} for key, detail, origin in examples[:_MAX_EXAMPLES]]
    return Finding(kind, severity or KINDS[kind].severity, where, len(examples), shown)


def _list_findings(spec: ListSpec, exams: Sequence[Exam], limits: Limits) -> Iterator[Finding]:
    by_kind: dict[str, list[Example]] = defaultdict(list)
    for exam in exams:
        for problem in exam.problems:
            kind = problem.kind if problem.kind in KINDS else "bad_data"
            by_kind[kind].append((exam.key, problem.detail, exam.origin))
    num_bad = sum(any(_is_row_error(problem) for problem in exam.problems) for exam in exams)
    tolerated = num_bad <= limits.max_bad * len(exams)
    by_kind["text_rate"] += _odd_rates(_heard(exams), limits) + _odd_rates(_answers(exams), limits)
    by_kind["duplicate_key"] += _repeated([(exam.key, exam) for exam in exams if exam.key])
    by_kind["duplicate_audio"] += _repeated([(exam.heard.hash, exam) for exam in exams if exam.heard])
    by_kind["rare_class"] += _rare_classes(exams)
    for of, recordings in (("rows", _heard(exams)), ("answers", _answers(exams))):
        rates = Counter(recording.rate for recording, _, _ in recordings)
        if len(rates) > 1:
            by_kind["mixed_rates"] += [("", f"{num} {of} at {rate} Hz", "") for rate, num in rates.most_common()]
    for kind, examples in by_kind.items():
        if examples:
            yield _finding(kind, spec.name, examples, "warning" if tolerated and kind in _ROW_ERRORS else None)


def _is_row_error(problem: Problem) -> bool:
    return problem.kind in _ROW_ERRORS or problem.kind not in KINDS


Spoken = tuple[Recording, str, Exam]  # a recording, its words ("" where nobody wrote them down), whose it is


def _heard(exams: Sequence[Exam]) -> list[Spoken]:
    return [(exam.heard, exam.text or "", exam) for exam in exams if exam.heard]


def _answers(exams: Sequence[Exam]) -> list[Spoken]:
    return [(exam.answer, exam.said or "", exam) for exam in exams if exam.answer]


def _odd_rates(spoken: Sequence[Spoken], limits: Limits) -> list[Example]:
    """Characters per second far from the median of their script, as log ratios."""
    odd: list[Example] = []
    for is_cjk in (False, True):
        timed = [(*item, rate) for item in spoken if (rate := _chars_per_second(item)) and bool(_CJK.search(item[1])) == is_cjk]
        if len(timed) < _MIN_ROWS_FOR_RATES:
            continue
        logs = np.log([rate for *_, rate in timed])
        median = float(np.median(logs))
        limit = max(math.log(2), limits.max_deviations * _MAD_TO_SIGMA * float(np.median(np.abs(logs - median))))
        for (recording, text, exam, rate), value in zip(timed, logs, strict=True):
            if abs(value - median) > limit:
                detail = f"{rate:.1f} characters/s, median {math.exp(median):.1f}: {text[:60]!r} in {recording.seconds:.2f} s"
                odd.append((exam.key, detail, exam.origin))
    return odd


def _chars_per_second(spoken: Spoken) -> float | None:
    recording, text, _ = spoken
    num = len(text.replace(" ", ""))
    return num / recording.seconds if num else None


def _repeated(pairs: Sequence[tuple[Any, Exam]]) -> list[Example]:
    first: dict[Any, Exam] = {}
    found = []
    for value, exam in pairs:
        earlier = first.setdefault(value, exam)
        if earlier is not exam:
            found.append((exam.key, f"first seen as {earlier.key} at {earlier.origin}", exam.origin))
    return found


def _label_counts(exams: Sequence[Exam]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {name: Counter() for name in LABELS}
    for exam in exams:
        for name, value in exam.labels:
            counts[name][value] += 1
    return {name: counter for name, counter in counts.items() if counter}


def _rare_classes(exams: Sequence[Exam]) -> list[Example]:
    return [
        ("", f"{name} {value}: {num} of {counter.total()}", "")
        for name, counter in _label_counts(exams).items()
        for value, num in counter.items()
        if num < _RARE_SHARE * counter.total()
    ]


def _split_findings(specs: Sequence[ListSpec], exams: Sequence[Sequence[Exam]], limits: Limits) -> Iterator[Finding]:
    """Training against each other list; development lists are no test, but they leak all the same.

    Leaks of speakers and audio are judged by what is heard: the voice of all answers is meant to be the same, and replies may repeat.
    """
    train = [exam for spec, table in zip(specs, exams, strict=True) if spec.split == "train" for exam in table]
    if not train:
        return
    keys, audio = {e.key for e in train} - {""}, {e.heard.hash for e in train if e.heard}
    speakers = {e.speaker for e in train if e.heard} - {None}
    texts, counts = {e.text for e in train} - {None, ""}, _label_counts(train)
    exchanges = {(e.text, e.reply) for e in train if e.text and e.reply}
    for spec, table in zip(specs, exams, strict=True):
        if spec.split == "train":
            continue
        by_speaker = {e.speaker: e for e in reversed(table) if e.heard and e.speaker in speakers}
        found = {
            "key_leak": [(e.key, "", e.origin) for e in table if e.key in keys],
            "audio_leak": [(e.key, "", e.origin) for e in table if e.heard and e.heard.hash in audio],
            "exchange_leak": [(e.key, repr(f"{e.text}: {e.reply}"[:100]), e.origin) for e in table if (e.text, e.reply) in exchanges],
            "speaker_leak": [(e.key, f"speaker {name}", e.origin) for name, e in by_speaker.items()],
            "same_text": [(e.key, repr((e.text or "")[:60]), e.origin) for e in table if e.text in texts],
            "unseen_class": [
                ("", f"{name} {value}: {num} in {spec.split}", "")
                for name, counter in _label_counts(table).items()
                for value, num in counter.items()
                if value not in counts.get(name, {})
            ],
        }
        if limits.speaker_overlap == "ok":
            del found["speaker_leak"]
        for kind, examples in found.items():
            if examples:
                yield _finding(kind, spec.name, examples, limits.speaker_overlap if kind == "speaker_leak" else None)


def _summary(spec: ListSpec, exams: Sequence[Exam]) -> ListSummary:
    return ListSummary(
        name=spec.name,
        split=spec.split,
        num=len(exams),
        num_speakers=len({exam.speaker for exam in exams if exam.speaker}),
        tasks=dict(Counter(exam.task for exam in exams).most_common()),
        labels={name: dict(counter.most_common()) for name, counter in _label_counts(exams).items()},
        audio=_audio_summary(_heard(exams)),
        answers=_audio_summary(_answers(exams)),
    )


def _audio_summary(spoken: Sequence[Spoken]) -> AudioSummary:
    seconds = [recording.seconds for recording, _, _ in spoken]
    return AudioSummary(
        hours=round(sum(seconds) / 3600, 4),
        rates={str(rate): num for rate, num in Counter(recording.rate for recording, _, _ in spoken).most_common()},
        seconds=seconds,
        chars_per_second=[rate for item in spoken if (rate := _chars_per_second(item))],
    )


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    points = {"min": 0.0, "p5": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
    return {name: round(float(np.quantile(values, point)), 3) for name, point in points.items()}
