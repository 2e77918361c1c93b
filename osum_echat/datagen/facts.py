"""What the assistant of the mini corpus knows: a table of facts (entity × relation -> reply), and six phrasings of every question.

A reply follows from the words of its question: the entity says which row, the phrasing which column. Which split a question belongs to is
fixed by its place in the table: each fact is asked in four phrasings in training, in another one in dev and in another one in test, and
each phrasing of a relation occurs in training with other entities. So no test question occurs in training, while its fact and its phrasing
do. Replies use words of ``grammar.py`` only, and are no sentences of it; questions add "who", "what" and "your".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from osum_echat.errors import DataError

NUM_PHRASINGS = 6
_HELD_OUT = {"test": 0, "dev": 3}  # phrasing of fact number 0; the next fact holds out the next one


@dataclass(frozen=True)
class Relation:
    """``reply`` and ``phrasings`` have a place {e} for the entity, ``reply`` one more {v} for what ``values`` gives it."""

    reply: str
    phrasings: tuple[str, str, str, str, str, str]
    values: Mapping[str, str]


@dataclass(frozen=True)
class Fact:
    """One cell of the table."""

    relation: str
    entity: str
    reply: str

    @property
    def key(self) -> str:
        """For file names."""
        return f"{self.relation}-{self.entity.replace(' ', '_')}"


@dataclass(frozen=True)
class Question:
    """One phrasing of one fact."""

    text: str
    fact: Fact


_RELATIONS: dict[str, Relation] = {
    "pet_room": Relation(
        "the {e} sleeps {v}",
        (
            "where is the {e}",
            "where is your {e} tonight",
            "tell me where the {e} is",
            "can you see your {e}",
            "where did you see the {e}",
            "i lost your {e} where is it",
        ),
        {
            "dog": "near the door",
            "cat": "in the kitchen",
            "horse": "in the garden",
            "bird": "near the window",
            "rabbit": "in the bedroom",
        },
    ),
    "pet_giver": Relation(
        "my {v} gave me the {e}",
        (
            "who gave you the {e}",
            "tell me who gave you the {e}",
            "did you buy the {e}",
            "who did you have the {e} from",
            "how did you buy your {e}",
            "please tell me about your {e}",
        ),
        {"dog": "father", "cat": "neighbor", "horse": "brother", "bird": "sister", "rabbit": "teacher"},
    ),
    "food_taste": Relation(
        "the {e} is very {v}",
        (
            "how is the {e}",
            "is the {e} good",
            "tell me how the {e} is",
            "do you think the {e} is good",
            "how is the {e} today",
            "can you tell me about the {e}",
        ),
        {"soup": "hot", "rice": "salty", "bread": "fresh", "fish": "good", "pizza": "hot", "salad": "fresh", "cake": "sweet"},
    ),
    "food_cook": Relation(
        "my {v} made the {e}",
        (
            "who made the {e}",
            "who made the {e} for you",
            "did you cook the {e}",
            "tell me who made the {e}",
            "who can cook {e}",
            "where did you buy the {e}",
        ),
        {
            "soup": "mother",
            "rice": "friend",
            "bread": "neighbor",
            "fish": "father",
            "pizza": "brother",
            "salad": "sister",
            "cake": "teacher",
        },
    ),
    "food_time": Relation(
        "we will have {e} {v}",
        (
            "when do we have {e}",
            "when will you cook {e} again",
            "tell me when you cook {e}",
            "will you cook {e} today",
            "when can i have some {e}",
            "do we have {e} for dinner",
        ),
        {
            "soup": "on sunday",
            "rice": "tomorrow",
            "bread": "this morning",
            "fish": "on monday",
            "pizza": "tonight",
            "salad": "this evening",
            "cake": "on sunday",
        },
    ),
    "vehicle_time": Relation(
        "the {e} is coming {v}",
        (
            "when is the {e} coming",
            "when will the {e} be there",
            "is the {e} late",
            "tell me when the {e} is coming",
            "how late is the {e}",
            "when do we take the {e}",
        ),
        {"train": "tomorrow", "bus": "this morning", "plane": "on monday", "taxi": "tonight"},
    ),
    "vehicle_stop": Relation(
        "the {e} will stop near {v}",
        (
            "where does the {e} stop",
            "where will the {e} stop",
            "does the {e} stop in london",
            "tell me where the {e} will stop",
            "where can i take the {e}",
            "how far is the {e}",
        ),
        {"train": "the river", "bus": "the beach", "plane": "the mountains", "taxi": "the office"},
    ),
    "vehicle_person": Relation(
        "my {v} is on the {e}",
        (
            "who is on the {e}",
            "who will take the {e}",
            "is my friend on the {e}",
            "did you see a friend on the {e}",
            "tell me who is on the {e}",
            "who was with you on the {e}",
        ),
        {"train": "doctor", "bus": "teacher", "plane": "mother", "taxi": "boss"},
    ),
    "person_place": Relation(
        "my {e} is near {v}",
        (
            "where is your {e}",
            "where is your {e} today",
            "tell me where your {e} is",
            "where did you see your {e}",
            "is your {e} in the office",
            "can i visit your {e}",
        ),
        {
            "sister": "the beach",
            "brother": "the river",
            "mother": "london",
            "father": "the mountains",
            "friend": "the village",
            "teacher": "the city",
            "doctor": "the river",
            "neighbor": "the garden",
        },
    ),
    "person_drink": Relation(
        "i drink {v} with my {e}",
        (
            "what do you drink with your {e}",
            "what does your {e} drink",
            "does your {e} want some water",
            "tell me what your {e} will drink",
            "what can i buy for your {e}",
            "what will you drink with your {e}",
        ),
        {
            "sister": "tea",
            "brother": "milk",
            "mother": "coffee",
            "father": "water",
            "friend": "juice",
            "teacher": "coffee",
            "doctor": "tea",
            "neighbor": "juice",
        },
    ),
    "person_time": Relation(
        "my {e} will visit {v}",
        (
            "when is your {e} coming",
            "when will your {e} visit you",
            "is your {e} coming today",
            "tell me when your {e} is coming",
            "when do you see your {e} again",
            "will your {e} visit you on sunday",
        ),
        {
            "sister": "on monday",
            "brother": "tomorrow",
            "mother": "on sunday",
            "father": "this evening",
            "friend": "tonight",
            "teacher": "this morning",
            "doctor": "tomorrow",
            "neighbor": "tonight",
        },
    ),
    "subject_time": Relation(
        "the {e} exam will be {v}",
        (
            "when is the {e} exam",
            "when do you have your {e} exam",
            "is the {e} exam today",
            "tell me when the {e} exam is",
            "when will we have the {e} exam",
            "do we have the {e} exam tomorrow",
        ),
        {"math": "on monday", "history": "tomorrow", "english": "this morning", "science": "on sunday", "art": "this evening"},
    ),
    "subject_helper": Relation(
        "my {v} helps me with the {e} test",
        (
            "who helps you with {e}",
            "who is your {e} teacher",
            "tell me who helps you with {e}",
            "do you have a friend for {e}",
            "who is good in {e}",
            "who will take you to {e} class",
        ),
        {"math": "brother", "history": "mother", "english": "sister", "science": "doctor", "art": "neighbor"},
    ),
    "place_weather": Relation(
        "it is very {v} near {e}",
        (
            "how is the weather near {e}",
            "is it warm near {e}",
            "will it be wet near {e}",
            "tell me about the weather near {e}",
            "is there rain near {e}",
            "do i need a coat for {e}",
        ),
        {
            "london": "wet",
            "the city": "warm",
            "the beach": "windy",
            "the mountains": "cold",
            "the village": "cloudy",
            "the river": "dark",
        },
    ),
    "place_vehicle": Relation(
        "please take the {v} to {e}",
        (
            "how far is {e}",
            "tell me how far {e} is",
            "can you take me to {e}",
            "how do i visit {e}",
            "i want to see {e}",
            "is {e} far from the office",
        ),
        {
            "london": "plane",
            "the city": "taxi",
            "the beach": "bike",
            "the mountains": "train",
            "the village": "bus",
            "the river": "bike",
        },
    ),
    "music_author": Relation(
        "my {v} wrote the {e} for me",
        (
            "who wrote the {e}",
            "who wrote this {e} for you",
            "did you hear who wrote the {e}",
            "tell me who wrote the {e}",
            "is the {e} from your boss",
            "who is the {e} from",
        ),
        {"song": "sister", "album": "friend", "piano piece": "teacher", "guitar solo": "brother", "lullaby": "mother"},
    ),
    "music_style": Relation(
        "i think the {e} is too {v}",
        (
            "how is the {e}",
            "how loud is the {e}",
            "is the {e} good",
            "tell me how the {e} is",
            "did you hear the {e}",
            "do you think the {e} is good",
        ),
        {"song": "loud", "album": "long", "piano piece": "slow", "guitar solo": "quiet", "lullaby": "soft"},
    ),
    "work_time": Relation(
        "the {e} will start {v}",
        (
            "when does the {e} start",
            "when will you start the {e}",
            "did you start the {e}",
            "tell me when you start the {e}",
            "is the {e} today",
            "will you start your {e} tomorrow",
        ),
        {"meeting": "this morning", "report": "on monday", "project": "tomorrow", "letter": "tonight", "job": "on sunday"},
    ),
    "work_for": Relation(
        "the {e} is for my {v}",
        (
            "who is the {e} for",
            "who will hear about the {e}",
            "is the {e} for my father",
            "tell me who the {e} is for",
            "who do you need the {e} for",
            "what is the {e} about",
        ),
        {"meeting": "team", "report": "boss", "project": "company", "letter": "doctor", "job": "office"},
    ),
    "thing_place": Relation(
        "i put the {e} {v}",
        (
            "where is the {e}",
            "where did you put the {e}",
            "did you see my {e}",
            "i lost the {e} where is it",
            "tell me where my {e} is",
            "where did i put the {e}",
        ),
        {
            "phone": "in the kitchen",
            "book": "near the window",
            "coat": "near the door",
            "bag": "in the bedroom",
            "key": "in the garden",
            "map": "on the piano",
            "passport": "in the office",
            "ticket": "on the bike",
        },
    ),
    "thing_giver": Relation(
        "the {e} is from my {v}",
        (
            "who gave you the {e}",
            "who is the {e} from",
            "tell me who gave you the {e}",
            "did you buy the {e}",
            "where did you buy the {e}",
            "is the {e} new",
        ),
        {
            "phone": "mother",
            "book": "teacher",
            "coat": "sister",
            "bag": "friend",
            "key": "neighbor",
            "map": "doctor",
            "passport": "boss",
            "ticket": "father",
        },
    ),
}


@lru_cache(maxsize=1)
def all_facts() -> tuple[Fact, ...]:
    """The table, relation by relation."""
    return tuple(
        Fact(name, entity, relation.reply.format(e=entity, v=value))
        for name, relation in _RELATIONS.items()
        for entity, value in relation.values.items()
    )


@lru_cache(maxsize=3)
def questions(split: str) -> tuple[Question, ...]:
    """Every question of a split: four per fact in train, one in dev, one in test."""
    if split not in ("train", *_HELD_OUT):
        raise DataError(f"got split {split!r}; expected train, {', '.join(_HELD_OUT)}", "bad_split")
    found = []
    for number, fact in enumerate(all_facts()):
        held_out = {(number + shift) % NUM_PHRASINGS: name for name, shift in _HELD_OUT.items()}
        for place, phrasing in enumerate(_RELATIONS[fact.relation].phrasings):
            if held_out.get(place, "train") == split:
                found.append(Question(phrasing.format(e=fact.entity), fact))
    return tuple(found)
