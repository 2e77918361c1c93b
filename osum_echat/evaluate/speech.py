"""Scores of spoken answers: the words of a reply, what a recogniser hears in its speech, how near it is to a recording.

Everything is read from files (spoken.py). The recogniser is an interface of one file: a Kaldi `text` of what it heard in the synthesized
speech, as `osum-echat decode --task asr` leaves it and as any other recogniser can write it. What the speech should say is the row's own
text for tasks that read aloud, the model's own text for replies: a wrong reply well spoken is no error of the speech. Missing speech counts
as deletions. Speech is compared with the recording `answer_wav` unless the reply is another one.

Scores (percent with 95 % bootstrap intervals): text (replies exactly right after normalisation), wer, wer_added (above that of the
recordings through the same recogniser), empty (no speech, or no words in a reply), truncated; mcd (dB), f0_corr (mean over utterances),
f0_rmse (Hz, over all frames voiced in both), duration_ratio (all seconds over all seconds of the recordings).

Shapes: R bootstrap draws.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from osum_echat.audio.io import read_audio
from osum_echat.errors import DataError
from osum_echat.evaluate.acoustic import RATE, Comparison, compare
from osum_echat.evaluate.bootstrap import Interval, interval, ratio
from osum_echat.evaluate.results import Score
from osum_echat.evaluate.spoken import Speech, Spoken
from osum_echat.evaluate.text import ErrorRate, error_rate, render, tokenize
from osum_echat.files import write_text
from osum_echat.utterance import Utterance

SPEECH_FILE = "speech.json"
Progress = Callable[[int, int], None]
"""(utterances compared, utterances to compare)"""


@dataclass(frozen=True)
class SpokenRow:
    """One utterance: `ref` is the text of the list, `says` what the speech should say, `written` None for a task that writes nothing."""

    key: str
    speaker: str | None
    ref: str
    says: str
    written: str | None
    heard: str | None
    empty: bool
    truncated: bool
    wav: str | None = None
    recording: str | None = None
    comparison: Comparison | None = None

    @property
    def right(self) -> bool | None:
        """True when exactly the words of the reference were written."""
        return None if self.written is None else bool(self.written) and tokenize(self.written) == tokenize(self.ref)

    def to_json(self) -> dict[str, Any]:
        """An entry of speech.json."""
        texts = {name: getattr(self, name) for name in ("ref", "says", "written", "heard", "empty", "truncated", "wav", "recording")}
        numbers = {} if self.comparison is None else asdict(self.comparison)
        return {**texts, "right": self.right, **{name: _finite(value) for name, value in numbers.items()}}


@dataclass(frozen=True)
class SpeechScore:
    """All scores of one decode; what was not given is None. `skipped` says by key why speech could not be compared."""

    rows: tuple[SpokenRow, ...]
    words: ErrorRate | None
    words_of_recordings: ErrorRate | None
    was_decoded: bool
    skipped: Mapping[str, str]

    @property
    def speakers(self) -> dict[str, str | None]:
        """By key."""
        return {row.key: row.speaker for row in self.rows}

    def results(self, prefix: str) -> dict[str, Score]:
        """Entries of results.json."""
        rates: dict[str, Interval] = {}
        judged = [row for row in self.rows if row.written is not None]
        if judged:
            rates["text"] = _share([bool(row.right) for row in judged], judged)
        if self.words is not None:
            rates["wer"] = self.words.interval(self.speakers)
        if self.words is not None and self.words_of_recordings is not None:
            rates["wer_added"] = _added(self.words, self.words_of_recordings, self.speakers)
        if self.was_decoded:
            rates["empty"] = _share([row.empty for row in self.rows], self.rows)
            rates["truncated"] = _share([row.truncated for row in self.rows], self.rows)
        scores = {name: Score.percent(rate) for name, rate in rates.items()} | self._acoustic()
        return {f"{prefix}.{name}": score for name, score in scores.items()}

    def _acoustic(self) -> dict[str, Score]:
        compared = [(row, row.comparison) for row in self.rows if row.comparison is not None]
        if not compared:
            return {}
        with_pitch = [(row, found) for row, found in compared if math.isfinite(found.f0_corr)]
        return {
            "mcd": _score([(row, (found.mcd_db, 1.0)) for row, found in compared], ratio),
            "f0_corr": _score([(row, (found.f0_corr, 1.0)) for row, found in with_pitch], ratio),
            "f0_rmse": _score([(row, (found.f0_square_error, found.num_voiced)) for row, found in compared], _root_ratio),
            "duration_ratio": _score([(row, (found.seconds, found.ref_seconds)) for row, found in compared], ratio),
        }


def score_speech(
    references: Sequence[Utterance],
    spoken: Spoken,
    speech: Speech | None = None,
    heard: Mapping[str, str] | None = None,
    heard_in_recordings: Mapping[str, str] | None = None,
    progress: Progress = lambda done, total: None,
) -> SpeechScore:
    """Score spoken answers to a list.

    Args:
        references: rows of the list, with `txt`, and `answer_wav` where there is a recording.
        spoken: what was decoded. speech: the sound of it. heard: transcripts of that sound by key.
        heard_in_recordings: transcripts of `answer_wav` by the same recogniser.
    """
    wavs = speech.wavs if speech is not None else {}
    rows = [_judge(row, spoken, wavs.get(row.key), heard) for row in references]
    compared, skipped = _compare(rows, progress)
    return SpeechScore(
        rows=tuple(replace(row, comparison=compared.get(row.key)) for row in rows),
        words=None if heard is None else error_rate({row.key: row.says for row in rows}, heard),
        words_of_recordings=None if heard_in_recordings is None else error_rate({row.key: row.ref for row in rows}, heard_in_recordings),
        was_decoded=spoken.was_decoded,
        skipped=skipped,
    )


def _judge(row: Utterance, spoken: Spoken, wav: str | None, heard: Mapping[str, str] | None) -> SpokenRow:
    """A row that was not decoded is empty, and wrong where a text was to be written."""
    ref = (row.txt or "").strip()
    is_there = row.key in spoken.says or row.key in spoken.written if spoken.was_decoded else wav is not None
    return SpokenRow(
        key=row.key,
        speaker=row.speaker,
        ref=ref,
        says=spoken.says.get(row.key, ref),
        written=spoken.written.get(row.key, "") if spoken.writes else None,
        heard=None if heard is None else heard.get(row.key, ""),
        empty=row.key in spoken.empty or not is_there,
        truncated=row.key in spoken.truncated,
        wav=wav,
        recording=row.answer_wav,
    )


def _compare(rows: Sequence[SpokenRow], progress: Progress) -> tuple[dict[str, Comparison], dict[str, str]]:
    """Comparisons by key, and why others could not be made."""
    pairs = [(row.key, row.recording, row.wav) for row in rows if row.recording and row.wav and row.right is not False]
    found: dict[str, Comparison] = {}
    skipped: dict[str, str] = {}
    for done, (key, recording, generated) in enumerate(pairs, 1):
        try:
            found[key] = compare(read_audio(recording, rate=RATE), read_audio(generated, rate=RATE))
        except DataError as error:
            skipped[key] = str(error)
        progress(done, len(pairs))
    return found, skipped


def write_speech(scored: SpeechScore, folder: Path, facts: Mapping[str, Any]) -> list[Path]:
    """Write `wer` and `speech.json` (`facts` and every row); returns what was written."""
    written = [folder / SPEECH_FILE]
    content = {**facts, "skipped": dict(scored.skipped), "rows": {row.key: row.to_json() for row in scored.rows}}
    write_text(written[0], json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    if scored.words is not None:
        written.append(folder / "wer")
        write_text(written[-1], "\n".join(render(scored.words)) + "\n")
    return written


def _share(flags: Sequence[bool], rows: Sequence[SpokenRow]) -> Interval:
    return interval(np.array([[flag, 1.0] for flag in flags]), ratio, [row.speaker for row in rows])


def _score(items: Sequence[tuple[SpokenRow, tuple[float, float]]], statistic: Callable[[np.ndarray], np.ndarray]) -> Score:
    found = interval(np.array([numbers for _, numbers in items]).reshape(-1, 2), statistic, [row.speaker for row, _ in items])
    return Score(found.value, found.num, found.lo, found.hi)


def _root_ratio(sums_RF: np.ndarray) -> np.ndarray:
    return np.sqrt(ratio(sums_RF))


def _added(got: ErrorRate, base: ErrorRate, speakers: Mapping[str, str | None]) -> Interval:
    """Difference of two pooled error rates over the same utterances, which are drawn together."""
    counts = [(one.key, one.counts, two.counts) for one, two in zip(got.utterances, base.utterances, strict=True)]
    features = np.array([[one.errors, one.num, two.errors, two.num] for _, one, two in counts], dtype=np.float64)
    return interval(features, lambda sums_RF: ratio(sums_RF[:, :2]) - ratio(sums_RF[:, 2:]), [speakers.get(key) for key, _, _ in counts])


def _finite(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
