"""The generation loop: prompts in, answers of text and speech out, many rows at once.

One packed prefill, then one position per row and step. Each head is computed on the rows whose turn it is and on no others, so rows may be
in different phases of different lengths. Rows that are done leave the key/value state in groups, because each removal copies it. A row's
answer does not depend on what else is in its batch: greedy rows up to rounding of the logits, sampled rows because each has a generator of
its own. Leaves out: when which head is asked (schedule.py), dialogue and events (session.py).

Shapes: B rows, T packed prompt positions, D width, V ids of one head.
"""

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from osum_echat.data.batch import Batch, collate
from osum_echat.generate.sampling import request_generator
from osum_echat.generate.schedule import Course, Plan, Sort
from osum_echat.model.echat import EChat
from osum_echat.model.llm import KVState
from osum_echat.model.packing import Packing
from osum_echat.tasks.sequence import Sequence

_KEEP_SHARE = 0.75  # the state is compacted when at most this share of its rows is still going


@dataclass(frozen=True)
class Generated:
    """An answer: text `ids` without eos, speech `codes` without boundaries, and `layout`, all joint ids as a training sequence has them.

    `finished` is False when it was cut off at a longest length, `think_cut` True when the think block was, the first
    `num_think` of `ids`.
    """

    ids: tuple[int, ...]
    codes: tuple[int, ...]
    layout: tuple[int, ...]
    finished: bool
    num_think: int = 0
    think_cut: bool = False


@torch.inference_mode()
def generate(model: EChat, prompts: SequenceOf[Sequence], mels: SequenceOf[Tensor], plan: Plan, seed: int = 0) -> list[Generated]:
    """Answer every prompt; `mels` holds one (F, M) log-mel per audio span, in prompt order. Call it on a model in eval mode."""
    state = model.llm.init_state(len(prompts), max(len(prompt) for prompt in prompts) + plan.max_new)
    batch = prompt_batch(model, prompts, mels)
    hidden_TD = model.llm.prefill(model.embed(batch), batch.positions_T, Packing.from_cu_seqlens(batch.cu_seqlens), state)
    courses = [Course(plan) for _ in prompts]
    generators = [] if plan.is_greedy else [request_generator(seed, prompt.key) for prompt in prompts]
    for _ in decode(model, hidden_TD[batch.cu_seqlens[1:].long() - 1], state, courses, generators):
        pass
    return [_generated(course) for course in courses]


def _generated(course: Course) -> Generated:
    return Generated(tuple(course.text), tuple(course.codes), tuple(course.layout), course.finished, course.num_think, course.think_cut)


def prompt_batch(model: EChat, prompts: SequenceOf[Sequence], mels: SequenceOf[Tensor]) -> Batch:
    """Prompts and log-mels in the precision of the model and where it is."""
    weight = model.llm.embed.weight
    batch = collate(prompts, mels, model.cfg.encoder.num_mels)
    return replace(batch, mel_BFM=batch.mel_BFM.to(weight.dtype)).to(weight.device)


@torch.inference_mode()
def decode(
    model: EChat, hidden_BD: Tensor, state: KVState, courses: SequenceOf[Course], generators: SequenceOf[torch.Generator]
) -> Iterator[None]:
    """Bring every course to its end; yields after each id of those still going. All courses have one plan.

    `hidden_BD` are the last hidden states of the prompts in `state`; `generators` may be empty for a greedy plan. A state of one row is
    changed in place and then holds every id but the last.
    """
    rows = [row for row, course in enumerate(courses) if not course.done]  # which course each row of the state belongs to
    if 0 < len(rows) < len(courses):
        hidden_BD, state = hidden_BD[rows], state.select(rows)
    while rows:
        going = [at for at, row in enumerate(rows) if not courses[row].done]
        choose(model, hidden_BD, going, [courses[row] for row in rows], [generators[row] for row in rows] if generators else [])
        yield
        going = [at for at in going if not courses[rows[at]].done]
        if not going:
            return
        if len(going) <= _KEEP_SHARE * len(rows):
            rows, state = [rows[at] for at in going], state.select(going)
        ids_B = torch.tensor([courses[row].layout[-1] for row in rows], device=hidden_BD.device)
        hidden_BD = model.llm.step(model.embed_ids(ids_B), state)


def choose(
    model: EChat, hidden_BD: Tensor, rows: SequenceOf[int], courses: SequenceOf[Course], generators: SequenceOf[torch.Generator]
) -> None:
    """One more id for the courses of `rows`. Speech comes first: a row whose speech has run out is asked for text at the same position."""
    waiting = []
    for row in rows:
        if courses[row].forced is None:
            waiting.append(row)
        else:
            courses[row].accept_mark()
    for sort, head in ((Sort.SPEECH, model.speech_logits), (Sort.TEXT, model.text_logits)):
        asked = [row for row in waiting if courses[row].sort is sort]
        if not asked:
            continue
        phase = courses[asked[0]].plan.text if sort is Sort.TEXT else courses[asked[0]].plan.speech
        logits_BV = head(hidden_BD if len(asked) == len(hidden_BD) else hidden_BD[asked]).float()
        history = [courses[row].history for row in asked]
        for rule in phase.rules:
            logits_BV = rule(logits_BV, history)
        ids_B = phase.sampler.choose(logits_BV, [generators[row] for row in asked] if generators else [], history)
        accepted = {row for row, token in zip(asked, ids_B.tolist(), strict=True) if courses[row].accept(token)}
        waiting = [row for row in waiting if row not in accepted]
