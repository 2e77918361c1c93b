"""History is written as live turns are, and 6:18 comes out of the table as the page says."""

from dataclasses import replace

import numpy as np
import pytest

from osum_echat.config import InterleaveConfig
from osum_echat.errors import DataError
from osum_echat.tasks.sequence import SequenceBuilder
from osum_echat.tasks.task import TASKS, encode, encode_prompt
from osum_echat.text.prompts import load_prompts
from osum_echat.text.vocab import IGNORE
from osum_echat.utterance import Turn

CHATS = [name for name, task in TASKS.items() if task.follow_up]
SECOND = np.linspace(0.5, -0.5, 9000, dtype=np.float32)
THIRD = np.linspace(0.1, -0.1, 12000, dtype=np.float32)


def turns(utterance):
    told = {name: getattr(utterance, name) for name in ("gender", "age_years", "emotion", "event", "think")}
    user = Turn("user", txt=utterance.question, waveform_S=utterance.waveform_S, **told)
    return user, Turn("assistant", txt=utterance.txt, speech_token=utterance.speech_token)


@pytest.mark.parametrize("name", CHATS)
def test_the_next_turn_begins_with_the_ids_of_this_one(name, builder, utterance):
    task = TASKS[name]
    first = encode(utterance, task, builder)
    second = replace(utterance, waveform_S=SECOND, question="which door?", txt="the light", speech_token=(5, 6), history=turns(utterance))
    whole = encode(second, task, builder)
    assert whole.ids[: len(first)].tolist() == first.ids.tolist()
    third = replace(second, waveform_S=THIRD, question="open?", history=second.history + turns(second))
    assert encode_prompt(third, task, builder).ids[: len(whole)].tolist() == whole.ids.tolist()
    spans = encode_prompt(third, task, builder).audio
    assert [len(span.waveform_S) for span in spans] == ([16000, 9000, 12000] if task.reads_audio else [])
    for span in spans:
        assert (encode_prompt(third, task, builder).ids[span.start : span.start + span.num_slots] == builder.vocab.audio_slot).all()


@pytest.mark.parametrize("name", CHATS)
def test_a_follow_up_completes_what_is_there_to_the_next_prompt(name, builder, utterance):
    task = TASKS[name]
    first = encode(utterance, task, builder).ids.tolist()
    second = replace(utterance, waveform_S=SECOND, question="which door?", history=turns(utterance))
    task.follow_up(replace(second, history=()), builder)
    assert first + builder.build("k", name).ids.tolist() == encode_prompt(second, task, builder).ids.tolist()


@pytest.mark.parametrize("name", CHATS)
def test_only_the_last_reply_is_learned_and_heard(name, builder, utterance, vocab):
    task = TASKS[name]
    second = replace(utterance, txt="the light", speech_token=(5, 6), history=turns(utterance))
    whole, alone = encode(second, task, builder), encode(replace(second, history=()), task, builder)
    assert whole.num_supervised == alone.num_supervised
    assert whole.labels[whole.labels != IGNORE].tolist() == alone.labels[alone.labels != IGNORE].tolist()
    assert whole.ctc_ids.tolist() == alone.ctc_ids.tolist()


def test_an_earlier_turn_may_be_text_alone(builder, utterance, tokenizer, vocab):
    history = (Turn("user", txt="what is on?"), Turn("assistant", txt="the light"))
    ids = encode_prompt(replace(utterance, history=history), TASKS["s2s_interleaved"], builder).ids
    text = tokenizer.decode(ids[: ids.tolist().index(vocab.audio_begin)].tolist())
    system = builder.prompts.system_prompt("s2s_stream")
    assert text == (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nwhat is on?<|im_end|>\n<|im_start|>assistant\n"
        "the light<|im_end|>\n<|im_start|>user\n"
    )


@pytest.mark.parametrize(
    ("task", "history", "reason", "message"),
    [
        ("s2s", (Turn("user", txt="a"),), "bad_history", "train.list:7: u1.*got user"),
        ("t2t", (Turn("assistant", txt="a"), Turn("user", txt="a")), "bad_history", "got assistant, user"),
        ("s2s", (Turn("user"), Turn("assistant", txt="a")), "missing_audio", "turn 0 of 'history'"),
        ("t2t", (Turn("user", wav="a.wav"), Turn("assistant", txt="a")), "missing_question", "turn 0 of 'history'"),
        ("s2s", (Turn("user", txt="a"), Turn("assistant")), "missing_text", "turn 1 of 'history'"),
        ("s2s", (Turn("user", txt="a"), Turn("assistant", txt="a", speech_token=(64,))), "bad_speech_token", "u1: turn 1 of 'history'.*64"),
        ("s2s", (Turn("user", txt="<|im_end|>"), Turn("assistant", txt="a")), "control_text", "im_end"),
    ],
)
def test_defects_of_history_are_named(task, history, reason, message, builder, utterance):
    with pytest.raises(DataError, match=message) as caught:
        encode(replace(utterance, history=history), TASKS[task], builder)
    assert caught.value.reason == reason


def runs(labels, vocab):
    """T6 S18 … of the learned ids, boundaries counted as speech."""
    out = []
    for token in labels[labels != IGNORE].tolist():
        kind = "T" if vocab.is_text(token) else "S"
        if out and out[-1][0] == kind:
            out[-1][1] += 1
        else:
            out.append([kind, 1])
    return " ".join(f"{kind}{count}" for kind, count in out)


@pytest.mark.parametrize("name", ["tts_interleaved", "s2s_interleaved"])
@pytest.mark.parametrize(("num_codes", "expected"), [(58, "T6 S18 T1 S42"), (3, "T6 S4 T1 S1"), (1, "T6 S2 T1 S1")])
def test_the_papers_ratio(name, num_codes, expected, builder, utterance, tokenizer, vocab):
    text = "^~^~^~"  # nothing the tokenizer merges: six ids and eos
    assert len(tokenizer.encode(text)) == 6
    labels = encode(replace(utterance, txt=text, speech_token=tuple(range(num_codes))), TASKS[name], builder).labels
    assert runs(labels, vocab) == expected


def test_the_ratio_is_configured(utterance, tokenizer, vocab):
    builder = SequenceBuilder(tokenizer, vocab, load_prompts("mini"), ratio=InterleaveConfig(text=2, speech=3))
    labels = encode(replace(utterance, txt="^~^~", speech_token=tuple(range(10))), TASKS["tts_interleaved"], builder).labels
    assert runs(labels, vocab) == "T2 S3 T2 S3 T1 S6"
