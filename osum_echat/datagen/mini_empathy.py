"""Plans the empathetic dialogues of the mini corpus: what is said by whom and how, and the assistant's reply in a voice that suits it.

As in EChat-200K most rows of training tell one label, the one their task is about; those of `multi` and one in seven of the others tell
all. Dev and test tell all, and have one turn. Users speak as everywhere (``mini_corpus.py``); sound events occur where they count. Replies
are rendered once each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from osum_echat.datagen.empathy import TASKS, Remark, Reply, labels_that_count, remarks, reply_to, values
from osum_echat.datagen.events import EVENTS, NO_EVENT
from osum_echat.datagen.grammar import SPLITS, Sentence
from osum_echat.datagen.mini_corpus import MiniSettings, UserPlan, corpus_speakers, deck, speaker_cells
from osum_echat.datagen.mini_speech import AssistantPlan
from osum_echat.datagen.prosody import EMOTIONS
from osum_echat.datagen.speakers import AGES, ASSISTANT, GENDERS
from osum_echat.text.think import LABELS

_SHARES = {"emotion": 0.25, "age": 0.15, "gender": 0.15, "event": 0.2, "multi": 0.25}
_FULL_EVERY = 7  # row of a single-label task that tells all labels
_SECOND_TURN_EVERY = 6
_EMPATHY = 4  # stream of random numbers; mini_corpus.py and mini_speech.py use 0 to 3


@dataclass(frozen=True)
class Dialogue:
    """What a user says, and the reply; `told` are the labels that the row of a list tells, `before` what the same user had said earlier."""

    plan: UserPlan
    remark: Remark
    reply: Reply
    told: tuple[str, ...]
    before: "Dialogue | None" = None

    @property
    def labels(self) -> dict[str, str]:
        """All labels, told or not."""
        return _labels(self.plan)


def make_dialogues(settings: MiniSettings, split: str) -> list[Dialogue]:
    """The tasks by their shares; within a task balanced over the label, over gender x age, emotion and remark."""
    number_of_split = SPLITS.index(split)
    rng = np.random.default_rng([settings.seed, number_of_split, _EMPATHY, 0])
    cells = speaker_cells(corpus_speakers(settings, split))
    dialogues: list[Dialogue] = []
    ends = [round(settings.count(f"{split}_empathy") * share) for share in accumulate(_SHARES[task] for task in TASKS)]
    for task, end in zip(TASKS, ends, strict=True):
        count = end - len(dialogues)
        said, cell_deck = deck(remarks(task, split), count, rng), deck(range(len(cells)), count, rng)
        emotions, events = deck(tuple(EMOTIONS), count, rng), deck(_events(task), count, rng)
        for place in range(count):
            speaker = cells[cell_deck[place]][int(rng.integers(len(cells[cell_deck[place]])))]
            number = len(dialogues)
            sentence = Sentence(said[place].text, f"empathy {task}")
            seeds = (settings.seed, number_of_split, _EMPATHY, 1, number)
            key = f"{speaker.name}-e{number:05d}"
            plan = UserPlan(key, f"empathy/{split}", split, seeds, sentence, speaker, emotions[place], events[place])
            is_full = split != "train" or task == "multi" or place % _FULL_EVERY == 0
            told = LABELS if is_full else labels_that_count(task)
            dialogues.append(Dialogue(plan, said[place], reply_to(said[place], _labels(plan)), told))
    return _with_histories(dialogues) if split == "train" else dialogues


def _with_histories(dialogues: Sequence[Dialogue]) -> list[Dialogue]:
    """One in six is the second turn behind another dialogue of the same speaker."""
    last: dict[str, Dialogue] = {}
    found = []
    for number, dialogue in enumerate(dialogues):
        speaker = dialogue.plan.speaker.name
        found.append(replace(dialogue, before=last.get(speaker)) if number % _SECOND_TURN_EVERY == 0 else dialogue)
        last[speaker] = dialogue
    return found


def telling(dialogues: Sequence[Dialogue], full_every: int) -> list[Dialogue]:
    """The same dialogues where one in so many tells all labels and the others one; 1: all tell all."""
    return [_telling(dialogue, number, full_every) for number, dialogue in enumerate(dialogues)]


def _telling(dialogue: Dialogue, number: int, full_every: int) -> Dialogue:
    counting = labels_that_count(dialogue.remark.task)
    told = LABELS if number % full_every == 0 else (counting[number % len(counting)],)
    return replace(dialogue, told=told, before=dialogue.before and _telling(dialogue.before, number, full_every))


def draw_labels(seed: int, times: int) -> list[tuple[Remark, dict[str, str]]]:
    """Every training remark so many times, with labels that occur with it in random combinations."""
    rng = np.random.default_rng([seed, _EMPATHY, 2])
    drawn = []
    for task in TASKS:
        kinds = {"age": AGES, "gender": GENDERS, "event": _events(task), "emotion": tuple(EMOTIONS)}
        for remark in remarks(task, "train"):
            drawn += [(remark, {kind: str(rng.choice(list(kinds[kind]))) for kind in LABELS}) for _ in range(times)]
    return drawn


def _events(task: str) -> tuple[str, ...]:
    """Sounds of a task: one each where it counts, in `multi` also none, elsewhere none."""
    if task == "event":
        return values(task)
    return (*EVENTS, NO_EVENT) if task == "multi" else (NO_EVENT,)


def _labels(plan: UserPlan) -> dict[str, str]:
    return {"age": plan.speaker.age, "gender": plan.speaker.gender, "event": plan.event, "emotion": plan.emotion}


def make_fitting_replies(dialogues: Sequence[Dialogue]) -> dict[Reply, AssistantPlan]:
    """One plan for each distinct reply, in the order in which they occur."""
    found = dict.fromkeys(dialogue.reply for dialogue in dialogues)
    return {
        reply: AssistantPlan(reply_key(reply), f"{ASSISTANT.name}/fitting", Sentence(reply.text, "empathy"), reply.emotion)
        for reply in found
    }


def reply_key(reply: Reply) -> str:
    """For file names: the same words may be said in two emotions."""
    return f"{reply.emotion}-{reply.text.replace(' ', '_')}"
