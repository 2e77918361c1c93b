"""Pieces of HTML that several sections of the report share."""

from collections.abc import Iterable
from html import escape


def words(columns: Iterable[tuple[str, str]]) -> str:
    """Aligned words (reference, answer), errors marked."""
    return f'<div class="words">{" ".join(_word(lab, rec) for lab, rec in columns)}</div>'


def _word(lab: str, rec: str) -> str:
    if lab == rec:
        return f"<span>{escape(lab)}</span>"
    if not rec:
        return f'<span class="del" title="not answered">{escape(lab)}</span>'
    if not lab:
        return f'<span class="ins" title="not said">{escape(rec)}</span>'
    return f'<span class="sub" title="reference: {escape(lab)}">{escape(lab)} → {escape(rec)}</span>'


def chip(text: str, is_good: bool | None = None) -> str:
    """A small label: neutral, good or bad."""
    look = "" if is_good is None else " ok" if is_good else " no"
    return f'<span class="chip{look}">{escape(text)}</span>'


def player(flac_base64: str) -> str:
    """An audio player with its sound inside."""
    return f'<audio controls preload="metadata" src="data:audio/flac;base64,{flac_base64}"></audio>'
