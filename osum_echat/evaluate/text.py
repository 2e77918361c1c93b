"""Word and character error rate with alignments, printed in the layout of WeNet's compute-wer.

A reference without a hypothesis counts as deletions and is listed. Tokens are words, or with `char` every CJK letter by itself and
every other word whole. Leaves out number and spelling normalisation.
Edit distance: Levenshtein 1966, computed by rapidfuzz (https://rapidfuzz.github.io/RapidFuzz/).
"""

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein

from osum_echat.evaluate.bootstrap import Interval, interval, ratio

RULER = "=" * 75
_TAG = re.compile(r"<[^<>]*>")
_INSIDE_WORD = "'’-&@_./"  # kept between two letters or digits: don't, e-mail, 3.5


@dataclass(frozen=True)
class Counts:
    """Reference tokens and what became of them."""

    num: int = 0
    correct: int = 0
    substituted: int = 0
    deleted: int = 0
    inserted: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.num + other.num,
            self.correct + other.correct,
            self.substituted + other.substituted,
            self.deleted + other.deleted,
            self.inserted + other.inserted,
        )

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substituted + self.deleted + self.inserted

    @property
    def rate(self) -> float:
        """Errors per reference token; 0 without reference tokens, as compute-wer prints it."""
        return self.errors / self.num if self.num else 0.0

    def show(self) -> str:
        """The tail of a compute-wer line."""
        return f"{100 * self.rate:4.2f} % N={self.num} C={self.correct} S={self.substituted} D={self.deleted} I={self.inserted}"


@dataclass(frozen=True)
class AlignedUtterance:
    """Columns (reference token, hypothesis token); "" stands for nothing."""

    key: str
    columns: tuple[tuple[str, str], ...]
    missing: bool = False

    @property
    def counts(self) -> Counts:
        """Counts over the columns."""
        return sum((_count(lab, rec) for lab, rec in self.columns), Counts())


@dataclass(frozen=True)
class ErrorRate:
    """All utterances of a test set. `extra` are hypotheses nobody asked for; they are not scored."""

    utterances: tuple[AlignedUtterance, ...]
    extra: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Keys of references without a hypothesis."""
        return tuple(utterance.key for utterance in self.utterances if utterance.missing)

    @property
    def total(self) -> Counts:
        """Pooled counts."""
        return sum((utterance.counts for utterance in self.utterances), Counts())

    @property
    def mean_of_utterance(self) -> float:
        """Mean of the utterances' own rates, over those that have reference tokens."""
        rates = [counts.rate for counts in (utterance.counts for utterance in self.utterances) if counts.num]
        return sum(rates) / len(rates) if rates else float("nan")

    def interval(self, speakers: Mapping[str, str | None]) -> Interval:
        """The pooled rate with its 95 % interval; n is the number of utterances."""
        counts = [utterance.counts for utterance in self.utterances]
        features = np.array([[count.errors, count.num] for count in counts], dtype=np.float64).reshape(-1, 2)
        return interval(features, ratio, [speakers.get(utterance.key) for utterance in self.utterances])

    def clusters(self) -> dict[str, Counts]:
        """Counts per script (Mandarin, English, ...); an insertion belongs to the script of the inserted token."""
        found: dict[str, Counts] = {}
        for utterance in self.utterances:
            for lab, rec in utterance.columns:
                name = cluster_of(lab or rec)
                found[name] = found.get(name, Counts()) + _count(lab, rec)
        return found


def _count(lab: str, rec: str) -> Counts:
    if not lab:
        return Counts(inserted=1)
    if not rec:
        return Counts(num=1, deleted=1)
    return Counts(num=1, correct=1) if lab == rec else Counts(num=1, substituted=1)


def tokenize(text: str, *, char: bool = True, case_sensitive: bool = False, punctuation: bool = False) -> list[str]:
    """Tokens to compare: tags in <> removed, compatibility forms folded (NFKC), upper case, no punctuation unless asked for."""
    text = unicodedata.normalize("NFKC", _TAG.sub(" ", text))
    if not case_sensitive:
        text = text.upper()
    if not punctuation:
        text = "".join(" " if _is_punctuation(text, at) else letter for at, letter in enumerate(text))
    if char:
        text = "".join(f" {letter} " if unicodedata.category(letter) == "Lo" else letter for letter in text)
    return text.split()


def _is_punctuation(text: str, at: int) -> bool:
    letter = text[at]
    if unicodedata.category(letter)[0] != "P":
        return False
    between = 0 < at < len(text) - 1 and text[at - 1].isalnum() and text[at + 1].isalnum()
    return not (between and letter in _INSIDE_WORD)


def align_tokens(lab: Sequence[str], rec: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Columns of a cheapest alignment of reference and hypothesis."""
    columns: list[tuple[str, str]] = []
    for step in Levenshtein.opcodes(lab, rec):
        left = list(lab[step.src_start : step.src_end])
        right = list(rec[step.dest_start : step.dest_end])
        width = max(len(left), len(right))
        columns.extend(zip(left + [""] * (width - len(left)), right + [""] * (width - len(right)), strict=True))
    return tuple(columns)


def error_rate(
    references: Mapping[str, str],
    hypotheses: Mapping[str, str],
    *,
    char: bool = True,
    case_sensitive: bool = False,
    punctuation: bool = False,
    ignore: Collection[str] = (),
) -> ErrorRate:
    """Align every reference with its hypothesis; tokens in `ignore` are left out of both."""
    skipped = set(ignore) if case_sensitive else {word.upper() for word in ignore}

    def split(text: str) -> list[str]:
        tokens = tokenize(text, char=char, case_sensitive=case_sensitive, punctuation=punctuation)
        return [token for token in tokens if token not in skipped]

    utterances = [
        AlignedUtterance(key, align_tokens(split(text), split(hypotheses.get(key, ""))), key not in hypotheses)
        for key, text in references.items()
    ]
    return ErrorRate(tuple(utterances), tuple(key for key in hypotheses if key not in references))


def cluster_of(token: str) -> str:
    """Script of a token under compute-wer's names; mixed scripts are Other."""
    names = {_script(letter) for letter in token if letter.isalnum()}
    return names.pop() if len(names) == 1 else "Other"


def _script(letter: str) -> str:
    name = unicodedata.name(letter, "")
    table = (
        ("DIGIT ", "Number"),
        ("CJK UNIFIED IDEOGRAPH", "Mandarin"),
        ("CJK COMPATIBILITY IDEOGRAPH", "Mandarin"),
        ("LATIN ", "English"),
        ("HIRAGANA ", "Japanese"),
        ("KATAKANA ", "Japanese"),
    )
    return next((cluster for start, cluster in table if name.startswith(start)), "Other")


def render(result: ErrorRate, verbose: bool = True) -> Iterator[str]:
    """Lines of a compute-wer file. After WeNet's own lines: the mean over utterances and the missing hypotheses."""
    if verbose:
        for utterance in result.utterances:
            yield from _render_utterance(utterance)
        yield from (RULER, "")
    yield f"Overall -> {result.total.show()}"
    if verbose:
        yield from (f"{name} -> {counts.show()}" for name, counts in sorted(result.clusters().items()))
    yield f"Mean of utterances -> {100 * result.mean_of_utterance:4.2f} %"
    yield f"Missing hypotheses -> {len(result.missing)} of {len(result.utterances)} (counted as deletions)"
    yield from (f"missing: {key}" for key in result.missing)
    if result.extra:
        yield f"Hypotheses without reference -> {len(result.extra)} (not scored)"
    if verbose:
        yield RULER


def _render_utterance(utterance: AlignedUtterance) -> Iterator[str]:
    widths = [max(_display_width(lab), _display_width(rec)) for lab, rec in utterance.columns]
    yield ""
    yield f"utt: {utterance.key}"
    yield f"WER: {utterance.counts.show()}"
    for name, side in (("lab", 0), ("rec", 1)):
        cells = [
            column[side] + " " * (width - _display_width(column[side])) for column, width in zip(utterance.columns, widths, strict=True)
        ]
        yield f"{name}: " + "".join(f"{cell} " for cell in cells)
    yield ""


def _display_width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "AFW" else 1 for letter in text)
