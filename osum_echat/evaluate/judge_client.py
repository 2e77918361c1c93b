"""One request to an OpenAI-compatible ``/chat/completions`` endpoint, tried again while there is hope.

Tried again with exponential back-off: timeouts, lost connections, 408, 429, 5xx, bodies that are no complete answer. A Retry-After header
is honoured (https://www.rfc-editor.org/rfc/rfc9110#field.retry-after). Any other status is given up at once: asking again would not help.
Redirects are not followed, because they would carry the key to another place. Leaves out: streaming, what an answer means (judge_llm.py).
"""

import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from osum_echat.config_judge import JudgeConfig

_MAX_BODY = 1 << 20
_MAX_MESSAGE = 200
_TRANSIENT = (408, 429)  # too slow, too many; and all from 500 on
_REFUSALS = (401, 403, 404)  # key, rights, address or model: no request of the run can succeed


@dataclass(frozen=True)
class Answer:
    """What the model wrote, and the name under which the endpoint says it ran."""

    text: str
    model: str


class RequestError(Exception):
    """A request was given up. `reason` is a short name to count by; `is_final` says that no other request can succeed either, `is_refusal`
    that the endpoint is there and does not want this one."""

    def __init__(self, reason: str, message: str, is_final: bool = False, is_refusal: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.is_final = is_final
        self.is_refusal = is_refusal


class Stopped(Exception):
    """The run was ended while this request waited."""


class _Transient(Exception):
    """May succeed when tried again; `wait_s` is what the endpoint asked for."""

    def __init__(self, reason: str, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.reason = reason
        self.wait_s = wait_s


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Makes urllib raise the status as an error."""


class ChatClient:
    """Safe to share between threads. `stop` ends all waiting; `sleep` and `now` (seconds since 1970) are for tests."""

    def __init__(
        self,
        config: JudgeConfig,
        api_key: str | None = None,
        sleep: Callable[[float], object] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.stop = threading.Event()
        self._config = config
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {api_key}"} if api_key else {})}
        self._sleep = sleep or self.stop.wait
        self._now = now
        self._opener = urllib.request.build_opener(_NoRedirect)

    def complete(self, request: Mapping[str, Any]) -> Answer:
        """The answer to one request.

        Raises:
            RequestError: given up. Stopped: `stop` was set.
        """
        wait_s = self._config.backoff_s
        for attempt in range(1, self._config.max_tries + 1):
            if self.stop.is_set():
                raise Stopped
            try:
                return self._try(request)
            except _Transient as error:
                if attempt == self._config.max_tries or error.wait_s > self._config.max_wait_s:
                    raise RequestError(error.reason, f"{error} (tried {attempt} times)") from error
                self._sleep(min(max(wait_s, error.wait_s), self._config.max_wait_s))
                wait_s *= 2
        raise AssertionError("max_tries is at least 1")

    def _try(self, request: Mapping[str, Any]) -> Answer:
        url = f"{self._config.base_url}/chat/completions"
        post = urllib.request.Request(url, json.dumps(request).encode(), self._headers, method="POST")
        try:
            with self._opener.open(post, timeout=self._config.timeout_s) as response:
                body = response.read(_MAX_BODY)
        except urllib.error.HTTPError as error:
            raise self._of_status(error) from error
        except urllib.error.URLError as error:
            reason = "timeout" if isinstance(error.reason, TimeoutError) else "connection"
            raise _Transient(reason, f"{url}: {error.reason}") from error
        except TimeoutError as error:
            raise _Transient("timeout", f"{url}: no answer within {self._config.timeout_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise _Transient("connection", f"{url}: {type(error).__name__} {error}".rstrip()) from error
        return _read_answer(body)

    def _of_status(self, error: urllib.error.HTTPError) -> Exception:
        """The exception that stands for a status other than 200."""
        said = _message(error)
        reason, text = f"http_{error.code}", f"status {error.code}" + (f": {said}" if said else "")
        if error.code in _TRANSIENT or error.code >= 500:
            return _Transient(reason, text, self._retry_after(error.headers.get("Retry-After")))
        is_final = error.code in _REFUSALS or 300 <= error.code < 400
        return RequestError(reason, text, is_final, is_refusal=not is_final)

    def _retry_after(self, value: str | None) -> float:
        """Seconds; the header gives them or a date. 0 when it says nothing that can be read."""
        if value is None:
            return 0.0
        if value.strip().isdigit():
            return float(value)
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - self._now())
        except ValueError:
            return 0.0


def _message(error: urllib.error.HTTPError) -> str:
    """What the endpoint says about the error, on one line."""
    try:
        return " ".join(error.read(_MAX_BODY).decode(errors="replace").split())[:_MAX_MESSAGE]
    except (OSError, http.client.HTTPException):
        return ""


def _read_answer(body: bytes) -> Answer:
    try:
        record = json.loads(body)
        text = record["choices"][0]["message"]["content"]
        if not isinstance(text, str):
            raise TypeError(f"content is {type(text).__name__}")
        return Answer(text, str(record.get("model") or ""))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        start = " ".join(body[:_MAX_MESSAGE].decode(errors="replace").split())
        raise _Transient("bad_json", f"not a complete chat completion ({error}): {start}") from error
