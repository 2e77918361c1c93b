"""Ratings that were paid for are kept: an append-only file of JSON lines, found again by what was asked.

The key is the SHA-256 of the request (model, messages, sampling, seed, number of the sample) and not of the endpoint, so the same model
behind another address finds its answers. A line is one write: a kill leaves at most the last line torn, and a torn line is passed over.
"""

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from osum_echat.errors import UserError
from osum_echat.evaluate.judge_client import Answer


def request_key(request: Mapping[str, Any], sample: int) -> str:
    """Name of the answer to a request."""
    return hashlib.sha256(json.dumps({**request, "sample": sample}, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class AnswerCache:
    """Answers by key, in memory and in one file; safe between threads. Use it in a ``with`` statement.

    Raises:
        UserError: the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_torn = 0
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.exists() else b""
            self._answers = self._parse(content)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            if content and not content.endswith(b"\n"):
                os.write(self._file, b"\n")  # a torn line stays alone
        except OSError as error:
            raise UserError(f"cannot keep the judge's answers in {path}: {error.strerror}; give another --cache") from error

    def __enter__(self) -> "AnswerCache":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._file)

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Answer | None:
        """The answer, when it is known."""
        return self._answers.get(key)

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer; it is on the disk when this returns."""
        line = json.dumps({"key": key, "text": answer.text, "model": answer.model}, ensure_ascii=False) + "\n"
        with self._lock:
            try:
                if os.write(self._file, line.encode()) != len(line.encode()):
                    raise OSError(28, "No space left on device")
                os.fsync(self._file)
            except OSError as error:
                raise UserError(
                    f"{self.path}: {error.strerror}; answers so far are kept: make room and start the same command again"
                ) from error
            self._answers[key] = answer

    def _parse(self, content: bytes) -> dict[str, Answer]:
        answers = {}
        for line in content.splitlines():
            try:
                record = json.loads(line)
                answers[record["key"]] = Answer(record["text"], record["model"])
            except (ValueError, KeyError, TypeError):
                self.num_torn += bool(line.strip())
        return answers
