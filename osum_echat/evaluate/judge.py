"""EChat-eval (arXiv:2508.09600): how well replies fit the emotion, age, gender and sounds of the user; five tasks, two judges.

Event is the same under both: the share of replies that name the event, by keywords. The other tasks are rated 1 to 5 by a language model
(mean x 20, so 20 to 100; judge_llm.py) or, offline, by the words a fitting reply has in it (share in percent; judge_rules.py). The paper
gives no mapping of 1-5 to its tables; x 20 is the one that agrees with them. Numbers of the two judges are not comparable, nor are those of
two language models: every score carries a note that says who judged. A reply that is missing or empty is wrong, or rated 1, without asking.
A reply without a valid rating is left out and counted. Intervals: evaluate/bootstrap.py, over speakers when they are known.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from osum_echat.config_judge import JudgeConfig
from osum_echat.errors import DataError
from osum_echat.evaluate.bootstrap import Interval, interval, ratio
from osum_echat.evaluate.judge_items import TASKS, VARIANTS, EchatItem
from osum_echat.evaluate.judge_listen import known_to_judge
from osum_echat.evaluate.judge_llm import LOWEST, JudgeRun, LlmJudge, Question, Ratings
from osum_echat.evaluate.judge_prompts import JudgePrompts, load_judge_prompts
from osum_echat.evaluate.judge_rules import first_match, is_appropriate
from osum_echat.evaluate.results import Score

RULE, LLM = "rule", "llm"
POINTS_PER_RATING = 20
EVENT_NOTE = "share of replies that name the event, by a keyword list re-created after the paper's; no language model"
RULE_NOTE = "offline rule judge: share of replies with the expected words; NOT comparable with an LLM judge's numbers or the paper's"


@dataclass(frozen=True)
class Verdict:
    """One judged reply. `points` 0 to 100, None without a valid rating; `why` is the keyword or rule that decided."""

    item: EchatItem
    reply: str
    points: float | None
    ratings: Ratings = field(default_factory=Ratings)
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """An entry of the judge's file."""
        judged = {"ratings": list(self.ratings.ratings), "failures": list(self.ratings.failures), "unfinished": self.ratings.num_unfinished}
        item = {"key": self.item.key, "task": self.item.task, "labels": dict(self.item.labels), "question": self.item.question}
        return {**item, "reply": self.reply, "points": self.points, "why": self.why, **(judged if any(judged.values()) else {})}


@dataclass(frozen=True)
class Agreement:
    """How far a judge agrees with itself over replies rated at least twice.

    `exact`: share whose ratings are all equal; `deviation`: mean absolute deviation from the reply's own mean, in rating points.
    """

    exact: Interval
    deviation: Interval


@dataclass(frozen=True)
class TaskScore:
    """One task: points with their interval over the replies that have some, and what is behind them."""

    name: str
    points: Interval
    num_items: int
    num_no_reply: int
    unscored: tuple[str, ...]
    failures: Mapping[str, int]
    agreement: Agreement | None
    note: str

    def score(self) -> Score:
        """The entry of results.json."""
        return Score(self.points.value, self.points.num, self.points.lo, self.points.hi, self.note)

    def to_json(self) -> dict[str, Any]:
        """The entry of the judge's file."""
        counts = {
            "num_items": self.num_items,
            "no_reply": self.num_no_reply,
            "unscored": list(self.unscored),
            "failures": dict(self.failures),
        }
        agreement = {name: vars(value) for name, value in vars(self.agreement).items()} if self.agreement else None
        return {**self.score().to_json(), "unit": self.points.unit, "num_units": self.points.num_groups, **counts, "agreement": agreement}


@dataclass(frozen=True)
class EchatScore:
    """All tasks of one decode. `down` says why an unfinished run ended, None when all was judged; `facts` is how it was judged."""

    judge: str
    tasks: Mapping[str, TaskScore]
    verdicts: tuple[Verdict, ...]
    facts: Mapping[str, Any]
    down: str | None = None

    @property
    def is_partial(self) -> bool:
        """True when replies are left to be judged."""
        return self.down is not None

    def results(self, variant: str = "", prefix: str = "echat") -> dict[str, Score]:
        """Entries of results.json: ``echat.emotion``, or ``echat.emotion.<variant>``."""
        if variant and variant not in VARIANTS:
            raise DataError(f"unknown variant {variant!r}; expected one of {', '.join(VARIANTS)}", "unknown_variant")
        ending = f".{variant}" if variant else ""
        return {f"{prefix}.{name}{ending}": task.score() for name, task in self.tasks.items()}

    def to_json(self) -> dict[str, Any]:
        """The content of judge_<judge>.json."""
        head = {"judge": self.judge, "partial": self.is_partial, "down": self.down, **self.facts}
        return {
            **head,
            "tasks": {name: task.to_json() for name, task in self.tasks.items()},
            "rows": [one.to_json() for one in self.verdicts],
        }


def judge_by_rules(items: Sequence[EchatItem], replies: Mapping[str, str], prompts: JudgePrompts | None = None) -> EchatScore:
    """The offline judge. Rows (but those of Event) need `expect`; one without is a DataError."""
    prompts = prompts or load_judge_prompts()
    verdicts = [_rule_verdict(item, replies.get(item.key, "").strip(), prompts) for item in items]
    return EchatScore(RULE, _task_scores(verdicts, RULE_NOTE, down=None), tuple(verdicts), _facts(prompts))


def _rule_verdict(item: EchatItem, reply: str, prompts: JudgePrompts) -> Verdict:
    if item.task == "event":
        return _event_verdict(item, reply, prompts)
    if not item.expect:
        raise DataError(f"key {item.key}: the rule judge needs extra.echat.expect, groups of words a fitting reply has", "bad_echat")
    fits = bool(reply) and is_appropriate(reply, item.expect, item.forbid)
    found = [first_match(reply, group) or "-" for group in item.expect]
    forbidden = first_match(reply, item.forbid)
    return Verdict(item, reply, 100.0 * fits, why=", ".join(found) + (f"; forbidden: {forbidden}" if forbidden else ""))


def _event_verdict(item: EchatItem, reply: str, prompts: JudgePrompts) -> Verdict:
    event = item.labels["event"]
    if event not in prompts.events:
        raise DataError(f"key {item.key}: no keywords for the event {event!r}; Event has {', '.join(prompts.events)}", "bad_echat")
    found = first_match(reply, prompts.events[event])
    return Verdict(item, reply, 0.0 if found is None else 100.0, why=found or "")


def judge_by_llm(
    items: Sequence[EchatItem],
    replies: Mapping[str, str],
    judge: LlmJudge,
    config: JudgeConfig,
    *,
    reply_emotions: Mapping[str, str] | None = None,
    prompts: JudgePrompts | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> EchatScore:
    """The language model's ratings, and keywords for Event.

    Args:
        items: test rows. replies: reply by key, without think block.
        judge: asks the endpoint `config` names, through a cache.
        reply_emotions: emotion heard in the speech of replies by key; the judge is told "not known" without it.
    """
    prompts = prompts or load_judge_prompts()
    heard = reply_emotions or {}
    texts = {item.key: replies.get(item.key, "").strip() for item in items}
    questions = [
        Question(item.key, prompts.messages(item.task, known_to_judge(item.labels, item.question, texts[item.key], heard.get(item.key))))
        for item in items
        if item.task != "event" and texts[item.key]
    ]
    run = judge.rate(questions, progress)
    verdicts = [_llm_verdict(item, texts[item.key], run, prompts) for item in items]
    note = (
        f"LLM judge {config.model}, mean of {config.samples} ratings x {POINTS_PER_RATING}, prompts v{prompts.version} {prompts.sha256[:8]}"
    )
    facts = {**_facts(prompts), **_run_facts(run, config), "num_reply_emotions": sum(item.key in heard for item in items)}
    return EchatScore(LLM, _task_scores(verdicts, note, run.down), tuple(verdicts), facts, run.down)


def _llm_verdict(item: EchatItem, reply: str, run: JudgeRun, prompts: JudgePrompts) -> Verdict:
    if item.task == "event":
        return _event_verdict(item, reply, prompts)
    if not reply:
        return Verdict(item, reply, float(POINTS_PER_RATING * LOWEST), why="no reply")
    found = run.ratings[item.key]
    points = POINTS_PER_RATING * sum(found.ratings) / len(found.ratings) if found.ratings else None
    return Verdict(item, reply, points, found)


def _facts(prompts: JudgePrompts) -> dict[str, Any]:
    return {"prompts": {"version": prompts.version, "sha256": prompts.sha256}}


def _run_facts(run: JudgeRun, config: JudgeConfig) -> dict[str, Any]:
    models = Counter(model for found in run.ratings.values() for model in found.models)
    return {
        "config": config.model_dump(),
        "models": dict(sorted(models.items())),
        "failures": dict(sorted(run.failures.items())),
        "num_asked": run.num_asked,
        "num_known": run.num_known,
    }


def _task_scores(verdicts: Sequence[Verdict], note: str, down: str | None) -> dict[str, TaskScore]:
    found = {}
    for name in TASKS:
        mine = [verdict for verdict in verdicts if verdict.item.task == name]
        if mine:
            found[name] = _task_score(name, mine, EVENT_NOTE if name == "event" else note, down)
    return found


def _task_score(name: str, verdicts: Sequence[Verdict], note: str, down: str | None) -> TaskScore:
    scored = [verdict for verdict in verdicts if verdict.points is not None]
    unscored = tuple(verdict.item.key for verdict in verdicts if verdict.points is None)
    agreement = _agreement(scored)
    if agreement is not None:
        exact, deviation = 100 * agreement.exact.value, agreement.deviation.value
        note += f"; agrees with itself exactly on {exact:.0f} % of replies, mean deviation {deviation:.2f} of a rating"
    if unscored:
        note += f"; {len(unscored)} of {len(verdicts)} replies have no rating"
    if down is not None and name != "event":
        note = f"PARTIAL: {note}"
    return TaskScore(
        name=name,
        points=_mean([(verdict, verdict.points or 0.0) for verdict in scored]),
        num_items=len(verdicts),
        num_no_reply=sum(not verdict.reply for verdict in verdicts),
        unscored=unscored,
        failures=dict(sorted(Counter(reason for verdict in verdicts for reason in verdict.ratings.failures).items())),
        agreement=agreement,
        note=note,
    )


def _agreement(verdicts: Sequence[Verdict]) -> Agreement | None:
    rated = [(verdict, np.array(verdict.ratings.ratings, dtype=np.float64)) for verdict in verdicts if len(verdict.ratings.ratings) > 1]
    if not rated:
        return None
    exact = _mean([(verdict, float(np.ptp(ratings) == 0)) for verdict, ratings in rated])
    return Agreement(exact, _mean([(verdict, float(np.abs(ratings - ratings.mean()).mean())) for verdict, ratings in rated]))


def _mean(items: Sequence[tuple[Verdict, float]]) -> Interval:
    features = np.array([[value, 1.0] for _, value in items]).reshape(-1, 2)
    return interval(features, ratio, [verdict.item.speaker for verdict, _ in items])
