"""Judging a reply by the words in it, without a network: keywords of sound events, and words a fitting reply has and has not.

English (any script with spaces between words) is matched as whole words, Chinese and Japanese anywhere, both whatever the case. Leaves out
meaning: "I am not sad" names sadness.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

_TAG = re.compile(r"<[^<>]*>")
_CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_NO_LETTER_BEFORE = rf"(?<![^\W{_CJK}])"
_NO_LETTER_BEHIND = rf"(?![^\W{_CJK}])(?!'(?!s\b)[a-z])"  # girl is in girl's, can is not in can't


def normalize(text: str) -> str:
    """Compatibility forms folded (NFKC), no tags, lower case, straight apostrophes."""
    return unicodedata.normalize("NFKC", _TAG.sub(" ", text)).replace("’", "'").casefold()


def first_match(text: str, phrases: Iterable[str]) -> str | None:
    """The first of the phrases that occurs in the text."""
    plain = normalize(text)
    return next((phrase for phrase in phrases if _pattern(phrase).search(plain)), None)


@lru_cache(maxsize=4096)
def _pattern(phrase: str) -> re.Pattern[str]:
    words = normalize(phrase).split()
    if not words:
        raise ValueError(f"nothing to look for in {phrase!r}")
    before, behind = ("" if re.match(f"[{_CJK}]", letter) else edge for letter, edge in _edges(words))
    return re.compile(before + r"\s+".join(re.escape(word) for word in words) + behind)


def _edges(words: Sequence[str]) -> tuple[tuple[str, str], tuple[str, str]]:
    return (words[0][0], _NO_LETTER_BEFORE), (words[-1][-1], _NO_LETTER_BEHIND)


def is_appropriate(reply: str, expect: Sequence[Sequence[str]], forbid: Sequence[str] = ()) -> bool:
    """True when of every group at least one word or phrase occurs in the reply, and of the forbidden ones none."""
    return all(first_match(reply, group) is not None for group in expect) and first_match(reply, forbid) is None
