"""Text-only rows for the small language model of the mini recipe: what an instruction-tuned model already knows when a full recipe starts.

A row spells out in words and tags what a recording would hold, as adapter frames do (words in order, pauses between them, all labels
somewhere), and asks for a part of it with the instruction of an understanding task: "words emotion" + "my . dog sleeps <SAD><OLD>..." ->
"my dog sleeps<SAD>". So the frozen model of stages 1a to 1d can follow every instruction, and the adapter has only to speak its language.
Labels are drawn at random: words must not tell them.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from osum_echat.tasks.task import TASKS
from osum_echat.text.prompts import Prompts
from osum_echat.text.tags import render_labels
from osum_echat.utterance import Utterance

PAUSE = " ."
_MAX_PAUSES = 3
_TASK_NAMES = (
    "asr", "asr_age_gender", "asr_age_gender_emotion", "asr_age_gender_event", "age", "gender", "age_gender", "emotion", "event",
    "asr_p", "only_p",
)  # fmt: skip


def text_rows(
    sentences: Sequence[str], labels: Mapping[str, Sequence[str]], prompts: Prompts, rng: np.random.Generator
) -> Iterator[Utterance]:
    """One row per sentence, the tasks in turn; ``labels`` holds the values of every kind."""
    for index, sentence in enumerate(sentences):
        task = TASKS[_TASK_NAMES[index % len(_TASK_NAMES)]]
        drawn = {kind: str(rng.choice(list(values))) for kind, values in labels.items()}
        answer = (sentence if task.transcript else "") + render_labels({kind: drawn[kind] for kind in task.labels})
        question = f"{prompts.instruction(task.name, None)}\n{_spoken(sentence, drawn, rng)}"
        yield Utterance(key=f"text-{index:05d}", task="t2t", question=question, txt=answer, lang="en", extra={"kind": task.name})


def _spoken(sentence: str, labels: Mapping[str, str], rng: np.random.Generator) -> str:
    """The sentence with pauses, and its tags in random order before or after it."""
    pieces = [PAUSE * int(rng.integers(_MAX_PAUSES + 1)) + " " + word for word in sentence.split()]
    tags = [render_labels({kind: labels[kind]}) for kind in rng.permutation(list(labels))]
    cut = int(rng.integers(len(tags) + 1))
    return "".join([*tags[:cut], *pieces, PAUSE * int(rng.integers(_MAX_PAUSES + 1)), *tags[cut:]])
