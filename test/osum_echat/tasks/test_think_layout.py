"""Structured sparse learning: the full form always, nothing learned exactly where a label is unknown; contradictions are refused."""

from dataclasses import replace

import pytest
import torch

from osum_echat.config import ThinkConfig
from osum_echat.errors import DataError
from osum_echat.tasks.task import TASKS, THINKING, encode
from osum_echat.text.tags import UNKNOWN_TAG
from osum_echat.text.think import LABELS
from osum_echat.text.vocab import IGNORE

FIELDS = {"age": "age_years", "gender": "gender", "event": "event", "emotion": "emotion"}


def masked(sequence, tokenizer, prompt_length):
    """Text of the answer's positions that are not learned."""
    ids, labels = sequence.ids[prompt_length:], sequence.labels[prompt_length:]
    return tokenizer.decode(ids[labels == IGNORE].tolist())


def prompt_length(sequence):
    return next(at for at, label in enumerate(sequence.labels) if label != IGNORE)


@pytest.mark.parametrize("name", THINKING.values())
@pytest.mark.parametrize("missing", [(), ("emotion",), ("age", "gender"), LABELS])
def test_exactly_the_placeholders_are_not_learned(name, missing, builder, utterance, tokenizer):
    full = encode(utterance, TASKS[name], builder)
    row = replace(utterance, **{FIELDS[kind]: None for kind in missing})
    sparse = encode(row, TASKS[name], builder)
    start = prompt_length(full)
    assert masked(sparse, tokenizer, start) == UNKNOWN_TAG * len(missing)
    assert sparse.known == {kind: kind not in missing for kind in ("words", *LABELS)}
    assert sparse.labels[sparse.labels != IGNORE].tolist() == [
        token for token in full.labels[start:].tolist() if token not in {tokenizer.encode(tag)[0] for tag in tags_of(missing)}
    ]


def tags_of(kinds):
    return [{"age": "<ADULT>", "gender": "<FEMALE>", "event": "<COUGH>", "emotion": "<ANGRY>"}[kind] for kind in kinds]


def test_unknown_words_are_a_placeholder_too(builder, utterance, tokenizer):
    sequence = encode(replace(utterance, question=None), TASKS["s2t_think"], builder)
    assert sequence.known["words"] is False and masked(sequence, tokenizer, prompt_length(sequence)) == UNKNOWN_TAG


@pytest.mark.parametrize("value", ["", "unk", "null", "<UNK>"])
def test_all_ways_to_say_unknown(value, builder, utterance):
    assert encode(replace(utterance, emotion=value), TASKS["s2t_think"], builder).known["emotion"] is False


def test_only_full_rows_when_sparse_learning_is_off(builder, utterance):
    builder.think = ThinkConfig(sparse=False)
    assert all(encode(utterance, TASKS["s2s_think"], builder).known.values())
    with pytest.raises(DataError, match=r"train.list:7: u1: age, emotion unknown, and think.sparse is off") as caught:
        encode(replace(utterance, emotion=None, age_years=None), TASKS["s2s_think"], builder)
    assert caught.value.reason == "not_fully_labelled"


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"emotion": "hapy"}, "unknown_label", "train.list:7: u1.*nearest is 'happy'"),
        ({"question": "open it<SAD>"}, "contradictory_labels", "'emotion' says 'angry', the text 'sad'"),
        ({"question": "open it<HAPPPY>"}, "unknown_label", "the question holds <HAPPPY>"),
        ({"question": "<|im_end|>"}, "control_text", "im_end"),
    ],
)
def test_bad_rows_say_what_is_wrong(changes, reason, message, builder, utterance):
    with pytest.raises(DataError, match=message) as caught:
        encode(replace(utterance, **changes), TASKS["s2s_think"], builder)
    assert caught.value.reason == reason


def test_labels_inside_the_words_count_where_they_agree(builder, utterance, tokenizer):
    row = replace(utterance, question="what is on?<ANGRY><OLD>", age_years=None)
    expected = encode(replace(utterance, age_years=70.0), TASKS["s2t_think"], builder)
    assert encode(row, TASKS["s2t_think"], builder).ids.tolist() == expected.ids.tolist()


@pytest.mark.parametrize("paragraph", ["", "Sie klingt müde 🙂。", "he says <think end> twice <\\think end>"])
def test_a_paragraph_is_learned_whole(paragraph, builder, utterance, tokenizer):
    builder.think = ThinkConfig(form="language")
    sequence = encode(replace(utterance, think=paragraph), TASKS["s2t_think"], builder)
    start = prompt_length(sequence)
    escaped = paragraph.replace("<\\", "<\\\\").replace("<think end>", "<\\think end>")
    assert tokenizer.decode(sequence.ids[start:].tolist()) == f"<think>{escaped}<think end>open the Door<|im_end|>"
    assert masked(sequence, tokenizer, start) == "" and sequence.known == {}


def test_a_paragraph_is_needed_for_its_form(builder, utterance):
    builder.think = ThinkConfig(form="language")
    with pytest.raises(DataError, match="no 'think'") as caught:
        encode(utterance, TASKS["s2s_think"], builder)
    assert caught.value.reason == "missing_think"


@pytest.mark.parametrize("name", THINKING)
def test_the_block_stands_between_header_and_reply(name, builder, utterance, tokenizer):
    plain, thinking = encode(utterance, TASKS[name], builder), encode(utterance, TASKS[THINKING[name]], builder)
    start, block = prompt_length(thinking), []
    for part in ("<think>", "what is on?", *tags_of(LABELS), "<think end>"):
        block += tokenizer.encode(part)
    assert thinking.ids[start : start + len(block)].tolist() == block
    assert thinking.ids[start + len(block) :].tolist() == plain.ids[prompt_length(plain) :].tolist()
    assert torch.equal(torch.from_numpy(thinking.labels[start:]), torch.from_numpy(thinking.ids[start:]))


def test_words_for_the_ear_have_no_tags(builder, utterance):
    row = replace(utterance, question="what is on?<ANGRY>")
    for name in ("s2t", "s2t_think"):
        assert bytes(encode(row, TASKS[name], builder).ctc_ids.tolist()).decode() == "what is on?"
