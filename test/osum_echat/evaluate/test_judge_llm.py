"""Ratings: what counts as one, asking again, failures by reason, order of arrival, the cache, an endpoint that goes down."""

import json
import os
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from osum_echat.config_judge import judge_config
from osum_echat.errors import UserError
from osum_echat.evaluate.judge_cache import AnswerCache, request_key
from osum_echat.evaluate.judge_client import Answer, ChatClient
from osum_echat.evaluate.judge_llm import JudgeRun, LlmJudge, Question, make_request, read_rating, seed_of

QUESTIONS = [
    Question(f"k{at}", [{"role": "system", "content": "rate"}, {"role": "user", "content": json.dumps({"at": str(at)})}]) for at in range(6)
]


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("4", 4),
        (" 5.\n", 5),
        ("**3**", 3),
        ("Score: 2", 2),
        ("rating is 1", 1),
        ("4/5", 4),
        ("评分：3分", 3),
        ("0", "out_of_range"),
        ("6", "out_of_range"),
        ("-3", "out_of_range"),
        ("45", "out_of_range"),
        ("10/5", "out_of_range"),
        ("4.5", "non_numeric"),
        ("3-4", "non_numeric"),
        ("4 out of 10", "non_numeric"),
        ("four", "non_numeric"),
        ("I rate this 4", "non_numeric"),
        ('{"score": 4', "non_numeric"),
        ("9" * 5000, "non_numeric"),
        ("", "non_numeric"),
    ],
)
def test_a_rating_is_one_whole_number(text: str, rating: int | str) -> None:
    assert read_rating(text) == rating


def run(endpoint: Any, cache: Path, questions: list[Question] = QUESTIONS, **options: object) -> JudgeRun:
    plain = {"base_url": endpoint.url, "model": "m", "backoff_s": 0.001, "max_tries": 2, "max_concurrent": 1}
    config = judge_config({**plain, **options})
    with AnswerCache(cache) as kept:
        return LlmJudge(config, ChatClient(config, sleep=lambda seconds: None), kept).rate(questions)


def test_every_sample_has_a_seed_of_its_own_and_the_same_one_every_time(endpoint: Any, tmp_path: Path) -> None:
    run(endpoint, tmp_path / "c", samples=4)
    seeds = [request.body["seed"] for request in endpoint.requests]
    assert len(seeds) == len(set(seeds)) == 24 and all(0 <= seed < 2**31 for seed in seeds)
    assert seeds[:2] == [seed_of(777, "k0", 0), seed_of(777, "k0", 1)]
    run(endpoint, tmp_path / "other", samples=4)
    assert [request.body["seed"] for request in endpoint.requests[24:]] == seeds
    run(endpoint, tmp_path / "third", samples=3, seed=1)
    assert not {request.body["seed"] for request in endpoint.requests[48:]} & set(seeds)


@pytest.mark.parametrize(("said", "reason"), [("fine, I guess", "non_numeric"), ("7", "out_of_range")])
def test_a_bad_answer_is_asked_again_under_another_seed(endpoint: Any, judges: ModuleType, tmp_path: Path, said: str, reason: str) -> None:
    endpoint.script = lambda request, number: judges.Say("5" if number == 2 else said)
    found = run(endpoint, tmp_path / "c", QUESTIONS[:1], max_asks=3)
    assert found.ratings["k0"].ratings == (5,)  # the third time; the other samples fail
    assert found.ratings["k0"].failures == (reason, reason) and found.failures == {reason: 2}
    assert len(endpoint.requests) == 3 + 3 + 3 and len({request.body["seed"] for request in endpoint.requests}) == 9
    assert found.down is None  # it answers, though badly


def test_failures_are_never_ratings_and_are_asked_for_by_the_next_run(endpoint: Any, judges: ModuleType, tmp_path: Path) -> None:
    endpoint.script = lambda request, number: judges.Raw(b"{") if request.item["at"] == "2" else judges.Say("4")
    found = run(endpoint, tmp_path / "c", down_after=99)
    assert found.ratings["k2"].ratings == () and found.failures == {"bad_json": 3}
    assert all(found.ratings[f"k{at}"].ratings == (4, 4, 4) for at in (0, 1, 3, 4, 5))
    endpoint.script = lambda request, number: judges.Say("1")
    endpoint.requests.clear()
    again = run(endpoint, tmp_path / "c")
    assert {request.item["at"] for request in endpoint.requests} == {"2"} and len(endpoint.requests) == 3
    assert again.ratings["k2"].ratings == (1, 1, 1) and again.ratings["k0"].ratings == (4, 4, 4)
    assert (again.num_asked, again.num_known, not again.failures) == (3, 15, True)


def test_ratings_do_not_depend_on_the_order_of_arrival(endpoint: Any, judges: ModuleType, tmp_path: Path) -> None:
    endpoint.script = lambda request, number: judges.Say(str(1 + request.body["seed"] % 5), "m" + str(request.body["seed"] % 2))
    one = run(endpoint, tmp_path / "one")
    together, turn, answered = threading.Barrier(6), threading.Condition(), [0, 0, 0]

    def backwards(request: Any, number: int) -> object:
        """Waits for six requests; the last of them is answered first."""
        batch, place = divmod(number - 18, 6)
        together.wait(20)
        with turn:
            assert turn.wait_for(lambda: answered[batch] == 5 - place, 20)
            answered[batch] += 1
            turn.notify_all()
        return judges.Say(str(1 + request.body["seed"] % 5), "m" + str(request.body["seed"] % 2))

    endpoint.script = backwards
    other = run(endpoint, tmp_path / "other", max_concurrent=6)
    assert other.ratings == one.ratings and len({found.ratings for found in one.ratings.values()}) > 3
    assert len(endpoint.requests) == 36


def test_no_more_requests_at_a_time_than_allowed(endpoint: Any, judges: ModuleType, tmp_path: Path) -> None:
    barrier, lock, now, most = threading.Barrier(3), threading.Lock(), [0], [0]

    def script(request: Any, number: int) -> object:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        barrier.wait(20)  # three are under way together, or this breaks
        with lock:
            now[0] -= 1
        return judges.Say("3")

    endpoint.script = script
    assert run(endpoint, tmp_path / "c", max_concurrent=3).down is None
    assert most == [3]


def test_an_endpoint_that_goes_down_leaves_what_was_rated(endpoint: Any, judges: ModuleType, tmp_path: Path) -> None:
    endpoint.script = lambda request, number: judges.Say("4") if number < 7 else judges.Refuse(503)
    found = run(endpoint, tmp_path / "c", down_after=2)
    assert found.down is not None and "status 503" in found.down
    assert len(endpoint.requests) == 7 + 2 * 2  # two requests, two tries each
    assert [len(found.ratings[f"k{at}"].ratings) for at in range(6)] == [3, 3, 1, 0, 0, 0]
    assert found.ratings["k5"].num_unfinished == 3 and found.ratings["k5"].failures == ()
    endpoint.script = lambda request, number: judges.Say("4")
    endpoint.requests.clear()
    assert run(endpoint, tmp_path / "c").down is None and len(endpoint.requests) == 18 - 7


def test_some_bad_replies_are_no_reason_to_stop(endpoint: Any, judges: ModuleType, tmp_path: Path) -> None:
    """Requests given up in a row count, not all of them."""
    bad = {seed_of(777, key, 1) for key in ("k1", "k3", "k4")}
    endpoint.script = lambda request, number: judges.Refuse(400) if request.body["seed"] in bad else judges.Say("4")
    found = run(endpoint, tmp_path / "c", down_after=2)
    assert found.down is None and found.failures == {"http_400": 3} and len(found.ratings["k1"].ratings) == 2


def test_a_wrong_key_ends_the_run_at_once(endpoint: Any, judges: ModuleType, tmp_path: Path) -> None:
    endpoint.script = lambda request, number: judges.Refuse(401, body="wrong key")
    found = run(endpoint, tmp_path / "c", down_after=9)
    assert found.down == "status 401: wrong key" and len(endpoint.requests) == 1


def test_answers_are_found_by_what_was_asked_not_where() -> None:
    config = judge_config({"base_url": "http://a/v1", "model": "m"})
    same = judge_config({"base_url": "http://b/v1", "model": "m", "max_concurrent": 2, "samples": 5})
    key = request_key(make_request(config, QUESTIONS[0], 0), 0)
    assert key == request_key(make_request(same, QUESTIONS[0], 0), 0)
    others = [
        request_key(make_request(judge_config({"base_url": "http://a/v1", "model": "m", **change}), question, sample), sample)
        for change, question, sample in (
            ({"model": "n"}, QUESTIONS[0], 0),
            ({"temperature": 0.5}, QUESTIONS[0], 0),
            ({"max_tokens": 9}, QUESTIONS[0], 0),
            ({"seed": 1}, QUESTIONS[0], 0),
            ({}, QUESTIONS[1], 0),
            ({}, QUESTIONS[0], 1),
            ({}, Question("k0", [{"role": "user", "content": "other words"}]), 0),
        )
    ]
    assert len({key, *others}) == 8


def test_a_torn_line_costs_one_answer(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with AnswerCache(path) as cache:
        for at in range(3):
            cache.put(f"k{at}", Answer(str(at), "m"))
    path.write_bytes(path.read_bytes()[:-9])
    with AnswerCache(path) as cache:
        assert (len(cache), cache.num_torn, cache.get("k2"), cache.get("k1")) == (2, 1, None, Answer("1", "m"))
        cache.put("k3", Answer("二", "m"))
    with AnswerCache(path) as cache:
        assert (len(cache), cache.num_torn, cache.get("k3")) == (3, 1, Answer("二", "m"))
    assert all(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[3:])


def test_a_kept_answer_that_is_no_rating_is_asked_for_again(endpoint: Any, tmp_path: Path) -> None:
    run(endpoint, tmp_path / "c", QUESTIONS[:1])
    (tmp_path / "c").write_text((tmp_path / "c").read_text().replace('"text": "4"', '"text": "soso"', 1))
    endpoint.requests.clear()
    assert run(endpoint, tmp_path / "c", QUESTIONS[:1]).ratings["k0"].ratings == (4, 4, 4)
    assert len(endpoint.requests) == 1


def test_a_cache_that_cannot_be_written_is_an_error(endpoint: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot keep the judge's answers"):
        AnswerCache(tmp_path)
    config = judge_config({"base_url": endpoint.url, "model": "m"})
    with Path("/dev/full").open("w") as full, AnswerCache(tmp_path / "c") as cache:
        os.dup2(full.fileno(), cache._file)
        with pytest.raises(UserError, match="make room"):
            LlmJudge(config, ChatClient(config), cache).rate(QUESTIONS)
