"""The generation loop: prompts in, answer ids out, many rows at once.

One packed prefill, then one position per row and step; only the text head is computed. Rows that are done leave the key/value state in
groups, because each removal copies it. A row's answer does not depend on what else is in its batch: greedy rows up to rounding of the
logits, sampled rows because each has a generator of its own. Leaves out speech phases and streaming.

Shapes: B rows, T packed prompt positions, D width, V text vocabulary.
"""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from osum_echat.data.batch import Batch, collate
from osum_echat.generate.rules import LogitRule, StopRule
from osum_echat.generate.sampling import Sampler, request_generator
from osum_echat.model.echat import EChat
from osum_echat.model.llm import KVState
from osum_echat.model.packing import Packing
from osum_echat.tasks.sequence import Sequence

_KEEP_SHARE = 0.75  # the state is compacted when at most this share of its rows is still going


@dataclass(frozen=True)
class Generated:
    """An answer without its end mark; `finished` is False when it was cut off at the longest length."""

    ids: tuple[int, ...]
    finished: bool


@torch.inference_mode()
def generate(
    model: EChat,
    prompts: SequenceOf[Sequence],
    mels: SequenceOf[Tensor],
    *,
    sampler: Sampler,
    stop: StopRule,
    rules: SequenceOf[LogitRule] = (),
    seed: int = 0,
) -> list[Generated]:
    """Answer every prompt; `mels` holds one (F, M) log-mel per audio span, in prompt order. Call it on a model in eval mode."""
    hidden_BD, state = _prefill(model, prompts, mels, stop.max_new)
    generators = [] if sampler.is_greedy else [request_generator(seed, prompt.key) for prompt in prompts]
    answers: list[list[int]] = [[] for _ in prompts]
    finished = [False] * len(prompts)
    rows = list(range(len(prompts)))  # which prompt each row of the state belongs to
    going = set() if stop.max_new <= 0 else set(rows)
    while going:
        logits_BV = model.text_logits(hidden_BD).float()
        for rule in rules:
            logits_BV = rule(logits_BV, [answers[row] for row in rows])
        ids_B = sampler.choose(logits_BV, [generators[row] for row in rows] if generators else [])
        for row, token in zip(rows, ids_B.tolist(), strict=True):
            if row not in going:
                continue
            if stop.is_eos(token):
                finished[row] = True
            else:
                answers[row].append(token)
            if finished[row] or stop.is_full(len(answers[row])):
                going.discard(row)
        if not going:
            break
        if len(going) <= _KEEP_SHARE * len(rows):
            kept = [at for at, row in enumerate(rows) if row in going]
            rows, state = [rows[at] for at in kept], state.select(kept)
            ids_B = ids_B[kept]
        hidden_BD = model.llm.step(model.embed_ids(ids_B), state)
    return [Generated(tuple(ids), done) for ids, done in zip(answers, finished, strict=True)]


def _prefill(model: EChat, prompts: SequenceOf[Sequence], mels: SequenceOf[Tensor], max_new: int) -> tuple[Tensor, KVState]:
    """Hidden state of each prompt's last position, and the filled key/value state with room for `max_new` more."""
    weight = model.llm.embed.weight
    batch = _cast(collate(prompts, mels, model.cfg.encoder.num_mels), weight.dtype).to(weight.device)
    state = model.llm.init_state(len(prompts), batch.max_seqlen + max_new)
    packing = Packing.from_cu_seqlens(batch.cu_seqlens)
    hidden_TD = model.llm.prefill(model.embed(batch), batch.positions_T, packing, state)
    return hidden_TD[batch.cu_seqlens[1:].long() - 1], state


def _cast(batch: Batch, dtype: torch.dtype) -> Batch:
    return replace(batch, mel_BFM=batch.mel_BFM.to(dtype))
