"""Ratings of replies by a language model (G-Eval, arXiv:2303.16634, draws several too): requests, what counts as a rating, failures.

Every reply is rated `samples` times, each with a seed of its own, so the outcome does not depend on the order in which answers arrive. An
answer that is no whole number from 1 to 5 is asked for again under another seed, at most `max_asks` times; what fails is counted under a
reason and never becomes a rating. Ratings are kept (judge_cache.py): the same command, started again, asks only for what is missing. When
the endpoint is down, the run ends with what there is.
"""

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from osum_echat.config_judge import JudgeConfig
from osum_echat.evaluate.judge_cache import AnswerCache, request_key
from osum_echat.evaluate.judge_client import ChatClient, RequestError, Stopped

LOWEST, HIGHEST = 1, 5
_RATING = re.compile(r"(?:(?:score|rating|评分|分数|得分)\s*(?:is|[:：=])?\s*)?(-?\d{1,9})\s*(?:/\s*5|分)?")
_DECORATION = " \t\r\n*_`\"'.。!"


@dataclass(frozen=True)
class Question:
    """A reply to be rated: its row's key and the messages of the request."""

    key: str
    messages: Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Ratings:
    """What the judge said of one reply: 1 to 5 by sample; reasons of samples that failed; how many were not asked for."""

    ratings: tuple[int, ...] = ()
    failures: tuple[str, ...] = ()
    num_unfinished: int = 0
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class JudgeRun:
    """All ratings by key. `down` says why the run ended early, None when it is complete."""

    ratings: Mapping[str, Ratings]
    down: str | None = None
    num_asked: int = 0
    num_known: int = 0

    @property
    def failures(self) -> Counter[str]:
        """Failed samples by reason."""
        return Counter(reason for found in self.ratings.values() for reason in found.failures)


def read_rating(text: str) -> int | str:
    """The rating an answer holds, or the reason why it holds none. Nothing but the number may stand there (and "Score:", "/5", "分")."""
    match = _RATING.fullmatch(text.strip(_DECORATION).lower())
    if match is None:
        return "non_numeric"
    return rating if LOWEST <= (rating := int(match.group(1))) <= HIGHEST else "out_of_range"


def seed_of(seed: int, key: str, sample: int, ask: int = 0) -> int:
    """The seed of one request, 31 bits; asking again takes another one, or the same answer would come again."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}/{sample}/{ask}".encode()).digest()[:4], "big") >> 1


def make_request(config: JudgeConfig, question: Question, sample: int, ask: int = 0) -> dict[str, Any]:
    """The body of a request."""
    return {
        "model": config.model,
        "messages": [dict(message) for message in question.messages],
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
        "seed": seed_of(config.seed, question.key, sample, ask),
    }


@dataclass
class _Health:
    """Counts requests given up in a row, over all threads."""

    limit: int
    down: str | None = None
    num_asked: int = 0
    _in_a_row: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self) -> None:
        with self._lock:
            self.num_asked += 1
            self._in_a_row = 0

    def gave_up(self, error: RequestError) -> bool:
        """True when the endpoint counts as down now."""
        with self._lock:
            self._in_a_row = 0 if error.is_refusal else self._in_a_row + 1
            if self.down is None and (error.is_final or self._in_a_row >= self.limit):
                self.down = str(error)
            return self.down is not None


@dataclass(frozen=True)
class _Sample:
    """How one sample ended: a rating (with the model's name), a reason, or neither when it was not finished."""

    rating: int | None = None
    failure: str | None = None
    model: str = ""
    was_known: bool = False


class LlmJudge:
    """Asks a client, in threads, through a cache."""

    def __init__(self, config: JudgeConfig, client: ChatClient, cache: AnswerCache) -> None:
        self._config = config
        self._client = client
        self._cache = cache
        self._health = _Health(config.down_after)

    def rate(self, questions: Sequence[Question], progress: Callable[[int, int], None] = lambda done, total: None) -> JudgeRun:
        """Rate every reply `samples` times. A full disk or a closed terminal ends it with an exception; what was answered is kept."""
        jobs = [(question, sample) for question in questions for sample in range(self._config.samples)]
        pool = ThreadPoolExecutor(self._config.max_concurrent)
        try:
            futures: list[Future[_Sample]] = [pool.submit(self._sample, question, sample) for question, sample in jobs]
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                progress(done, len(jobs))
        except BaseException:
            self._client.stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        return self._collect(jobs, [future.result() for future in futures])

    def _collect(self, jobs: Sequence[tuple[Question, int]], samples: Sequence[_Sample]) -> JudgeRun:
        of_key: dict[str, list[_Sample]] = {}
        for (question, _), sample in zip(jobs, samples, strict=True):
            of_key.setdefault(question.key, []).append(sample)
        ratings = {
            key: Ratings(
                ratings=tuple(one.rating for one in found if one.rating is not None),
                failures=tuple(one.failure for one in found if one.failure is not None),
                num_unfinished=sum(one.rating is None and one.failure is None for one in found),
                models=tuple(sorted({one.model for one in found if one.model})),
            )
            for key, found in of_key.items()
        }
        num_known = sum(sample.was_known for sample in samples)
        return JudgeRun(ratings, self._health.down, self._health.num_asked, num_known)

    def _sample(self, question: Question, sample: int) -> _Sample:
        key = request_key(make_request(self._config, question, sample), sample)
        known = self._cache.get(key)
        if known is not None and isinstance(rating := read_rating(known.text), int):
            return _Sample(rating, model=known.model, was_known=True)
        reason = ""
        for ask in range(self._config.max_asks):
            try:
                answer = self._client.complete(make_request(self._config, question, sample, ask))
            except Stopped:
                return _Sample()
            except RequestError as error:
                return self._give_up(error)
            self._health.answered()
            rating_or_reason = read_rating(answer.text)
            if isinstance(rating_or_reason, int):
                self._cache.put(key, answer)
                return _Sample(rating_or_reason, model=answer.model)
            reason = rating_or_reason
        return _Sample(failure=reason)

    def _give_up(self, error: RequestError) -> _Sample:
        if not self._health.gave_up(error):
            return _Sample(failure=error.reason)
        self._client.stop.set()
        return _Sample()
