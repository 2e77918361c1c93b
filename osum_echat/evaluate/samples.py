"""Which utterances a page shows."""

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar


class Judged(Protocol):
    """Something that is wrong or not."""

    @property
    def is_wrong(self) -> bool: ...


Sample = TypeVar("Sample", bound=Judged)


def choose_samples(samples: Sequence[Sample], num: int) -> list[Sample]:
    """Half wrong, half right (as far as there are), drawn with a fixed seed, wrong ones first."""
    rng = random.Random(0)
    wrong = [sample for sample in samples if sample.is_wrong]
    right = [sample for sample in samples if not sample.is_wrong]
    rng.shuffle(wrong)
    rng.shuffle(right)
    num_wrong = min(len(wrong), max(num // 2, num - len(right)))
    return wrong[:num_wrong] + right[: num - num_wrong]
