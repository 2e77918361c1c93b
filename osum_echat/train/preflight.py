"""Memory preflight: forward and backward on the largest batch the settings allow, before the first step.

A run that is going to run out of memory does so in its first seconds, with advice, not after an epoch when the longest utterances
happen to meet. The batch is as rich in audio as the budgets allow (the encoder has the most activations per LLM position); the positions
that are left hold supervised text.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from osum_echat.audio.features import SAMPLE_RATE, num_encoder_frames, num_llm_frames, num_mel_frames
from osum_echat.config import RunConfig, SpeechTokenizerRun
from osum_echat.data.batch import Batch, collate
from osum_echat.errors import UserError
from osum_echat.tasks.sequence import AudioSpan, Sequence
from osum_echat.text.vocab import IGNORE, JointVocab
from osum_echat.train.engine import Engine
from osum_echat.train.metrics import peak_memory_bytes
from osum_echat.train.objective import Objective, TrainBatch

_WRAPPING = 3  # positions of a sequence beside its audio slots: begin, end and one of text
_SHORTEST = 1600  # samples; less audio is not worth a sequence


def worst_case_batch(cfg: RunConfig | SpeechTokenizerRun) -> Batch:
    """Of a model that hears: the largest micro-batch `train.max_tokens`, `train.max_batch_seconds` and `data.filter` let through."""
    vocab = JointVocab(cfg.model.llm.vocab_size, cfg.model.speech.codebook_size) if isinstance(cfg, RunConfig) else JointVocab(1)
    bounds, left = cfg.data.filter, cfg.train.max_tokens
    longest = min(bounds.max_sequence, left)
    samples_left = int((cfg.train.max_batch_seconds or left) * SAMPLE_RATE)  # a second takes more than one position
    sequences, mels = [], []
    while left > 0:
        num_samples = min(int(bounds.max_seconds * SAMPLE_RATE), samples_left, _samples_of(min(left, longest) - _WRAPPING))
        if num_samples < _SHORTEST:
            length = min(left, longest)
            sequences.append(_text_sequence(length))
        else:
            frames = num_mel_frames(num_samples)
            sequences.append(_audio_sequence(vocab, num_llm_frames(num_samples), num_encoder_frames(frames), cfg))
            mels.append(torch.zeros(frames, cfg.model.encoder.num_mels))
            samples_left -= num_samples
            length = len(sequences[-1])
        left -= length
    return collate(sequences, mels, cfg.model.encoder.num_mels)


def _samples_of(num_slots: int) -> int:
    """Most audio that fits into so many positions."""
    if num_slots <= 0:
        return 0
    per_slot = SAMPLE_RATE // num_llm_frames(SAMPLE_RATE)
    while num_llm_frames(num_slots * per_slot) > num_slots:
        per_slot -= 1
    return num_slots * per_slot


def _text_sequence(length: int) -> Sequence:
    ids = np.zeros(length, dtype=np.int64)
    return Sequence(ids, ids.copy(), (), np.zeros(0, dtype=np.int64), "preflight", "preflight")


def _audio_sequence(vocab: JointVocab, num_slots: int, num_frames: int, cfg: RunConfig | SpeechTokenizerRun) -> Sequence:
    ids = np.array([vocab.audio_begin, *[vocab.audio_slot] * num_slots, vocab.audio_end, 0], dtype=np.int64)
    labels = np.full(len(ids), IGNORE, dtype=np.int64)
    labels[-1] = 0
    has_ctc = cfg.model.ctc is not None if isinstance(cfg, RunConfig) else True
    num_ctc = min(cfg.data.filter.max_text_tokens, num_frames // 4) if has_ctc else 0  # CTC needs room for blanks
    ctc_ids = np.zeros(num_ctc, dtype=np.int64)
    return Sequence(ids, labels, (AudioSpan(1, num_slots, np.zeros(0, dtype=np.float32)),), ctc_ids, "preflight", "preflight")


def preflight(model: nn.Module, objective: Objective, engine: Engine, batch: TrainBatch) -> int:
    """Forward and backward on the largest batch without a step; returns the peak memory in bytes. The model stays as it is."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}  # moving averages change in a forward
    try:
        with engine.autocast():
            losses = objective.losses(model, batch.to(engine.device))
        (losses.ce + losses.ctc).backward()
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the largest batch the settings allow ({batch.num_positions} positions) does not fit into memory: {error}. "
            "Lower train.max_tokens or train.max_batch_seconds, or turn on gradient_checkpointing."
        ) from None
    engine.buffer().zero()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return peak_memory_bytes(engine.device)
