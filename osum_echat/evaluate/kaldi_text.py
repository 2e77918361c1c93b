"""Kaldi `text` files as dictionaries: ``key transcript`` a line, an empty transcript allowed."""

from pathlib import Path

from osum_echat.data.kaldi import read_table


def read_kaldi_text(path: Path) -> dict[str, str]:
    """Transcripts by key in file order; a key that stands twice is an error, an empty file is a decode that gave nothing."""
    if path.is_file() and not path.stat().st_size:
        return {}
    return {key: entry.value for key, entry in read_table(path, allow_empty=True).items()}
