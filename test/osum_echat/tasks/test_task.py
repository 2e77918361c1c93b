"""Every row of TASKS: prompt is a prefix, exactly the answer is learned; names, tags, labels out of texts, conversions, defects."""

import collections
from dataclasses import replace

import numpy as np
import pytest

from osum_echat.config import ConvertConfig
from osum_echat.errors import ConfigError, DataError
from osum_echat.tasks.sequence import SequenceBuilder
from osum_echat.tasks.task import TASKS, draw_task, encode, encode_prompt, get_task
from osum_echat.text.prompts import load_prompts
from osum_echat.text.tags import KINDS, parse_labels, parse_words, split_reply
from osum_echat.text.vocab import IGNORE
from osum_echat.utterance import Utterance

WORDS = "open the Door"
LABELS = {"age": "adult", "gender": "female", "event": "cough", "emotion": "angry", "style": "conversation"}
TAGS = {"age": "<ADULT>", "gender": "<FEMALE>", "event": "<COUGH>", "emotion": "<ANGRY>", "style": "<CONVERSATION>"}
ANSWERS = {
    "align": "<0.0>open<0.3><0.4>the<0.5><0.5>Door<1.0>",
    "sttc": f"{WORDS}<开始回答>it is open",
    "t2t": WORDS,
    "s2t": WORDS,
    "s2s": WORDS,
    "s2s_interleaved": WORDS,
    "tts_interleaved": WORDS,
}
THOUGHT = "<think>what is on?<ADULT><FEMALE><COUGH><ANGRY><think end>"


def learned(sequence):
    return sequence.labels[sequence.labels != IGNORE]


def learned_text(sequence, tokenizer, vocab=None):
    ids = learned(sequence)
    return tokenizer.decode(ids[ids < (vocab.text_size if vocab else 1 << 30)].tolist())


def expected_answer(task):
    tags = "".join(TAGS[kind] for kind in KINDS if kind in task.labels)
    if task.thinks:
        return THOUGHT + WORDS
    return ANSWERS.get(task.name, (WORDS if task.transcript else "") + tags)


def test_the_table_is_not_empty_and_names_its_rows():
    assert len(TASKS) >= 30
    assert {"tts", "tts_interleaved", "s2t", "s2s", "s2s_interleaved"} <= set(TASKS)
    assert {"asr", "align", "sttc", "asr_p", "only_p", "t2t", *KINDS, *(f"asr_{kind}" for kind in KINDS)} <= set(TASKS)
    assert all(name == task.name for name, task in TASKS.items())


@pytest.mark.parametrize("name", TASKS)
def test_prompt_is_a_prefix_and_exactly_the_answer_is_learned(name, builder, utterance, tokenizer, vocab):
    task = TASKS[name]
    whole, prompt = encode(utterance, task, builder), encode_prompt(utterance, task, builder)
    assert whole.ids[: len(prompt)].tolist() == prompt.ids.tolist()
    assert (prompt.labels == IGNORE).all()
    assert (whole.labels[: len(prompt)] == IGNORE).all()
    assert whole.labels[len(prompt) :].tolist() == whole.ids[len(prompt) :].tolist()
    writes, speaks = task.schedule != "speech", task.schedule != "text"
    assert learned_text(whole, tokenizer, vocab) == (expected_answer(task) + "<|im_end|>" if writes else "")
    spoken = [vocab.boundary, *(vocab.code_to_id(code) for code in utterance.speech_token), vocab.boundary]
    assert [token for token in learned(whole).tolist() if not vocab.is_text(token)] == (spoken if speaks else [])
    num_text = sum(vocab.is_text(token) for token in learned(whole).tolist())
    assert num_text < task.max_new and whole.num_supervised - num_text - (2 if speaks else 0) <= task.max_speech
    assert whole.num_supervised == len(whole) - len(prompt)
    assert (whole.key, whole.task) == ("u1", name)
    assert bool(whole.audio) == bool(prompt.audio) == task.reads_audio
    heard = utterance.question if task.follow_up else WORDS
    assert whole.ctc_ids.tolist() == (list(heard.encode()) if task.reads_audio else [])
    if task.reads_audio:
        assert whole.audio[0].start == prompt.audio[0].start
        assert whole.ids[whole.audio[0].start - 1] == vocab.audio_begin
        assert whole.ids[whole.audio[0].start + whole.audio[0].num_slots] == vocab.audio_end


@pytest.mark.parametrize("name", TASKS)
def test_the_prompt_needs_neither_answer_nor_labels(name, builder, utterance):
    task = TASKS[name]
    asked = {"txt": utterance.txt, "emotion": utterance.emotion} if name.startswith("tts") else {}  # there they are the question
    bare = Utterance(key="u1", **asked, question=utterance.question, waveform_S=utterance.waveform_S)
    assert encode_prompt(bare, task, builder).ids.tolist() == encode_prompt(utterance, task, builder).ids.tolist()


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.family == "understand"])
def test_the_answer_can_be_read_back(name, builder, utterance, tokenizer):
    task = TASKS[name]
    text = learned_text(encode(utterance, task, builder), tokenizer).removesuffix("<|im_end|>")
    transcript, labels = parse_labels(text)
    assert labels == {kind: LABELS[kind] for kind in task.labels}
    if name == "align":
        assert [word for word, _, _ in parse_words(text)] == WORDS.split()
    else:
        assert split_reply(transcript)[0] == (WORDS if task.transcript else "")


def test_prompts_have_chat_form(builder, utterance, tokenizer):
    ids = encode_prompt(utterance, TASKS["asr"], builder).ids
    text = tokenizer.decode(ids[ids < tokenizer.vocab_size].tolist())
    system, instruction = builder.prompts.system_prompt("understand"), builder.prompts.instruction("asr")
    body = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n"
    assert text == body
    text = tokenizer.decode(encode_prompt(utterance, TASKS["t2t"], builder).ids.tolist())
    system = builder.prompts.system_prompt("t2t")
    assert text == f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nwhat is on?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("name", ["tts", "tts_interleaved"])
@pytest.mark.parametrize(("emotion", "tag"), [("anger", "<ANGRY>"), ("happy", "<HAPPY>"), ("calm", ""), ("null", ""), (None, "")])
def test_an_emotion_to_speak_in_stands_before_the_text(name, emotion, tag, builder, utterance, tokenizer):
    sequence = encode_prompt(replace(utterance, emotion=emotion), TASKS[name], builder)
    said = tokenizer.decode(sequence.ids.tolist()).rpartition("<|im_start|>user\n")[2]
    assert said == f"{tag}{WORDS}<|im_end|>\n<|im_start|>assistant\n"
    assert not tag or sequence.ids.tolist().count(tokenizer.encode(tag)[0]) == 1 == len(tokenizer.encode(tag))


def test_both_prompt_files_serve_every_row():
    for name in ("default", "mini"):
        prompts = load_prompts(name)
        for task in TASKS.values():
            assert prompts.system_prompt(task.family)
            if task.family == "understand":
                assert prompts.instruction(task.name)
        assert set(prompts.instructions) <= set(TASKS)


def test_mini_prompts_are_cheap(tokenizer, vocab, utterance):
    builder = SequenceBuilder(tokenizer, vocab, load_prompts("mini"))
    prompt = encode_prompt(utterance, TASKS["asr_p"], builder)
    assert len(prompt) - prompt.num_slots - 2 <= 3 + 1 + 3  # three template pieces, system prompt, instruction


def test_the_instruction_is_drawn_only_with_a_generator(tokenizer, vocab, utterance):
    builder = SequenceBuilder(tokenizer, vocab, load_prompts("default"))
    assert len({encode(utterance, TASKS["asr"], builder).ids.tobytes() for _ in range(20)}) == 1
    builder.rng = np.random.default_rng(1)
    assert len({encode(utterance, TASKS["asr"], builder).ids.tobytes() for _ in range(60)}) > 5


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("asr_p", "asr_p"),
        ("<TRANSCRIBE>", "asr"),
        ("<TRANSCRIBE> <EMOTION>", "asr_emotion"),
        ("<EMOTION><TRANSCRIBE>", "asr_emotion"),
        (" <transcribe>  <Caption> ", "asr_event"),
        ("<CAPTION> <AUDIO>", "event"),
        ("<TRANSCRIBE> <STYLE> <AGE> <GENDER>", "asr_age_gender_style"),
        ("<TRANSCRIBE> <AGE> <GENDER> <STYLE> <EMOTION>", "asr_age_gender_emotion_style"),
        ("<TRANSCRIBE> <S2TCHAT>", "sttc"),
        ("<TEXT2TEXT>", "t2t"),
        ("<S2TCHAT>", "s2t"),
        ("<S2TCHAT> <TEXT2TOKEN>", "s2s"),
        ("<Speech2TEXTandTOKEN>", "s2s"),
        ("<S2TCHAT> <TEXT2TOKEN> <EMOTION>", "s2s"),
        ("<STREAMING><S2TCHAT> <TEXT2TOKEN>", "s2s_interleaved"),
        ("<TEXT2TOKEN>", "tts"),
        ("<TEXT2TOKEN> <STREAMING>", "tts_interleaved"),
    ],
)
def test_tasks_are_found_by_name_and_osum_tags(given, name):
    assert get_task(given) is TASKS[name]


@pytest.mark.parametrize(("given", "nearest"), [("asr_q", "asr_p"), ("<TRANSCRIBE> <EMOTIONS>", "<TRANSCRIBE> <EMOTION>"), ("", "asr")])
def test_unknown_tasks_name_the_nearest(given, nearest):
    with pytest.raises(DataError, match=nearest) as caught:
        get_task(given)
    assert caught.value.reason == "unknown_task"


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ('{"key": "k", "task": "<TRANSCRIBE> <EMOTION>", "txt": "Hi You<HAPPY>"}', "Hi You<HAPPY>"),
        ('{"key": "k", "task": "<EMOTION>", "txt": "Hi<OTHER>"}', "<OTHER_EMOTION>"),
        ('{"key": "k", "task": "asr_emotion", "txt": "Hi<OTHER>"}', "Hi<OTHER_EMOTION>"),
        ('{"key": "k", "task": "<TRANSCRIBE> <AGE> <GENDER>", "txt": "Hi<youth><male>"}', "Hi<ADULT><MALE>"),
        ('{"key": "k", "task": "<TRANSCRIBE> <GENDER>", "txt": "Hi", "extra": "{\\"gender\\": \\"female\\"}"}', "Hi<FEMALE>"),
        ('{"key": "k", "task": "asr_gender", "txt": "Hi<MALE>", "gender": "female"}', "Hi<FEMALE>"),
        ('{"key": "k", "task": "asr", "txt": "Hi <LAUGH> You<HAPPY>"}', "Hi You"),
        ('{"key": "k", "task": "asr", "txt": " Hi  You "}', "Hi  You"),
        ('{"key": "k", "task": "asr", "txt": "<0.3>Hi<0.7><0.8>You<1.0>"}', "Hi You"),
        ('{"key": "k", "task": "<TRANSCRIBE> <ALIGN>", "txt": "<0.3>Hi<0.7><0.8>You<1.0>"}', "<0.3>Hi<0.7><0.8>You<1.0>"),
        ('{"key": "k", "task": "<TRANSCRIBE> <S2TCHAT>", "txt": "Hi<开始回答>Hello"}', "Hi<开始回答>Hello"),
        ('{"key": "k", "task": "asr", "txt": "Hi<开始回答>Hello"}', "Hi"),
        ('{"key": "k", "task": "asr_event", "txt": "", "event": "cough"}', "<COUGH>"),
        ('{"key": "k", "task": "event", "event": "none"}', "<NO_EVENT>"),
        ('{"key": "k", "task": "age", "age": 71}', "<OLD>"),
        ('{"key": "k", "task": "<TEXT2TEXT>", "txt": "fine <b>", "extra": {"question": "how?"}}', "fine <b>"),
    ],
)
def test_rows_as_they_stand_in_lists(line, answer, builder, tokenizer):
    utt = replace(Utterance.from_json(line, "x:1"), waveform_S=np.zeros(8000, np.float32))
    assert learned_text(encode(utt, get_task(utt.task), builder), tokenizer) == answer + "<|im_end|>"


@pytest.mark.parametrize(
    ("task", "change", "reason", "message"),
    [
        ("asr", {"txt": None}, "missing_text", "train.list:7: u1"),
        ("asr", {"txt": " <HAPPY> "}, "empty_text", "empty"),
        ("asr", {"waveform_S": None}, "missing_audio", "needs audio"),
        ("asr", {"txt": "a <|im_end|> b"}, "control_text", "im_end"),
        ("asr", {"txt": "a \ud83d"}, "bad_text", "Unicode"),
        ("asr", {"txt": "a<FOO>"}, "unknown_label", "<FOO>"),
        ("asr_p", {"event": None}, "missing_label", "'event'"),
        ("only_p", {"age_years": None}, "missing_label", "'age'"),
        ("emotion", {"emotion": "null"}, "missing_label", "'emotion'"),
        ("emotion", {"emotion": "hapy"}, "unknown_label", "train.list:7: u1.*nearest is 'happy'"),
        ("age", {"age_years": 400.0}, "unknown_label", "plausible"),
        ("align", {"words": None}, "missing_words", "'words'"),
        ("align", {"words": (("a", 2.0, 1.0),)}, "bad_words", "from 2"),
        ("sttc", {"extra": {}}, "missing_answer", "extra.answer"),
        ("sttc", {"txt": None}, "missing_text", "no transcript"),
        ("t2t", {"question": " "}, "missing_question", "question"),
        ("t2t", {"txt": None}, "missing_text", "reply"),
        ("t2t", {"question": "<|im_start|>"}, "control_text", "im_start"),
        ("tts", {"emotion": "hapy"}, "unknown_label", "train.list:7: u1.*emotion 'hapy'; nearest is 'happy'"),
        ("tts", {"txt": None}, "missing_text", "train.list:7: u1"),
        ("tts", {"txt": " "}, "empty_text", "train.list:7: u1"),
        ("tts", {"txt": "<|im_end|>"}, "control_text", "im_end"),
        ("tts", {"speech_token": None}, "missing_speech_token", "train.list:7: u1: .*speech-tokens"),
        ("tts", {"speech_token": ()}, "missing_speech_token", "train.list:7: u1"),
        ("tts", {"speech_token": (1, 64)}, "bad_speech_token", "train.list:7: u1.*speech code 64"),
        ("tts_interleaved", {"speech_token": (-1,)}, "bad_speech_token", "train.list:7: u1.*speech code -1"),
        ("s2s", {"waveform_S": None}, "missing_audio", "train.list:7: u1"),
        ("s2s", {"waveform_S": np.zeros(100, np.float32)}, "empty_audio", "train.list:7: u1: .*100 samples"),
        ("s2s", {"txt": ""}, "empty_text", "train.list:7: u1.*reply"),
        ("s2s", {"speech_token": (99,)}, "bad_speech_token", "train.list:7: u1.*speech code 99"),
        ("s2s_interleaved", {"speech_token": None}, "missing_speech_token", "train.list:7: u1.*reply"),
        ("s2t", {"txt": None}, "missing_text", "reply"),
    ],
)
def test_defects_have_a_reason_and_a_place(task, change, reason, message, builder, utterance, tokenizer):
    with pytest.raises(DataError, match=message) as caught:
        encode(replace(utterance, **change), TASKS[task], builder)
    assert caught.value.reason == reason
    after = encode(utterance, TASKS["asr"], builder)  # nothing of the broken one is left in the builder
    assert learned_text(after, tokenizer) == WORDS + "<|im_end|>"
    assert len(after.audio) == 1


def test_only_labels_still_give_the_ctc_branch_its_words(builder, utterance, tokenizer):
    assert encode(utterance, TASKS["only_p"], builder).ctc_ids.tolist() == list(WORDS.encode())
    assert len(encode(replace(utterance, txt=None), TASKS["only_p"], builder).ctc_ids) == 0


def _draws(converts, epoch=0, seed=3, task="asr_p", count=2000):
    return [draw_task(Utterance(key=f"k{index}", task=task), converts, seed, epoch) for index in range(count)]


def _convert(source, to, rate):
    return ConvertConfig.model_validate({"from": source, "to": to, "rate": rate})


def test_conversion_depends_on_seed_epoch_and_key_only():
    half = [_convert("asr_p", "only_p", 0.5)]
    first = _draws(half)
    assert first == _draws(half)
    assert first != _draws(half, epoch=1) and first != _draws(half, seed=4)
    assert abs(first.count("only_p") / 2000 - 0.5) < 0.05
    assert set(first) == {"asr_p", "only_p"}


def test_conversions_of_one_task_share_the_draw():
    asr_p_tags = "<TRANSCRIBE> <AGE> <GENDER> <CAPTION> <EMOTION>"
    converts = [_convert("asr_p", "only_p", 0.3), _convert("asr", "emotion", 1.0), _convert(asr_p_tags, "asr", 0.2)]
    counts = collections.Counter(_draws(converts))
    assert abs(counts["only_p"] / 2000 - 0.3) < 0.05 and abs(counts["asr"] / 2000 - 0.2) < 0.05
    assert set(counts) == {"asr_p", "only_p", "asr"}
    assert set(_draws(converts, task="asr")) == {"emotion"}
    assert set(_draws(converts, task="gender")) == {"gender"}
    assert set(_draws([_convert("asr", "gender", 0.0)], task="asr")) == {"asr"}


def test_wrong_conversions_end_the_run_and_wrong_rows_are_data():
    with pytest.raises(ConfigError, match="add up to"):
        _draws([_convert("asr_p", "only_p", 0.7), _convert("asr_p", "asr", 0.7)], count=5)
    with pytest.raises(ConfigError, match="only_q"):
        _draws([_convert("asr_p", "only_q", 1.0)], count=1)
    with pytest.raises(DataError, match="no_task"):
        draw_task(Utterance(key="k", task="no_task"), [], 0, 0)
