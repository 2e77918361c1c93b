"""Think blocks: any paragraph comes back, and the end is found in decoded text however a tokenizer cuts it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osum_echat.text.think import BEGIN, END, EndWatch, Thought, escape, split_think, unescape, words_said

PARAGRAPHS = [
    "",
    "She sounds sad. 她很难过。",
    "one <think end> two",
    "<think end>",
    r"<\think end>",
    r"<\\think end><think end>",
    "🙂 <think> again",
    "<think",
    "a <think end",
]


@pytest.mark.parametrize("paragraph", PARAGRAPHS)
@pytest.mark.parametrize("reply", ["", "good", "<think end> again", "<SAD>oh"])
def test_any_paragraph_comes_back(paragraph: str, reply: str) -> None:
    assert split_think(BEGIN + escape(paragraph) + END + reply) == Thought(paragraph, reply)


@given(st.text(st.sampled_from("<\\think ed>。🙂"), max_size=40), st.lists(st.sampled_from([END, r"<\think end>", "x", "<"]), max_size=5))
def test_escaping_is_undone_and_leaves_no_end_mark(text: str, parts: list[str]) -> None:
    for paragraph in (text, "".join(parts), text + "".join(parts)):
        assert END not in escape(paragraph) and unescape(escape(paragraph)) == paragraph


def test_answers_without_or_with_half_a_block() -> None:
    assert split_think("good morning") == Thought(None, "good morning")
    assert split_think("  <think>a<think end> b") == Thought("a", " b")
    assert split_think("<think>words that never end") == Thought("words that never end", "")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("<think>i am home<SAD><think end><SAD>i am sorry", "i am sorry"),
        ("good <HAPPY>morning", "good morning"),
        ("<think>achoo<think end> <think>achoo<SNEEZE>", ""),
        ("<think>a block that never ends", ""),
    ],
)
def test_only_words_of_the_reply_are_said(answer: str, said: str) -> None:
    assert words_said(answer) == said


class Pieces:
    """A tokenizer whose ids are given strings."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def decode(self, ids: list[int]) -> str:
        return "".join(self.pieces[token] for token in ids)


@pytest.mark.parametrize(
    ("pieces", "ends_at"),
    [
        (["<think>", "hm", "<think end>", "ok"], 2),
        (["<think>hm。<", "think", " end", ">ok"], 3),
        (["<", "t", "h", "i", "n", "k", " ", "e", "n", "d", ">"], 10),
        (["<think>", "<think <think end>go"], 1),
        (["<think>", r"<\think end>", "<think end"], None),
    ],
)
def test_the_end_is_found_in_decoded_text(pieces: list[str], ends_at: int | None) -> None:
    watch = EndWatch(Pieces(pieces))  # type: ignore[arg-type]
    found = [token for token in range(len(pieces)) if watch.push(token)]
    assert found[:1] == ([] if ends_at is None else [ends_at])
