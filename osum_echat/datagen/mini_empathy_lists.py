"""Writes the lists of the empathetic dialogues: ``<split>_empathy.list``, ``train_empathy_text.list``, and those that tell more or less.

The second has text-only rows for a small language model: words and labels as a think block notes them, and the reply. A grown one knows
such things before it hears anything.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from osum_echat.data.manifest import write_list
from osum_echat.datagen.empathy import Reply, reply_to
from osum_echat.datagen.grammar import SPLITS
from osum_echat.datagen.mini_corpus import MiniSettings
from osum_echat.datagen.mini_empathy import Dialogue, draw_labels, make_dialogues, make_fitting_replies, telling
from osum_echat.datagen.mini_speech import AssistantPlan
from osum_echat.datagen.rendering import Plan, Rendered
from osum_echat.text.tags import render_labels
from osum_echat.text.think import LABELS
from osum_echat.utterance import Turn, Utterance

_DRAWS_PER_REMARK = 12
_SPARSITY = {"all_labels": 1, "one_label": 10}  # list -> one dialogue in so many tells all labels, the others one
_SOUNDS = {"laugh": "a laugh", "cough": "a cough", "sigh": "a sigh", "cry": "a cry", "sneeze": "a sneeze", "none": "nothing else"}


@dataclass(frozen=True)
class EmpathyPlans:
    """Dialogues by split, and what is to be rendered of the replies."""

    dialogues: Mapping[str, Sequence[Dialogue]]
    replies: Mapping[Reply, AssistantPlan]

    @property
    def plans(self) -> list[Plan]:
        """All that is to be rendered."""
        return [*self.replies.values(), *(dialogue.plan for rows in self.dialogues.values() for dialogue in rows)]


def plan_empathy(settings: MiniSettings) -> EmpathyPlans:
    """Of all splits."""
    dialogues = {split: make_dialogues(settings, split) for split in SPLITS}
    return EmpathyPlans(dialogues, make_fitting_replies([dialogue for rows in dialogues.values() for dialogue in rows]))


def write_empathy(out: Path, empathy: EmpathyPlans, rendered: Sequence[Rendered], seed: int) -> dict[str, dict[str, object]]:
    """The lists; ``rendered`` in the order of ``empathy.plans``. Returns counts per list."""
    sounds = dict(zip(empathy.plans, rendered, strict=True))
    card = {}
    for split, dialogues in empathy.dialogues.items():
        rows = [_row(dialogue, sounds, empathy.replies) for dialogue in dialogues]
        write_list(out / f"{split}_empathy.list", rows)
        card[f"{split}_empathy"] = _summary(dialogues, rows)
    for name, full_every in _SPARSITY.items():
        dialogues = telling(empathy.dialogues["train"], full_every)
        write_list(out / f"train_empathy_{name}.list", (_row(dialogue, sounds, empathy.replies) for dialogue in dialogues))
    write_list(out / "train_empathy_text.list", _text_rows(seed))
    return card


def _text_rows(seed: int) -> Iterator[Utterance]:
    """Every training remark with labels drawn at random, whatever the size of the corpus."""
    drawn = draw_labels(seed, _DRAWS_PER_REMARK)
    for number, (remark, labels) in enumerate(drawn):
        reply = reply_to(remark, labels)
        question, txt = remark.text + render_labels(labels), render_labels({"emotion": reply.emotion}) + reply.text
        yield Utterance(key=f"remark-{number:05d}", task="t2t", question=question, txt=txt, lang="en")


def _row(dialogue: Dialogue, sounds: Mapping[Plan, Rendered], replies: Mapping[Reply, AssistantPlan]) -> Utterance:
    plan, told = dialogue.plan, _told(dialogue)
    sound, reply = sounds[plan], sounds[replies[dialogue.reply]]
    return Utterance(
        key=plan.key,
        task="s2s_think",
        wav=sound.wav,
        question=plan.sentence.text,
        txt=_written(dialogue),
        lang="en",
        speaker=plan.speaker.name,
        think=_paragraph(plan.sentence.text, told),
        answer_wav=reply.wav,
        history=() if dialogue.before is None else _turns(dialogue.before, sounds, replies),
        extra={
            "echat": {"task": dialogue.remark.task, "expect": [list(group) for group in dialogue.reply.expect]},
            "seconds": sound.seconds,
            "answer_seconds": reply.seconds,
        },
        age=told.get("age"),
        gender=told.get("gender"),
        event=told.get("event"),
        emotion=told.get("emotion"),
    )


def _turns(dialogue: Dialogue, sounds: Mapping[Plan, Rendered], replies: Mapping[Reply, AssistantPlan]) -> tuple[Turn, Turn]:
    told, words = _told(dialogue), dialogue.plan.sentence.text
    user = Turn(
        role="user",
        txt=words,
        wav=sounds[dialogue.plan].wav,
        age=told.get("age"),
        gender=told.get("gender"),
        event=told.get("event"),
        emotion=told.get("emotion"),
        think=_paragraph(words, told),
    )
    return user, Turn("assistant", _written(dialogue), sounds[replies[dialogue.reply]].wav)


def _told(dialogue: Dialogue) -> dict[str, str]:
    return {name: dialogue.labels[name] for name in dialogue.told}


def _written(dialogue: Dialogue) -> str:
    return render_labels({"emotion": dialogue.reply.emotion}) + dialogue.reply.text


def _paragraph(words: str, told: Mapping[str, str]) -> str:
    """The language form of the think block: what is known, in one sentence after the other."""
    who = " ".join(told[name] for name in ("age", "gender") if name in told)
    parts = [f"i hear {words}"]
    parts += [f"the voice is {who}"] if who else []
    parts += [f"there is {_SOUNDS[told['event']]}"] if "event" in told else []
    parts += [f"it sounds {told['emotion']}"] if "emotion" in told else []
    return " . ".join(parts)


def _summary(dialogues: Sequence[Dialogue], rows: Sequence[Utterance]) -> dict[str, object]:
    """Counts for a data card."""
    card: dict[str, object] = {
        "utterances": len(rows),
        "answers": len({row.answer_wav for row in rows}),
        "hours": round(sum(row.extra["seconds"] for row in rows) / 3600, 3),
        "tasks": dict(Counter(dialogue.remark.task for dialogue in dialogues)),
    }
    for name in LABELS:
        card[name] = dict(sorted(Counter(getattr(row, name) or "unknown" for row in rows).items()))
    return card
