"""Files written completely or not at all: a reader sees the old file or the whole new one, also after a crash or on a full disk."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from osum_echat.errors import UserError


def write_atomic(path: str | Path, write: Callable[[IO[bytes]], object]) -> None:
    """``write`` fills a temporary file beside ``path``, which is synced and then renamed over it. Makes missing folders.

    Raises:
        UserError: the disk is full or the place cannot be written; what lay at ``path`` is untouched.
    """
    path = Path(path)
    aside = path.with_name(path.name + ".tmp")  # always the same name: what a kill leaves behind is overwritten by the next attempt
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(error, (OSError, RuntimeError)) or not isinstance(cause, OSError):  # torch wraps a failed write into RuntimeError
            raise
        raise UserError(
            f"could not write {path}: {cause.strerror or cause}. Files written earlier are unchanged. Free some space (or choose another "
            "place) and start the same command again: it goes on from what is there."
        ) from error


def write_text(path: str | Path, text: str) -> None:
    """:func:`write_atomic` of a whole text in UTF-8."""
    write_atomic(path, lambda file: file.write(text.encode()))
