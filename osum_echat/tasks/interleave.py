"""Interleaving text and speech ids at a fixed ratio, and its inverse (OSUM-EChat, arXiv:2508.09600: 6 text ids, then 18 speech codes).

Blocks of n text ids and m speech ids alternate until the text, whose last id is eos, is used up; then follows the rest of the speech. The
first speech id is the opening boundary and counts as one of the m. The last one, the closing boundary, always ends the answer: when speech
runs out first, the remaining text comes before it. Pure Python on lists; which ids are text is the caller's knowledge (text/vocab.py).
"""

from collections.abc import Callable, Iterator, Sequence

TEXT_BLOCK, SPEECH_BLOCK = 6, 18


def blocks(num_text: int, num_speech: int, n: int = TEXT_BLOCK, m: int = SPEECH_BLOCK) -> Iterator[tuple[bool, int]]:
    """(is_text, length) of each run, in order; runs of length 0 are left out and equal neighbours may follow each other."""
    if n <= 0 or m <= 0:
        raise ValueError(f"blocks must have positive lengths, got {n} text : {m} speech")
    closing = min(num_speech, 1)
    body = num_speech - closing
    while num_text:
        length = min(n, num_text)
        yield True, length
        num_text -= length
        length = min(m, body)
        if length:
            yield False, length
        body -= length
    if body + closing:
        yield False, body + closing


def interleave(text_ids: Sequence[int], speech_ids: Sequence[int], n: int = TEXT_BLOCK, m: int = SPEECH_BLOCK) -> list[int]:
    """One list of `text_ids` (eos last) and `speech_ids` (boundary first and last) in alternating blocks."""
    mixed: list[int] = []
    text_at = speech_at = 0
    for is_text, length in blocks(len(text_ids), len(speech_ids), n, m):
        if is_text:
            mixed += text_ids[text_at : text_at + length]
            text_at += length
        else:
            mixed += speech_ids[speech_at : speech_at + length]
            speech_at += length
    return mixed


def deinterleave(ids: Sequence[int], is_text: Callable[[int], bool]) -> tuple[list[int], list[int]]:
    """The text and the speech ids of an interleaved list, whatever its ratio; also of one that was cut off while being generated."""
    return [token for token in ids if is_text(token)], [token for token in ids if not is_text(token)]
