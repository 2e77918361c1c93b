"""Interleaving against a reference that walks element by element, for all lengths that occur."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osum_echat.tasks.interleave import blocks, deinterleave, interleave


def naive(text: list, speech: list, n: int, m: int) -> list:
    """One element at a time: while text is left, n of text then m of speech; the last of the speech is kept for the very end."""
    text, body, last = list(text), list(speech[:-1]), list(speech[-1:])
    out = []
    while text:
        for _ in range(n):
            if text:
                out.append(text.pop(0))
        for _ in range(m):
            if body:
                out.append(body.pop(0))
    return out + body + last


@settings(max_examples=300, deadline=None)
@given(num_text=st.integers(0, 200), num_speech=st.integers(0, 400), n=st.integers(1, 9), m=st.integers(1, 30))
def test_equals_the_naive_reference_and_inverts(num_text, num_speech, n, m):
    text, speech = list(range(num_text)), list(range(1000, 1000 + num_speech))
    for ratio in ((n, m), (6, 18)):
        mixed = interleave(text, speech, *ratio)
        assert mixed == naive(text, speech, *ratio)
        assert deinterleave(mixed, lambda token: token < 1000) == (text, speech)
        if speech:
            assert mixed[-1] == speech[-1]


def test_every_text_length_and_every_speech_length_at_the_papers_ratio():
    """Each length of the one kind meets a dozen of the other, drawn anew for each."""
    rng = random.Random(0)
    pairs = [(num_text, rng.randint(0, 400)) for num_text in range(201) for _ in range(12)]
    pairs += [(rng.randint(0, 200), num_speech) for num_speech in range(401) for _ in range(12)]
    for num_text, num_speech in pairs:
        text, speech = list(range(num_text)), list(range(1000, 1000 + num_speech))
        mixed = interleave(text, speech)
        assert mixed == naive(text, speech, 6, 18), (num_text, num_speech)
        assert deinterleave(mixed, lambda token: token < 1000) == (text, speech)


def test_every_short_length_at_the_papers_ratio():
    for num_text in range(0, 40):
        for num_speech in range(0, 60):
            text, speech = list(range(num_text)), list(range(1000, 1000 + num_speech))
            assert interleave(text, speech) == naive(text, speech, 6, 18)


def runs(num_text: int, num_speech: int) -> str:
    merged: list[list] = []
    for is_text, length in blocks(num_text, num_speech):
        name = "T" if is_text else "S"
        if merged and merged[-1][0] == name:
            merged[-1][1] += length
        else:
            merged.append([name, length])
    return " ".join(f"{name}{length}" for name, length in merged)


@pytest.mark.parametrize(
    ("num_text", "num_speech", "expected"),
    [
        (7, 60, "T6 S18 T1 S42"),  # the examples of osum_contract §2
        (6, 60, "T6 S60"),
        (12, 36, "T6 S18 T6 S18"),
        (13, 39, "T6 S18 T6 S18 T1 S3"),
        (20, 5, "T6 S4 T14 S1"),  # speech runs out first: its closing boundary waits for the end
        (12, 18, "T6 S17 T6 S1"),
        (3, 0, "T3"),
        (0, 4, "S4"),
        (0, 0, ""),
    ],
)
def test_examples(num_text, num_speech, expected):
    assert runs(num_text, num_speech) == expected


def test_ratio_must_be_positive():
    with pytest.raises(ValueError, match="0 text : 18 speech"):
        interleave([1], [2], n=0)


def test_a_cut_off_answer_can_be_taken_apart():
    mixed = interleave(list(range(13)), list(range(1000, 1039)))[:-5]
    text, speech = deinterleave(mixed, lambda token: token < 1000)
    assert text == list(range(12)) and speech == list(range(1000, 1035))
