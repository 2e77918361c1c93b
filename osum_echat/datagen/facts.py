"""What the assistant of the mini corpus knows: a table of facts (relation × entity -> reply), and six phrasings of each question.

A reply follows from the words of its question: the phrasing tells the relation, the entity is named. Which split a question belongs to is
fixed by its place in the table (facts.yaml): each fact is asked in four phrasings in training, in another one in dev and in another one in
test, and each phrasing of a relation occurs in training with other entities. So no test question occurs in training, while its fact and its
phrasing do. Left out: facts that a reply has to be composed for.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from osum_echat.errors import DataError

NUM_PHRASINGS = 6
_TABLE = Path(__file__).with_name("facts.yaml")
_HELD_OUT = {"test": 0, "dev": 3}  # phrasing of fact number 0; the next fact holds out the next one


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


@lru_cache(maxsize=1)
def _table() -> tuple[tuple[Fact, ...], dict[str, list[str]]]:
    """Facts, and the phrasings of each relation."""
    relations = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    facts = [Fact(name, entity, reply) for name, relation in relations.items() for entity, reply in relation["replies"].items()]
    return tuple(facts), {name: relation["questions"] for name, relation in relations.items()}


def all_facts() -> tuple[Fact, ...]:
    """The table, relation by relation."""
    return _table()[0]


@lru_cache(maxsize=3)
def questions(split: str) -> tuple[Question, ...]:
    """Every question of a split: four per fact in train, one in dev, one in test."""
    if split not in ("train", *_HELD_OUT):
        raise DataError(f"got split {split!r}; expected train, {', '.join(_HELD_OUT)}", "bad_split")
    facts, phrasings = _table()
    found = []
    for number, fact in enumerate(facts):
        for place, phrasing in enumerate(phrasings[fact.relation]):
            if split_of_phrasing(number, place) == split:
                found.append(Question(phrasing.format(e=fact.entity), fact))
    return tuple(found)


def split_of_phrasing(number: int, place: int) -> str:
    """The split that the phrasing at `place` of the table's entry `number` belongs to."""
    held_out = {(number + shift) % NUM_PHRASINGS: name for name, shift in _HELD_OUT.items()}
    return held_out.get(place, "train")
