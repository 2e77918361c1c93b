"""The sentences of the mini corpus: a few dozen templates over about 200 words of everyday requests and statements, grouped by topic.

A sentence says nothing about who speaks or how: labels are drawn independently, so a score on them measures the sound. Which split a
sentence belongs to is a hash of its words (not of the seed): no test sentence can occur in any training set. Left out: punctuation,
numbers above nine, names.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

SPLITS = ("train", "dev", "test")
_TEST_SHARE, _DEV_SHARE = 0.12, 0.04

_SLOTS: dict[str, tuple[str, ...]] = {
    "person": ("sister", "brother", "mother", "father", "friend", "teacher", "doctor", "neighbor"),
    "place": ("london", "the city", "the beach", "the mountains", "the village", "the river"),
    "weather": ("rain", "snow", "wind", "sun", "fog"),
    "sky": ("cold", "warm", "windy", "dark", "cloudy", "wet"),
    "time": ("today", "tonight", "tomorrow", "this morning", "this evening", "on sunday", "on monday"),
    "food": ("soup", "rice", "bread", "fish", "pizza", "salad", "cake", "noodles"),
    "drink": ("coffee", "tea", "milk", "juice", "water"),
    "taste": ("sweet", "hot", "salty", "fresh", "good"),
    "music": ("song", "album", "piano piece", "guitar solo", "lullaby"),
    "style": ("slow", "loud", "new", "soft", "quiet"),
    "work": ("meeting", "report", "project", "letter", "job"),
    "boss": ("boss", "team", "office", "company"),
    "subject": ("math", "history", "english", "science", "art"),
    "exam": ("exam", "test", "lesson", "class"),
    "vehicle": ("train", "bus", "plane", "taxi", "bike"),
    "ticket": ("ticket", "seat", "hotel", "map", "passport"),
    "pet": ("dog", "cat", "horse", "bird", "rabbit"),
    "room": ("kitchen", "garden", "bedroom", "window", "door"),
    "thing": ("phone", "book", "coat", "bag", "key"),
    "digit": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
}

_TEMPLATES: dict[str, tuple[str, ...]] = {
    "weather": (
        "will there be {weather} near {place} {time}",
        "the weather near {place} is {sky} {time}",
        "i think the {weather} will stop {time}",
        "it was very {sky} {time}",
        "do i need a {thing} for the {weather} {time}",
    ),
    "food": (
        "i want {food} and {drink} for dinner",
        "my {person} made {taste} {food} {time}",
        "this {food} is too {taste} for me",
        "can you cook some {food} {time}",
        "we drink {drink} with my {person}",
        "please buy {drink} and {taste} {food}",
    ),
    "music": (
        "please play a {style} {music} {time}",
        "my {person} wrote this {style} {music}",
        "can we hear the {style} {music} again",
        "this {music} is for my {person}",
        "turn off the {style} {music} please",
    ),
    "work": (
        "the {boss} moved my {work} to {time}",
        "i finished the {work} with my {boss}",
        "my {person} has a {style} {work} {time}",
        "tell the {boss} about the {work}",
        "i have a long {work} {time}",
    ),
    "school": (
        "the {subject} {exam} is {time}",
        "i took my {subject} {exam} {time}",
        "my {person} helps me with {subject}",
        "when does the {subject} {exam} start",
        "our {subject} {exam} was very long",
    ),
    "travel": (
        "the {vehicle} to {place} is late {time}",
        "i lost my {ticket} on the {vehicle}",
        "book a {ticket} to {place} for {time}",
        "we take the {vehicle} to {place}",
        "how far is {place} by {vehicle}",
        "my {person} is on the {vehicle} {time}",
    ),
    "home": (
        "the {pet} sleeps in the {room} {time}",
        "where did you put my {style} {thing}",
        "my {person} forgot the {thing} {time}",
        "open the {room} for the {pet}",
        "i left my {thing} near the {room}",
        "my {pet} is in the {room} again",
    ),
    "people": (
        "i will call my {person} {time}",
        "my {person} is coming from {place} {time}",
        "my {person} gave me a {style} {thing}",
        "did you see my {person} near {place}",
        "i will visit my {person} near {place}",
    ),
    "numbers": (
        "please dial {digit} {digit} {digit}",
        "the {vehicle} to {place} leaves at {digit}",
        "wake me up at {digit} {time}",
    ),
}


@dataclass(frozen=True)
class Sentence:
    text: str
    topic: str


def split_of(text: str) -> str:
    """The split a sentence belongs to, whatever the seed and the size of the corpus."""
    share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32
    if share < _TEST_SHARE:
        return "test"
    return "dev" if share < _TEST_SHARE + _DEV_SHARE else "train"


def slot_words(slot: str) -> tuple[str, ...]:
    """The fillers of one slot (``weather``, ``food``, ...), for data that is built on top of these sentences."""
    return _SLOTS[slot]


def all_sentences() -> Iterator[tuple[str, Sentence]]:
    """Every sentence with the template it comes from."""
    for topic, templates in _TEMPLATES.items():
        for template in templates:
            slots = re.findall(r"{(\w+)}", template)
            frame = re.sub(r"{\w+}", "{}", template)
            for words in itertools.product(*(_SLOTS[slot] for slot in slots)):
                yield template, Sentence(frame.format(*words), topic)


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    return tuple(sorted({word for _, sentence in all_sentences() for word in sentence.text.split()}))


@lru_cache(maxsize=1)
def _by_split() -> dict[str, tuple[tuple[Sentence, ...], ...]]:
    """split -> its sentences grouped by template."""
    table: dict[str, dict[str, list[Sentence]]] = {split: {} for split in SPLITS}
    for template, sentence in all_sentences():
        table[split_of(sentence.text)].setdefault(template, []).append(sentence)
    return {split: tuple(tuple(rows) for rows in groups.values()) for split, groups in table.items()}


def draw_sentences(split: str, count: int, rng: np.random.Generator) -> list[Sentence]:
    """``count`` sentences of one split. Template first, by the root of its size: large templates repeat less, small ones still occur.

    Within a template sentences come like cards from a deck, shuffled again only when all were used.
    """
    groups = _by_split()[split]
    weights = np.sqrt([len(group) for group in groups])
    decks: list[list[Sentence]] = [[] for _ in groups]
    drawn: list[Sentence] = []
    for index in rng.choice(len(groups), size=count, p=weights / weights.sum()):
        if not decks[index]:
            decks[index] = [groups[index][i] for i in rng.permutation(len(groups[index]))]
        drawn.append(decks[index].pop())
    return drawn
