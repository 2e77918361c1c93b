"""Error rates against counts worked out by hand and against jiwer."""

import random

import jiwer
import pytest

from osum_echat.evaluate.text import Counts, align_tokens, cluster_of, error_rate, render, tokenize


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, world!", ["HELLO", "WORLD"]),
        ("don't <HAPPY> e-mail", ["DON'T", "E-MAIL"]),
        ("a 3.5 b.", ["A", "3.5", "B"]),
        ("今天AI很好。", ["今", "天", "AI", "很", "好"]),
        ("ｆｕｌｌ　width", ["FULL", "WIDTH"]),
        ("«quoted» – dash", ["QUOTED", "DASH"]),
        ("", []),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert tokenize(text) == expected


def test_counts_equal_jiwer_on_random_sentences() -> None:
    rng = random.Random(0)
    for _ in range(100):
        ref = [rng.choice("abcd") for _ in range(rng.randint(1, 12))]
        hyp = [rng.choice("abcd") for _ in range(rng.randint(0, 12))]
        ours = error_rate({"u": " ".join(ref)}, {"u": " ".join(hyp)}).total
        theirs = jiwer.process_words(" ".join(ref), " ".join(hyp))
        assert ours.errors == theirs.substitutions + theirs.deletions + theirs.insertions
        assert ours.num == len(ref) and ours.correct + ours.substituted + ours.deleted == len(ref)


def test_columns_read_back_as_both_sides() -> None:
    columns = align_tokens(["a", "b", "c", "d"], ["a", "x", "d", "e"])
    assert [lab for lab, _ in columns if lab] == ["a", "b", "c", "d"]
    assert [rec for _, rec in columns if rec] == ["a", "x", "d", "e"]


def test_missing_hypothesis_counts_as_deletions_and_an_extra_one_not_at_all() -> None:
    result = error_rate({"a": "one two", "b": "three four"}, {"a": "one two", "z": "five six seven"})
    assert result.missing == ("b",) and result.extra == ("z",)
    assert result.total == Counts(num=4, correct=2, deleted=2)


def test_pooled_and_mean_of_utterance_differ() -> None:
    result = error_rate({"a": "x", "b": "p q r"}, {"a": "y", "b": "p q r"})
    assert result.total.rate == pytest.approx(0.25)
    assert result.mean_of_utterance == pytest.approx(0.5)


def test_interval_resamples_speakers() -> None:
    refs = {f"u{at}": "a b" for at in range(20)}
    hyps = {key: ("a b" if int(key[1:]) < 10 else "x y") for key in refs}
    by_speaker = error_rate(refs, hyps).interval({key: "s1" if int(key[1:]) < 10 else "s2" for key in refs})
    by_utterance = error_rate(refs, hyps).interval({})
    assert (by_speaker.unit, by_speaker.num_groups, by_speaker.lo, by_speaker.hi) == ("speaker", 2, 0.0, 1.0)
    assert by_utterance.unit == "utterance" and 0.2 < by_utterance.lo < 0.5 < by_utterance.hi < 0.8
    assert by_speaker.value == by_utterance.value == 0.5 and by_utterance.num == 20


def test_wide_letters_keep_columns_aligned() -> None:
    lines = list(render(error_rate({"u": "中 国 a"}, {"u": "中 a"})))
    lab = next(line for line in lines if line.startswith("lab"))
    rec = next(line for line in lines if line.startswith("rec"))
    assert (lab, rec) == ("lab: 中 国 A ", "rec: 中    A ")


def test_clusters() -> None:
    assert [cluster_of(token) for token in ("中国", "DON'T", "3.5", "AB3", "か", "&")] == [
        "Mandarin",
        "English",
        "Number",
        "Other",
        "Japanese",
        "Other",
    ]
