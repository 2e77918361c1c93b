"""osum-echat score echat as a command: files and status, an endpoint that goes down, a kill in the middle."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from osum_echat.bin.main import main


def arguments(judges: ModuleType, folder: Path, *more: object) -> list[str]:
    listing, decode = folder / "echat.list", folder / "d"
    if not listing.exists():
        judges.write_test_set(folder)
    return ["score", "echat", *map(str, ("--ref", listing, "--hyp", decode, "--results", folder / "results.json", *more))]


def llm(endpoint: Any, *more: object) -> tuple[object, ...]:
    return (
        "--judge",
        "llm",
        "--model",
        "m",
        "--base_url",
        endpoint.url,
        "--backoff_s",
        0.001,
        "--max_tries",
        1,
        "--max_concurrent",
        2,
        *more,
    )


def test_offline(judges: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("the rule judge used the network"))
    assert main(arguments(judges, tmp_path, "--judge", "rule", "--variant", "direct", "--tasks", "emotion,event")) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == {"echat.emotion.direct", "echat.event.direct"} and results["echat.emotion.direct"]["value"] == 50.0
    assert json.loads((tmp_path / "d" / "judge_rule.json").read_text())["variant"] == "direct"
    out = capsys.readouterr().out
    assert "NOT comparable with an LLM judge's numbers" in out and "echat.event.direct" in out


def test_through_an_endpoint_from_the_environment(
    endpoint: Any, judges: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    assert main(arguments(judges, tmp_path, "--judge", "llm", "--model", "m", "--samples", 4)) == 0
    assert len(endpoint.requests) == 5 * 4 and endpoint.requests[0].headers["authorization"] == "Bearer sk-secret"
    assert json.loads((tmp_path / "results.json").read_text())["echat.multi"]["value"] == 80.0
    written = "".join(path.read_text() for path in (tmp_path / "d").iterdir()) + (tmp_path / "results.json").read_text()
    said = capsys.readouterr()
    assert "sk-secret" not in written + said.out + said.err
    assert json.loads((tmp_path / "d" / "judge_llm.json").read_text())["config"]["samples"] == 4
    assert main(arguments(judges, tmp_path, "--judge", "llm", "--model", "m", "--samples", 4)) == 0
    assert len(endpoint.requests) == 20  # nothing is asked twice


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--judge", "llm"), "needs --model and an endpoint"),
        (("--judge", "llm", "--model", "m"), "--judge rule needs no network"),
        (("--judge", "llm", "--model", "m", "--base_url", "http://h/v1", "--samples", "1"), "--samples"),
        (("--judge", "llm", "--model", "m", "--base_url", "http://h/v1", "--synthesized", "s"), "belong together"),
        (("--judge", "rule", "--tasks", "mood"), "unknown task 'mood'"),
    ],
)
def test_wrong_calls(
    judges: ModuleType,
    tmp_path: Path,
    more: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert main(arguments(judges, tmp_path, *more)) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "results.json").exists()


def test_endpoint_down(endpoint: Any, judges: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = '{"rtf": {"value": 0.1, "n": 1, "lo": null, "hi": null}}'
    call = arguments(judges, tmp_path, *llm(endpoint))
    (tmp_path / "results.json").write_text(before)
    endpoint.script = lambda request, number: judges.Say("5") if number < 4 else judges.Refuse(503)
    assert main(call) == 2
    said = capsys.readouterr()
    assert "endpoint was given up (status 503" in said.err and "Run the same command again" in said.err and "PARTIAL" in said.out
    partial = json.loads((tmp_path / "d" / "judge_llm.json").read_text())
    assert partial["partial"] is True and partial["tasks"]["emotion"]["note"].startswith("PARTIAL")
    assert sum(len(row.get("ratings", ())) for row in partial["rows"]) == 4
    assert (tmp_path / "results.json").read_text() == before
    endpoint.script = lambda request, number: judges.Say("5")
    endpoint.requests.clear()
    assert main(call) == 0
    assert len(endpoint.requests) == 15 - 4
    assert json.loads((tmp_path / "d" / "judge_llm.json").read_text())["partial"] is False
    assert json.loads((tmp_path / "results.json").read_text())["echat.emotion"]["value"] == 100.0


def test_nothing_answered_is_asked_twice_after_a_kill(endpoint: Any, judges: ModuleType, tmp_path: Path, root: Path) -> None:
    call = arguments(judges, tmp_path, *llm(endpoint))
    endpoint.script = lambda request, number: judges.Say(str(1 + request.body["seed"] % 5)) if number < 7 else judges.HANG
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen([sys.executable, "-m", "osum_echat.bin.main", *call], env=environment, stderr=subprocess.PIPE, text=True)
    # Two threads ask, each only after its last answer is on the disk: when both wait, seven answers are kept.
    if not all(endpoint.num_hanging.acquire(timeout=120) for _ in range(2)):
        process.kill()
        pytest.fail(f"the command did not ask: {process.communicate()[1]}")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "results.json").exists()
    endpoint.released.set()
    answered = Counter(request.body["seed"] for request in endpoint.requests[:7])
    killed = {request.body["seed"] for request in endpoint.requests[7:]}
    endpoint.requests.clear()
    endpoint.script = lambda request, number: judges.Say(str(1 + request.body["seed"] % 5))
    assert main(call) == 0
    again = Counter(request.body["seed"] for request in endpoint.requests)
    assert len(answered) == 7 and not answered & again and killed <= set(again)
    assert sum(again.values()) == 15 - 7 and max(again.values()) == 1
    undisturbed = tmp_path / "other"
    assert main(arguments(judges, undisturbed, *llm(endpoint))) == 0
    assert (undisturbed / "results.json").read_text() == (tmp_path / "results.json").read_text()
