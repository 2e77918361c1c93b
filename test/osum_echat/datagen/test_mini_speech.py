"""The assistant's side of the mini corpus: one voice without chance, questions that are new while their facts are known, lists that fit."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from osum_echat.config import SourceConfig
from osum_echat.data.doctor import ListSpec, check_lists
from osum_echat.datagen.facts import NUM_PHRASINGS, all_facts, questions
from osum_echat.datagen.grammar import Sentence, all_sentences, split_of, vocabulary
from osum_echat.datagen.mini_corpus import MiniSettings, make_plans
from osum_echat.datagen.mini_lists import make_mini_corpus
from osum_echat.datagen.mini_speech import ASSISTANT_RATE, AssistantPlan, make_exchanges, make_reply_plans, make_tts_plans
from osum_echat.datagen.prosody import EMOTIONS
from osum_echat.datagen.speakers import ASSISTANT, VARIANTS
from osum_echat.errors import DataError
from osum_echat.utterance import Utterance

pytest.importorskip("espeakng_loader")
SPLITS = ("train", "dev", "test")
NO_EMPATHY = {"train_empathy": 0, "dev_empathy": 0, "test_empathy": 0}
SMOKE = MiniSettings(train=4, dev=2, test=2, train_tts=9, dev_tts=6, test_tts=6, train_s2s=20, dev_s2s=4, test_s2s=5, **NO_EMPATHY, seed=3)


def say(text: str, emotion: str = "neutral") -> np.ndarray:
    sound = AssistantPlan("k", "f", Sentence(text, ""), emotion).render()
    assert sound.rate == ASSISTANT_RATE == 24000
    return sound.samples_S


def _read(path: Path) -> list[Utterance]:
    return [Utterance.from_json(line, f"{path}:{number}") for number, line in enumerate(path.read_text().splitlines(), 1)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("speech") / "a"
    make_mini_corpus(out, SMOKE, num_processes=2)
    return out


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_the_assistant_repeats_itself_to_the_sample(emotion: str) -> None:
    first = say("i left my coat near the kitchen", emotion)
    for other in ("angry", "sad"):
        say("turn off the loud song please", other)
    assert np.array_equal(say("i left my coat near the kitchen", emotion), first)


def test_the_voice_of_the_assistant_is_nobody_elses_and_its_emotions_differ() -> None:
    assert ASSISTANT.variant not in {variant for genders in VARIANTS.values() for variants in genders.values() for variant in variants}
    text = "the weather near the river is dark today"
    said = {emotion: say(text, emotion) for emotion in EMOTIONS}
    assert len(said["sad"]) > 1.2 * len(said["neutral"]) > 1.2 * len(said["happy"])
    for emotion, samples_S in said.items():
        others = [other for name, other in said.items() if name != emotion]
        assert all(len(samples_S) != len(other) or np.abs(samples_S - other).max() > 0.1 for other in others)


def test_levels_and_silence_of_the_assistant() -> None:
    for text in ("book a hotel to the city for tonight", "this soup is too hot for me"):
        for emotion in EMOTIONS:
            samples_S = say(text, emotion)
            edge = round(0.08 * ASSISTANT_RATE)
            assert not samples_S[:edge].any() and not samples_S[-edge:].any()
            assert np.abs(samples_S[edge : edge + 1200]).max() > 0.003 and np.abs(samples_S[-edge - 2400 : -edge]).max() > 0.003
            assert np.abs(samples_S).max() < 0.96
            assert 20 * np.log10(samples_S[edge:-edge].std()) == pytest.approx(-22.5, abs=0.1)
            assert np.abs(np.diff(samples_S)[: edge + 24]).max() < 0.01  # no click where the speech begins


def test_every_fact_and_every_phrasing_of_a_test_question_is_known_from_training() -> None:
    asked = {split: questions(split) for split in SPLITS}
    facts = {split: Counter(question.fact for question in found) for split, found in asked.items()}
    assert facts["train"] == dict.fromkeys(all_facts(), NUM_PHRASINGS - 2)
    assert facts["dev"] == facts["test"] == dict.fromkeys(all_facts(), 1)
    texts = {split: {question.text for question in found} for split, found in asked.items()}
    assert sum(map(len, texts.values())) == len(set.union(*texts.values())) == NUM_PHRASINGS * len(all_facts())

    def forms(split: str) -> set[tuple[str, str]]:
        return {(question.fact.relation, re.sub(rf"\b{question.fact.entity}\b", "*", question.text)) for question in asked[split]}

    assert forms("test") <= forms("train") and forms("dev") <= forms("train")
    with pytest.raises(DataError, match="got split 'eval'"):
        questions("eval")


def test_every_sentence_of_the_grammar_is_another() -> None:
    texts = [sentence.text for _, sentence in all_sentences()]
    assert len(texts) == len(set(texts)) == 9168 and len(vocabulary()) == 195
    assert "please dial one two three" in texts


def test_replies_are_training_sentences_and_questions_are_no_sentence_of_the_grammar() -> None:
    grammar = {sentence.text for _, sentence in all_sentences()}
    replies = [fact.reply for fact in all_facts()]
    assert len(set(replies)) == len(replies) >= 80
    assert {split_of(reply) for reply in replies} == {"train"} and set(replies) <= grammar
    assert all(4 <= len(reply.split()) <= 10 for reply in replies)
    asked = {question.text for split in SPLITS for question in questions(split)}
    assert not asked & grammar
    assert {word for text in asked for word in text.split()} - set(vocabulary()) == {"who", "what", "your"}


def test_askers_and_read_sentences_are_disjoint_and_every_question_is_asked() -> None:
    settings = MiniSettings()
    exchanges = {split: make_exchanges(settings, split) for split in SPLITS}
    voices = {split: {x.plan.speaker.variant for x in rows} for split, rows in exchanges.items()}
    assert not voices["train"] & (voices["dev"] | voices["test"])
    speakers = {plan.speaker for plan in make_plans(settings, "test")}
    assert {x.plan.speaker for x in exchanges["test"]} <= speakers
    counts = Counter(x.question.text for x in exchanges["train"])
    assert counts.keys() == {question.text for question in questions("train")} and set(counts.values()) <= {5, 6}
    assert {x.question for x in exchanges["test"]} == set(questions("test"))
    assert set(Counter(x.plan.emotion for x in exchanges["train"]).values()) == {400}
    plans = {split: make_tts_plans(settings, split) for split in SPLITS}
    assert all(split_of(plan.sentence.text) == split for split, rows in plans.items() for plan in rows)
    emotions = Counter(plan.emotion for plan in plans["train"])
    third, sixth = settings.train_tts / 3, settings.train_tts / 6
    assert abs(emotions.pop("neutral") - third) < 1 and all(abs(count - sixth) < 1 for count in emotions.values())
    assert len(make_reply_plans(exchanges["train"])) == len(all_facts())


def test_a_small_corpus_tests_what_it_teaches() -> None:
    asked = {split: {x.question.fact for x in make_exchanges(SMOKE, split)} for split in SPLITS}
    assert len(asked["train"]) == 5
    assert asked["test"] <= asked["train"] and asked["dev"] <= asked["train"]


def test_lists_say_who_asks_and_what_the_assistant_answers(corpus: Path) -> None:
    for split in SPLITS:
        for row in _read(corpus / f"{split}_tts.list"):
            assert (row.task, row.speaker, row.wav, row.question) == ("tts", "assistant", None, None)
            assert row.emotion in EMOTIONS and split_of(row.txt) == split
        for row in _read(corpus / f"{split}_s2s.list"):
            assert (row.task, row.emotion) == ("s2s", None) and row.gender and row.age and row.speaker.startswith(split)
            (fact,) = [fact for fact in all_facts() if fact.reply == row.txt]
            assert row.question in {question.text for question in questions(split) if question.fact == fact}
            assert row.answer_wav == str(corpus / "wav/assistant/replies" / f"{fact.key}.wav")
            assert soundfile.info(row.wav).samplerate == 16000
            assert soundfile.info(row.wav).duration == pytest.approx(row.extra["seconds"], abs=1e-3)
        for row in (*_read(corpus / f"{split}_tts.list"), *_read(corpus / f"{split}_s2s.list")):
            info = soundfile.info(row.answer_wav)
            assert (info.samplerate, info.channels, info.subtype) == (24000, 1, "PCM_16")
            assert info.duration == pytest.approx(row.extra["answer_seconds"], abs=1e-3)
    written = [(row.task, row.question, row.txt) for row in _read(corpus / "train_t2t.list")]
    assert written == [("t2t", question.text, question.fact.reply) for question in questions("train")]


def test_what_is_said_in_training_is_also_there_to_be_understood(corpus: Path) -> None:
    asked, read = _read(corpus / "train_s2s.list"), _read(corpus / "train_tts.list")
    questions_heard, assistant_heard = _read(corpus / "train_questions.list"), _read(corpus / "train_assistant.list")
    for row, source in zip(questions_heard, asked, strict=True):
        assert (row.key, row.wav, row.txt, row.task) == (source.key, source.wav, source.question, "asr_age_gender_emotion")
        assert (row.gender, row.age, row.emotion) == (source.gender, source.age, source.extra["user_emotion"])
        assert (row.question, row.answer_wav) == (None, None)
    for row, source in zip(assistant_heard, read, strict=True):
        assert (row.key, row.wav, row.txt, row.task) == (source.key, source.answer_wav, source.txt, "asr")
        assert row.answer_wav is None and row.speech_token is None


def test_the_doctor_finds_nothing_wrong_with_the_lists(corpus: Path) -> None:
    names = {
        "train": ("train_tts", "train_s2s", "train_t2t", "train_questions", "train_assistant"),
        "dev": ("dev_tts", "dev_s2s"),
        "test": ("test_tts", "test_s2s"),
    }
    specs = [ListSpec(split, SourceConfig(kind="raw", list=f"{corpus / name}.list")) for split, part in names.items() for name in part]
    diagnosis = check_lists(specs)
    assert (diagnosis.verdict, {finding.kind for finding in diagnosis.findings}) == ("ok", {"no_speech_token"})
    assert [summary.answers.rates for summary in diagnosis.lists[:3]] == [{"24000": 9}, {"24000": 20}, {}]
