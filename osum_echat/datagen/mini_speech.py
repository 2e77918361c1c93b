"""Plans the assistant's side of the mini corpus: sentences read in several emotions (tts), spoken questions with spoken replies (s2s).

The assistant has one voice, which no user has. It says the same words in the same emotion always the same way, down to the sample, and in
silence: what a small model is to learn has one right answer. Questions are asked by the speakers of ``mini_corpus.py``, recorded as their
other utterances are, in all emotions, without sound events. Many questions have the same reply: it is rendered once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from osum_echat.datagen.events import NO_EVENT
from osum_echat.datagen.facts import Fact, Question, all_facts, questions
from osum_echat.datagen.grammar import SPLITS, Sentence, draw_sentences
from osum_echat.datagen.mini_corpus import MiniSettings, UserPlan, corpus_speakers, deck, speaker_cells
from osum_echat.datagen.prosody import EMOTIONS, perform
from osum_echat.datagen.rendering import Sound
from osum_echat.datagen.speakers import ASSISTANT

ASSISTANT_RATE = 24000
_SILENCE_S = 0.08  # at both ends: two speech tokens
_FADE_S = 0.005
_LEVEL_DB = -22.5  # root mean square re full scale: a word is then about as loud in every sentence, which equal peaks would not give
_PEAK = 0.95  # but never more than this
_TTS_EMOTIONS = ("neutral", *EMOTIONS)  # replies are neutral, so that is what has to be learnt best
_QUESTIONS, _TTS = 2, 3  # streams of random numbers; mini_corpus.py uses 0 and 1


@dataclass(frozen=True)
class AssistantPlan:
    """Something the assistant says."""

    key: str
    folder: str
    sentence: Sentence
    emotion: str

    def render(self) -> Sound:
        """24 kHz: silence, speech, silence; nothing is drawn at random."""
        performance = perform(self.sentence.text, ASSISTANT, self.emotion, None, ASSISTANT_RATE)
        samples_S = np.pad(_faded(_levelled(performance.samples)), round(_SILENCE_S * ASSISTANT_RATE))
        words = tuple((word, round(start + _SILENCE_S, 3), round(end + _SILENCE_S, 3)) for word, start, end in performance.words)
        return Sound(samples_S, ASSISTANT_RATE, words)


@dataclass(frozen=True)
class Exchange:
    """A spoken question; the reply is ``question.fact.reply``."""

    plan: UserPlan
    question: Question


def _levelled(samples_S: np.ndarray) -> np.ndarray:
    """At ``_LEVEL_DB``, whatever the peak of the samples is."""
    gain = min(10 ** (_LEVEL_DB / 20) / float(np.sqrt(np.mean(samples_S**2))), _PEAK / float(np.abs(samples_S).max()))
    return samples_S * np.float32(gain)


def _faded(samples_S: np.ndarray) -> np.ndarray:
    """Without clicks where the speech was cut out of espeak's silence."""
    ramp = np.linspace(0, 1, round(_FADE_S * ASSISTANT_RATE), dtype=np.float32)
    faded = samples_S.copy()
    faded[: len(ramp)] *= ramp
    faded[-len(ramp) :] *= ramp[::-1]
    return faded


def make_tts_plans(settings: MiniSettings, split: str) -> list[AssistantPlan]:
    """Sentences of the split's part of the grammar; a third of them neutral, a sixth in each other emotion."""
    rng = np.random.default_rng([settings.seed, SPLITS.index(split), _TTS])
    count = settings.count(f"{split}_tts")
    sentences, emotions = draw_sentences(split, count, rng), deck(_TTS_EMOTIONS, count, rng)
    return [
        AssistantPlan(f"{ASSISTANT.name}-{split}-{number:05d}", f"{ASSISTANT.name}/{split}", sentence, emotion)
        for number, (sentence, emotion) in enumerate(zip(sentences, emotions, strict=True))
    ]


def make_exchanges(settings: MiniSettings, split: str) -> list[Exchange]:
    """Every question of the split equally often, balanced over gender x age and over emotion.

    Where there is no room for all questions, all splits ask for the same facts first: what is tested was taught.
    """
    facts = all_facts()
    order = np.random.default_rng([settings.seed, _QUESTIONS]).permutation(len(facts))
    rank = {facts[index]: place for place, index in enumerate(order)}
    choice = sorted(questions(split), key=lambda question: rank[question.fact])
    number_of_split = SPLITS.index(split)
    rng = np.random.default_rng([settings.seed, number_of_split, _QUESTIONS, 0])
    count = settings.count(f"{split}_s2s")
    cells = speaker_cells(corpus_speakers(settings, split))
    asked, emotions = deck(choice, count, rng), deck(tuple(EMOTIONS), count, rng)
    exchanges = []
    for number, cell_number in enumerate(deck(range(len(cells)), count, rng)):
        cell, question = cells[cell_number], asked[number]
        speaker = cell[int(rng.integers(len(cell)))]
        seeds = (settings.seed, number_of_split, _QUESTIONS, 1, number)
        sentence = Sentence(question.text, question.fact.relation)
        key = f"{speaker.name}-q{number:05d}"
        plan = UserPlan(key, f"questions/{split}", split, seeds, sentence, speaker, emotions[number], NO_EVENT)
        exchanges.append(Exchange(plan, question))
    return exchanges


def make_reply_plans(exchanges: Sequence[Exchange]) -> dict[Fact, AssistantPlan]:
    """One plan for each distinct reply, in the order of the table."""
    asked = {exchange.question.fact for exchange in exchanges}
    return {
        fact: AssistantPlan(fact.key, f"{ASSISTANT.name}/replies", Sentence(fact.reply, fact.relation), "neutral")
        for fact in all_facts()
        if fact in asked
    }
