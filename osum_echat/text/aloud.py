"""A text to be read aloud: in pieces of one sentence, in characters a tokenizer knows.

A small tokenizer knows the characters it was trained on; others it spells in bytes, which its model has never heard. So a character without
a piece is written in the form that has one: lower case, compatibility form (NFKC), without its accent. Punctuation without a piece is left
out, anything else is an error that names it. Leaves out: numbers and abbreviations in words.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping

from osum_echat.errors import DataError
from osum_echat.text.tokenizer import Tokenizer

_CLOSING = re.escape("\"'”’)）】」』")
_SENTENCE = re.compile(rf"[.!?;…]+[{_CLOSING}]*(?=\s|$)|[…。！？；]+[{_CLOSING}]*")
_CLAUSE = re.compile(r"[,:—]+(?=\s|$)|[，、：]+")
_TITLES = ("dr", "jr", "mr", "mrs", "ms", "prof", "sr", "st", "vs")  # a full stop behind these ends nothing
_APOSTROPHES = "'’"


def split_aloud(text: str, tokenizer: Tokenizer, max_ids: int) -> list[str]:
    """Sentences in order; one of more than `max_ids` text ids is cut at commas, else between words, else between characters.

    Raises DataError unknown_characters, and empty_text when there is nothing to say.
    """
    forms = {character: _known_form(character, tokenizer) for character in dict.fromkeys(text)}
    strange = [character for character, form in forms.items() if form is None]
    if strange:
        some = " ".join(f"{character!r} (U+{ord(character):04X})" for character in strange[:8]) + (" …" if len(strange) > 8 else "")
        todo = "write the text in characters the model was trained on"
        raise DataError(f"the tokenizer has no piece for {some}; {todo}", "unknown_characters")
    cutter = _Cutter(tokenizer, max_ids, {character: form or "" for character, form in forms.items()})
    pieces = [piece for line in text.splitlines() for sentence in _cut(line, _SENTENCE) for piece in cutter.pieces(sentence)]
    if not pieces:
        raise DataError("the text is empty: there is no letter or digit to be said", "empty_text")
    return pieces


def _known_form(character: str, tokenizer: Tokenizer) -> str | None:
    """The character or what stands for it; None when nothing does."""
    if character.isspace():
        return " "
    plain = unicodedata.normalize("NFKC", character)
    bare = "".join(part for part in unicodedata.normalize("NFKD", character) if not unicodedata.combining(part))
    for form in (character, plain, bare):
        for spelling in (form, form.lower()):
            if spelling and tokenizer.covers(spelling):
                return spelling
    if character in _APOSTROPHES or unicodedata.category(character) in ("Cc", "Cf"):
        return ""
    return " " if unicodedata.category(character)[0] == "P" else None


class _Cutter:
    """Writes pieces of a text in known characters, none longer than it may be."""

    def __init__(self, tokenizer: Tokenizer, max_ids: int, forms: Mapping[str, str]) -> None:
        self._tokenizer = tokenizer
        self._max_ids = max_ids
        self._forms = forms

    def pieces(self, text: str) -> list[str]:
        """`text` in one piece or more; none when it has no letter and no digit."""
        if self._fits(text):
            written = self._write(text)
            return [written] if any(map(str.isalnum, written)) else []
        for parts, glue in ((list(_cut(text, _CLAUSE)), " "), (text.split(), " "), (list(text), "")):
            if len(parts) > 1:
                return [piece for run in self._gather(parts, glue) for piece in self.pieces(run)]
        return [self._write(text)]  # one character that takes more ids than a piece may have

    def _gather(self, parts: list[str], glue: str) -> list[str]:
        """Neighbours together as long as they fit."""
        runs: list[str] = []
        for part in parts:
            if runs and self._fits(runs[-1] + glue + part):
                runs[-1] += glue + part
            else:
                runs.append(part)
        return runs

    def _fits(self, text: str) -> bool:
        return len(self._tokenizer.encode(self._write(text))) <= self._max_ids

    def _write(self, text: str) -> str:
        return " ".join("".join(self._forms[character] for character in text).split())


def _cut(text: str, marks: re.Pattern[str]) -> Iterator[str]:
    """`text` behind each mark, outer spaces removed, nothing empty."""
    begin = 0
    for match in marks.finditer(text):
        word = text[begin : match.start()].rpartition(" ")[2]
        is_initial = len(word) == 1 and word.isupper() and word != "I"
        if match.group() == "." and (word.lower() in _TITLES or is_initial):
            continue
        yield text[begin : match.end()].strip()
        begin = match.end()
    if text[begin:].strip():
        yield text[begin:].strip()
