"""Texts to be read aloud: where they are cut, and which characters become what."""

from pathlib import Path

import pytest

from osum_echat.errors import DataError
from osum_echat.text.aloud import split_aloud
from osum_echat.text.tokenizer import SentencePieceTokenizer, train_sentencepiece


class Letters:
    """One id a character; knows only the given ones."""

    vocab_size, eos_id, pad_id = 1000, 0, 1

    def __init__(self, known: str = "") -> None:
        self.known = known

    def encode(self, text: str) -> list[int]:
        return list(map(ord, text))

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))

    def covers(self, text: str) -> bool:
        return not self.known or all(letter in self.known for letter in text)


PLAIN = Letters("abcdefghijklmnopqrstuvwxyz ")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("open it", ["open it"]),
        ("Open it. Close it! Why? Well…", ["Open it.", "Close it!", "Why?", "Well…"]),
        ('He said "go." Then he went.', ['He said "go."', "Then he went."]),
        ("It is 3.5 metres.\n\n  A new line", ["It is 3.5 metres.", "A new line"]),
        ("Dr. Who met Mr. J. Smith. So did I. No. Yes", ["Dr. Who met Mr. J. Smith.", "So did I.", "No.", "Yes"]),
        ("你好。我很好！真的？", ["你好。", "我很好！", "真的？"]),
        ("one ... two -- ! three", ["one ...", "two -- !", "three"]),
        ("-- ! --", []),
    ],
)
def test_sentences(text: str, pieces: list[str]) -> None:
    if not pieces:
        with pytest.raises(DataError, match="empty"):
            split_aloud(text, Letters(), 100)
        return
    assert split_aloud(text, Letters(), 100) == pieces


def test_long_sentences_are_cut_where_it_hurts_least() -> None:
    text = "first the door, then the light, then the window and at last everything else"
    assert split_aloud(text, Letters(), 32) == ["first the door, then the light,", "then the window and at last", "everything else"]
    assert split_aloud("a" * 25, Letters(), 10) == ["a" * 10, "a" * 10, "a" * 5]
    assert split_aloud("word " * 1000, Letters(), 30) == ["word word word word word word"] * 166 + ["word word word word"]


def test_five_minutes_are_cut_into_pieces_that_hold_every_word() -> None:
    text = " ".join(f"this is sentence number {at} of a long story, and it goes on." for at in range(400))
    pieces = split_aloud(text, Letters(), 100)
    assert len(pieces) == 400 and " ".join(pieces) == text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("Open the DOOR, please!", "open the door please"),
        ("café naïve", "cafe naive"),
        ("ｆｕｌｌ　ｗｉｄｔｈ", "full width"),
        ("it's well-known \u200band\x07 so/so", "its well known and so so"),
        ("tabs\tand\xa0more", "tabs and more"),
    ],
)
def test_characters_take_the_form_that_is_known(text: str, written: str) -> None:
    assert split_aloud(text, PLAIN, 100) == [written]


def test_marks_that_are_left_out_still_end_sentences() -> None:
    assert split_aloud("Open it. Close it!", PLAIN, 100) == ["open it", "close it"]


@pytest.mark.parametrize(("text", "named"), [("你好 ok 你", "'你' (U+4F60) '好'"), ("5 o'clock", "'5' (U+0035)"), ("hi 😀", "U+1F600")])
def test_characters_without_any_form_are_named(text: str, named: str) -> None:
    with pytest.raises(DataError) as caught:
        split_aloud(text, PLAIN, 100)
    assert named in str(caught.value) and caught.value.reason == "unknown_characters"


@pytest.mark.parametrize("text", ["", " \n\t ", "?!", "'"])
def test_nothing_to_say_is_an_error(text: str) -> None:
    with pytest.raises(DataError, match="empty") as caught:
        split_aloud(text, PLAIN, 100)
    assert caught.value.reason == "empty_text"


def test_a_trained_tokenizer_covers_what_it_was_trained_on(tmp_path: Path) -> None:
    train_sentencepiece(["open the door", "shut that box", "go jump quickly over my fez"] * 4, tmp_path / "m", 340, ["<HAPPY>"])
    tokenizer = SentencePieceTokenizer(tmp_path / "m")
    assert tokenizer.covers("the box") and not tokenizer.covers("The") and not tokenizer.covers("ö")
    assert split_aloud("Open THE Döor.", tokenizer, 50) == ["open the door"]
    with pytest.raises(DataError, match="U\\+4E16"):
        split_aloud("世界", tokenizer, 50)
