"""Writing text: completely or not at all; and the lines of a Kaldi `text` file."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path


def write_atomic(path: Path, text: str) -> None:
    """Write so that a reader sees the old file or the whole new one, also after a crash or on a full disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def kaldi_text(texts: Mapping[str, str]) -> str:
    """``key text`` a line; line breaks inside a text become spaces because the format has none."""
    return "".join(f"{key} {' '.join(text.split())}".rstrip() + "\n" for key, text in texts.items())
