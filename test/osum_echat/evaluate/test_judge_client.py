"""One request against an endpoint that misbehaves in every way an endpoint does."""

from types import ModuleType
from typing import Any

import pytest

from osum_echat.config_judge import JudgeConfig, judge_config
from osum_echat.errors import ConfigError
from osum_echat.evaluate.judge_client import ChatClient, RequestError, Stopped

REQUEST = {"model": "m", "messages": [], "temperature": 1.0, "max_tokens": 4, "seed": 1}


def config(endpoint: Any, **options: object) -> JudgeConfig:
    return judge_config({"base_url": endpoint.url, "model": "m", "timeout_s": 20, "backoff_s": 1, "max_tries": 4, **options})


def client(endpoint: Any, waits: list[float], **options: object) -> ChatClient:
    return ChatClient(config(endpoint, **options), "secret", sleep=waits.append, now=lambda: 1_000_000_000.0)


def in_turn(*actions: object) -> Any:
    """Script: these actions one after the other."""
    return lambda request, number: actions[min(number, len(actions) - 1)]


def test_the_request_is_an_openai_one(endpoint: Any, judges: ModuleType) -> None:
    answer = client(endpoint, []).complete(REQUEST)
    assert (answer.text, answer.model) == ("4", "judge-2026")
    got = endpoint.requests[0]
    assert got.path == "/v1/chat/completions" and got.body == REQUEST and got.headers["authorization"] == "Bearer secret"
    ChatClient(config(endpoint)).complete(REQUEST)
    assert "authorization" not in endpoint.requests[1].headers


@pytest.mark.parametrize("kind", ["timeout", "close", "short", "status 408", "status 500", "cut json", "no choices", "no content", "html"])
def test_what_may_pass_is_tried_again_with_longer_waits(endpoint: Any, judges: ModuleType, kind: str) -> None:
    action = {
        "timeout": judges.HANG,
        "close": judges.CLOSE,
        "short": judges.SHORT,
        "status 408": judges.Refuse(408),
        "status 500": judges.Refuse(500),
        "cut json": judges.Raw(b'{"choices": [{"message": {"content": "4'),
        "no choices": judges.Raw(b'{"choices": []}'),
        "no content": judges.Raw(b'{"choices": [{"message": {"content": null}}]}'),
        "html": judges.Raw(b"<html>gateway</html>"),
    }[kind]
    endpoint.script = in_turn(action, action, judges.Say("3"))
    waits: list[float] = []
    timeout_s = 0.3 if kind == "timeout" else 20
    assert client(endpoint, waits, timeout_s=timeout_s).complete(REQUEST).text == "3"
    assert waits == [1.0, 2.0] and len(endpoint.requests) == 3


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("timeout", "timeout"), ("close", "connection"), ("status 502", "http_502"), ("cut json", "bad_json"), ("status 429", "http_429")],
)
def test_it_is_given_up_after_max_tries_under_a_name(endpoint: Any, judges: ModuleType, kind: str, reason: str) -> None:
    refusals = {f"status {status}": judges.Refuse(status) for status in (429, 502)}
    endpoint.script = in_turn({"timeout": judges.HANG, "close": judges.CLOSE, "cut json": judges.Raw(b"{"), **refusals}[kind])
    waits: list[float] = []
    with pytest.raises(RequestError, match="tried 3 times") as caught:
        client(endpoint, waits, max_tries=3, timeout_s=0.3 if kind == "timeout" else 20).complete(REQUEST)
    assert caught.value.reason == reason and not caught.value.is_final
    assert waits == [1.0, 2.0] and len(endpoint.requests) == 3


def test_nobody_listens(endpoint: Any) -> None:
    endpoint.close()
    with pytest.raises(RequestError) as caught:
        client(endpoint, []).complete(REQUEST)
    assert caught.value.reason == "connection"


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("7", 7.0),
        ("0", 1.0),  # never less than the back-off
        ("Sun, 09 Sep 2001 01:46:50 GMT", 10.0),  # ten seconds after the clock of the test
        ("Sun, 09 Sep 2001 01:00:00 GMT", 1.0),  # has passed
        ("soon", 1.0),
    ],
)
def test_retry_after_is_honoured(endpoint: Any, judges: ModuleType, header: str, wait: float) -> None:
    endpoint.script = in_turn(judges.Refuse(429, {"Retry-After": header}), judges.Say("2"))
    waits: list[float] = []
    assert client(endpoint, waits).complete(REQUEST).text == "2"
    assert waits == [wait]


def test_waits_have_a_limit(endpoint: Any, judges: ModuleType) -> None:
    endpoint.script = in_turn(judges.Refuse(503))
    waits: list[float] = []
    with pytest.raises(RequestError):
        client(endpoint, waits, max_tries=5, max_wait_s=3).complete(REQUEST)
    assert waits == [1.0, 2.0, 3.0, 3.0]
    endpoint.script = in_turn(judges.Refuse(429, {"Retry-After": "3600"}))
    waits.clear()
    with pytest.raises(RequestError, match="tried 1 times"):
        client(endpoint, waits).complete(REQUEST)
    assert waits == []


@pytest.mark.parametrize(("status", "is_final"), [(400, False), (401, True), (403, True), (404, True), (422, False)])
def test_refusals_are_not_tried_again(endpoint: Any, judges: ModuleType, status: int, is_final: bool) -> None:
    endpoint.script = in_turn(judges.Refuse(status, body='{"error": "wrong\n  key"}'))
    with pytest.raises(RequestError, match=f'status {status}: {{"error": "wrong key"}}') as caught:
        client(endpoint, []).complete(REQUEST)
    assert (caught.value.reason, caught.value.is_final, len(endpoint.requests)) == (f"http_{status}", is_final, 1)


def test_redirects_do_not_carry_the_key_away(endpoint: Any, judges: ModuleType) -> None:
    endpoint.script = in_turn(judges.Refuse(302, {"Location": f"{endpoint.url}/elsewhere"}))
    with pytest.raises(RequestError, match="status 302") as caught:
        client(endpoint, []).complete(REQUEST)
    assert caught.value.is_final and len(endpoint.requests) == 1


def test_stop_ends_the_trying(endpoint: Any, judges: ModuleType) -> None:
    endpoint.script = in_turn(judges.Refuse(500))
    asked = ChatClient(config(endpoint), sleep=lambda seconds: asked.stop.set())
    with pytest.raises(Stopped):
        asked.complete(REQUEST)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"samples": 2}, "--samples"),
        ({"base_url": "localhost:8000"}, "--base_url"),
        ({"base_url": "https://me:pw@host/v1"}, "no password"),
        ({"temperature": "warm"}, "--temperature"),
        ({"model": ""}, "--model"),
        ({"max_tries": 0}, "--max_tries"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        judge_config({"base_url": "http://h/v1", "model": "m", **options})
    assert "pw" not in str(caught.value)
