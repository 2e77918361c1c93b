"""Writes the lists of the assistant's side of the mini corpus: ``<split>_tts.list``, ``<split>_s2s.list``, ``train_t2t.list``.

What is said there is also there to be understood: ``train_questions.list`` and ``train_assistant.list`` hold the training recordings of
both sides with their transcripts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from osum_echat.data.manifest import write_list
from osum_echat.datagen.facts import Fact, questions
from osum_echat.datagen.grammar import SPLITS
from osum_echat.datagen.mini_corpus import MiniSettings
from osum_echat.datagen.mini_speech import AssistantPlan, Exchange, make_exchanges, make_reply_plans, make_tts_plans
from osum_echat.datagen.rendering import Plan, Rendered
from osum_echat.datagen.speakers import ASSISTANT
from osum_echat.utterance import Utterance


@dataclass(frozen=True)
class SpeechPlans:
    """Everything that speech generation is learned from and tested on; tts and exchanges by split."""

    tts: Mapping[str, Sequence[AssistantPlan]]
    exchanges: Mapping[str, Sequence[Exchange]]
    replies: Mapping[Fact, AssistantPlan]

    @property
    def plans(self) -> list[Plan]:
        """All that is to be rendered."""
        tts = [plan for plans in self.tts.values() for plan in plans]
        return [*tts, *self.replies.values(), *(exchange.plan for rows in self.exchanges.values() for exchange in rows)]


def plan_speech(settings: MiniSettings) -> SpeechPlans:
    """Of all splits."""
    exchanges = {split: make_exchanges(settings, split) for split in SPLITS}
    replies = make_reply_plans([exchange for rows in exchanges.values() for exchange in rows])
    return SpeechPlans({split: make_tts_plans(settings, split) for split in SPLITS}, exchanges, replies)


def write_speech(out: Path, speech: SpeechPlans, rendered: Sequence[Rendered]) -> dict[str, dict[str, object]]:
    """The lists; ``rendered`` in the order of ``speech.plans``. Returns counts per list."""
    sounds = dict(zip(speech.plans, rendered, strict=True))
    lists = {f"{split}_tts": [_tts_row(plan, sounds[plan]) for plan in plans] for split, plans in speech.tts.items()}
    for split, exchanges in speech.exchanges.items():
        lists[f"{split}_s2s"] = [_s2s_row(x, sounds[x.plan], sounds[speech.replies[x.question.fact]]) for x in exchanges]
    for name, rows in lists.items():
        write_list(out / f"{name}.list", rows)
    write_list(out / "train_t2t.list", _t2t_rows())
    write_list(out / "train_questions.list", map(_question_row, lists["train_s2s"]))
    write_list(out / "train_assistant.list", map(_assistant_row, lists["train_tts"]))
    return {name: _summary(rows) for name, rows in lists.items()}


def _tts_row(plan: AssistantPlan, sound: Rendered) -> Utterance:
    return Utterance(
        key=plan.key,
        task="tts",
        txt=plan.sentence.text,
        lang="en",
        speaker=ASSISTANT.name,
        emotion=plan.emotion,
        answer_wav=sound.wav,
        extra={"topic": plan.sentence.topic, "answer_seconds": sound.seconds},
    )


def _s2s_row(exchange: Exchange, sound: Rendered, reply: Rendered) -> Utterance:
    plan, fact = exchange.plan, exchange.question.fact
    extra: dict[str, Any] = {"relation": fact.relation, "entity": fact.entity, "user_emotion": plan.emotion}
    return Utterance(
        key=plan.key,
        task="s2s",
        wav=sound.wav,
        question=exchange.question.text,
        txt=fact.reply,
        lang="en",
        speaker=plan.speaker.name,
        gender=plan.speaker.gender,
        age=plan.speaker.age,
        answer_wav=reply.wav,
        extra={**extra, "seconds": sound.seconds, "answer_seconds": reply.seconds},
    )


def _question_row(row: Utterance) -> Utterance:
    """The question alone, with its words, who asks and in which emotion."""
    emotion = row.extra["user_emotion"]
    return replace(row, task="asr_age_gender_emotion", txt=row.question, emotion=emotion, question=None, answer_wav=None, extra={})


def _assistant_row(row: Utterance) -> Utterance:
    """The sentence alone, with its words."""
    return replace(row.hearing("answer_wav"), task="asr", answer_wav=None, emotion=None, extra={})


def _t2t_rows() -> list[Utterance]:
    """Every question of training once, whatever the size of the corpus."""
    return [
        Utterance(key=f"question-{number:05d}", task="t2t", question=question.text, txt=question.fact.reply, lang="en")
        for number, question in enumerate(questions("train"))
    ]


def _summary(rows: Sequence[Utterance]) -> dict[str, object]:
    """Counts for a data card."""
    answers = {row.answer_wav: row.extra["answer_seconds"] for row in rows}
    card: dict[str, object] = {
        "utterances": len(rows),
        "answers": len(answers),
        "hours_of_answers": round(sum(answers.values()) / 3600, 3),
        "mean_answer_seconds": round(float(np.mean(list(answers.values()))), 2) if rows else 0.0,
        "speakers": len({row.speaker for row in rows}),
        "sentences": len({row.question or row.txt for row in rows}),
    }
    if any(row.wav for row in rows):
        card["hours"] = round(sum(row.extra["seconds"] for row in rows) / 3600, 3)
    return card
