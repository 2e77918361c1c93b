"""What a runtime without Python must know of the tasks: prompts as ids with places for what a request brings, schedules, bounds, rules.

Nothing is written twice: the very functions that write a prompt in training (tasks/) write it here, into a builder that notes places.
A prompt is a list of pieces, ``{"ids": [...]}`` or ``{"slot": name}``. Slots: ``audio`` (as many audio slots as adapter frames, the marks
around them stand in the ids), ``text`` (the user's, tokenized on its own), ``emotion`` (the ids of a tag, or nothing).
"""

from collections.abc import Sequence as Many
from dataclasses import asdict
from typing import Any

import numpy as np

from osum_echat.audio.features import SAMPLE_RATE
from osum_echat.config import RunConfig
from osum_echat.generate.requests import GREEDY, RequestEncoder, speech_sampler
from osum_echat.generate.rules import NoLoop
from osum_echat.generate.schedule import make_schedule, make_thinking
from osum_echat.tasks.sequence import SequenceBuilder
from osum_echat.tasks.task import TASKS, Layout, Task
from osum_echat.text import tags, think
from osum_echat.text.prompts import load_prompts
from osum_echat.text.tokenizer import Tokenizer
from osum_echat.text.vocab import JointVocab
from osum_echat.utterance import Utterance

Piece = dict[str, Any]
_EMOTION = "happy"  # any that is not neutral
_TEXT = "\ue000"  # a character nobody writes
_SLOTS = {_TEXT: "text", tags.tag_text("emotion", _EMOTION): "emotion"}
_REQUEST = Utterance(
    "export", txt=_TEXT, question=_TEXT, emotion=_EMOTION, waveform_S=np.zeros(SAMPLE_RATE, np.float32)
)  # brings everything a prompt may ask for


class _Recorder(SequenceBuilder):
    """Notes pieces in place of a sequence."""

    def clear(self) -> None:
        super().clear()
        self.pieces: list[Piece] = []

    def text(self, text: str, learn: bool = False) -> None:
        if text in _SLOTS:
            self.pieces.append({"slot": _SLOTS[text]})
        else:
            super().text(text, learn)

    def ids(self, ids: Many[int], learn: bool = False) -> None:
        if self.pieces and "ids" in self.pieces[-1]:
            self.pieces[-1]["ids"] += ids
        elif ids:
            self.pieces.append({"ids": list(ids)})

    def audio(self, waveform_S: np.ndarray) -> None:
        self.ids([self.vocab.audio_begin])
        self.pieces.append({"slot": "audio"})
        self.ids([self.vocab.audio_end])

    def record(self, layout: Layout) -> list[Piece]:
        """The pieces of a prompt."""
        self.clear()
        layout(_REQUEST, self)
        return self.pieces


def describe_vocab(vocab: JointVocab) -> dict[str, int]:
    """Where the joint ids lie (text/vocab.py)."""
    names = ("text_size", "codebook_size", "boundary", "num_output", "audio_begin", "audio_end", "num_input", "audio_slot")
    return {name: getattr(vocab, name) for name in names}


def describe_tasks(config: RunConfig, tokenizer: Tokenizer, vocab: JointVocab) -> dict[str, Any]:
    """Every row of TASKS by its name."""
    recorder = _Recorder(tokenizer, vocab, load_prompts(config.prompts), None, config.interleave, config.think)
    return {name: _describe(task, recorder, config) for name, task in TASKS.items()}


def _describe(task: Task, recorder: _Recorder, config: RunConfig) -> dict[str, Any]:
    return {
        "family": task.family,
        "reads_audio": task.reads_audio,
        "thinks": task.thinks,
        "transcript": task.transcript,
        "labels": list(task.labels),
        "schedule": asdict(make_schedule(task.schedule, config.interleave)),  # ids in a block; 0: none, null: all of that sort
        "max_new": task.max_new,
        "max_speech": task.max_speech,
        "prompt": recorder.record(task.prompt),
        "follow_up": recorder.record(task.follow_up) if task.follow_up else None,
    }


def _describe_tags(kind: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """Label -> how it is written."""
    texts = {value: tags.tag_text(kind, value) for value in tags.values(kind)}
    return {value: {"text": text, "ids": tokenizer.encode(text)} for value, text in texts.items()}


def describe_choice(config: RunConfig, encoder: RequestEncoder) -> dict[str, Any]:
    """How ids are chosen and when they end: samplers, rules and ends of both sorts, the think block. Codes are rows of the speech head."""
    boundary = encoder.vocab.id_to_code(encoder.vocab.boundary)
    thinking = make_thinking(encoder.tokenizer, config.think.max_tokens)
    loop = NoLoop(boundary)
    return {
        "text": {
            "end": encoder.tokenizer.eos_id,
            "sampler": asdict(GREEDY),
            "rules": {"below": encoder.tokenizer.vocab_size, "forbid": [encoder.tokenizer.encode(tags.UNKNOWN_TAG)]},
        },
        "speech": {
            "end": boundary,
            "sampler": asdict(speech_sampler(config)),
            "rules": {"no_loop": {"max_length": loop.max_length, "max_period": loop.max_period}},
        },
        "think": {
            "form": config.think.form,
            "begin": list(thinking.begin),
            "end": list(thinking.end),
            "end_text": think.END,
            "max_tokens": config.think.max_tokens,
            "labels": list(think.LABELS),
        },
        "tags": {kind: _describe_tags(kind, encoder.tokenizer) for kind in tags.KINDS},
        "interleave": {"text": config.interleave.text, "speech": config.interleave.speech},
    }
