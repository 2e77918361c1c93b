"""A chat-completions endpoint on the loopback that answers, refuses, cuts off or says nothing, as a test wants it."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Say:
    """A completion with this content."""

    text: str
    model: str = "judge-2026"


@dataclass(frozen=True)
class Refuse:
    """A status other than 200."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = '{"error": {"message": "no"}}'


@dataclass(frozen=True)
class Raw:
    """Status 200 with these bytes."""

    body: bytes


HANG, CLOSE, SHORT = "hang", "close", "short"
"""Say nothing until released; close without a word; promise more bytes than come."""


@dataclass(frozen=True)
class Received:
    """A request as it came in."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def item(self) -> dict[str, str]:
        """The object the judge is to rate."""
        return json.loads(self.body["messages"][1]["content"])


class Endpoint:
    """`script(request, number)` decides what happens to request `number` (from 0)."""

    def __init__(self) -> None:
        self.script: Callable[[Received, int], object] = lambda request, number: Say("4")
        self.requests: list[Received] = []
        self.num_hanging = threading.Semaphore(0)
        self.released = threading.Event()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer._serve(self)

            def do_GET(self) -> None:
                outer._serve(self)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        raw = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        request = Received(handler.path, {name.lower(): value for name, value in handler.headers.items()}, json.loads(raw or b"{}"))
        with self._lock:
            self.requests.append(request)
            number = len(self.requests) - 1
        with contextlib.suppress(OSError):  # the client has left
            _act(handler, self.script(request, number), self)


def _act(handler: BaseHTTPRequestHandler, action: object, endpoint: Endpoint) -> None:
    if action == HANG:
        endpoint.num_hanging.release()
        endpoint.released.wait(60)
        action = CLOSE
    if action == CLOSE:
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True
        return
    if isinstance(action, Refuse):
        _send(handler, action.status, action.body.encode(), action.headers)
    elif isinstance(action, Say):
        choice = {"index": 0, "message": {"role": "assistant", "content": action.text}, "finish_reason": "stop"}
        _send(handler, 200, json.dumps({"model": action.model, "choices": [choice]}).encode(), {})
    elif isinstance(action, Raw):
        _send(handler, 200, action.body, {})
    elif action == SHORT:
        _send(handler, 200, b'{"choices": [', {"Content-Length": "500"})
        handler.close_connection = True


def _send(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


REPLIES = {
    "e0": "I am sorry to hear that.",
    "e1": "How wonderful!",
    "a0": "Let us count the stars, little one.",
    "g0": "Good evening, sir.",
    "v0": "Bless you, that was quite a sneeze.",
    "m0": "Take a sip of water, that cough sounds rough.",
}


def write_test_set(folder: Path) -> tuple[Path, Path]:
    """A list of six test rows and the decode directory that answers them; returns both paths."""
    rows = [
        _row("e0", "emotion", [["sorry", "sad"]], emotion="sad"),
        _row("e1", "emotion", [["glad"]], emotion="happy"),
        _row("a0", "age", [["little one"]], age="child"),
        _row("g0", "gender", [["sir"]], gender="male"),
        _row("v0", "event", [], event="sneezing"),
        _row("m0", "multi", [["cough"], ["water", "tea"]], age=70, gender="female", event="cough", emotion="worried"),
    ]
    listing, decode = folder / "echat.list", folder / "d"
    decode.mkdir(parents=True)
    listing.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (decode / "text").write_text("".join(f"{key} {text}\n" for key, text in REPLIES.items()))
    (decode / "decode.json").write_text(json.dumps({"task": "s2t", "list": str(listing), "data_type": "raw"}))
    return listing, decode


def _row(key: str, task: str, expect: list[list[str]], **labels: object) -> dict[str, object]:
    fixed = {"key": key, "wav": f"{key}.wav", "question": f"question {key}", "txt": "a reference", "speaker": f"s{key[1]}"}
    return {**fixed, **labels, "extra": {"echat": {"task": task, "expect": expect}}}
