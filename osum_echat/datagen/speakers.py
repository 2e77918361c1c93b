"""Speakers of the mini corpus: an espeak-ng voice variant, moved to a gender and an age by pitch, vocal tract, rate, tremor and breath.

Train, dev and test use different variants, so a test voice is new in its formants and source, not only in its pitch. Children are made by
speaking lower and slower and playing the result faster, which raises formants as a short vocal tract does; see Peterson & Barney (1952),
https://doi.org/10.1121/1.1906875. Boys and girls differ more here than they do in life: a label must be audible to be scored.
"""

from dataclasses import dataclass

import numpy as np

from osum_echat.errors import DataError

GENDERS = ("female", "male")
AGES = ("child", "adult", "old")

Range = tuple[float, float]

# mean pitch in Hz of every variant at espeak's default settings, measured by autocorrelation
_PITCH_HZ: dict[str, float] = {
    "m1": 98, "m2": 101, "m3": 105, "m4": 98, "m5": 102, "m6": 102, "m7": 106, "m8": 88,
    "adam": 104, "max": 106, "Michael": 106, "victor": 100,
    "f1": 182, "f2": 199, "f3": 210, "f4": 181, "f5": 206,
    "Andy": 96, "Gene": 95, "antonio": 113, "ed": 126, "marcelo": 103, "michel": 105,
    "Andrea": 242, "anika": 272, "shelby": 181,
    "Annie": 235, "aunty": 172, "belinda": 230, "grandma": 195, "linda": 230, "steph": 185,
    "Denis": 98,
}  # fmt: skip

VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "male": ("m1", "m2", "m3", "m8", "max", "adam", "victor", "Andy", "Gene", "antonio", "ed", "marcelo", "michel"),
        "female": ("f1", "f2", "f4", "f5", "aunty", "belinda", "grandma", "Andrea", "anika", "shelby"),
    },
    "dev": {"male": ("m6", "Michael"), "female": ("linda", "Annie")},
    "test": {"male": ("m4", "m5", "m7"), "female": ("f3", "steph")},
}


@dataclass(frozen=True)
class _Group:
    pitch_hz: Range
    tract: Range  # playback speed-up on top of the variant's own formants
    rate: Range  # factor on the speaking rate
    tremor: Range  # depth of the 4.5..6.5 Hz pitch wobble, as a fraction
    breath_db: Range  # breath noise under the voice, dB re the voice


_GROUPS: dict[tuple[str, str], _Group] = {
    ("male", "child"): _Group((165, 200), (1.32, 1.42), (1.0, 1.1), (0, 0), (-60, -50)),
    ("male", "adult"): _Group((92, 120), (0.95, 1.05), (0.97, 1.08), (0, 0), (-60, -50)),
    ("male", "old"): _Group((95, 122), (0.95, 1.04), (0.84, 0.92), (0.05, 0.075), (-23, -17)),
    ("female", "child"): _Group((290, 335), (1.24, 1.34), (1.0, 1.1), (0, 0), (-60, -50)),
    ("female", "adult"): _Group((190, 225), (0.96, 1.04), (0.97, 1.08), (0, 0), (-60, -50)),
    ("female", "old"): _Group((175, 210), (0.95, 1.03), (0.84, 0.92), (0.05, 0.075), (-23, -17)),
}


@dataclass(frozen=True)
class Speaker:
    name: str
    gender: str
    age: str
    variant: str
    pitch_hz: float
    tract: float
    rate: float
    tremor: float
    tremor_hz: float
    breath_db: float

    @property
    def espeak_voice(self) -> str:
        return f"en-us+{self.variant}"

    @property
    def pitch_ratio(self) -> float:
        """What espeak has to do; the playback speed-up does the rest."""
        return self.pitch_hz / self.tract / _PITCH_HZ[self.variant]


def make_speakers(split: str, per_variant: int, rng: np.random.Generator) -> list[Speaker]:
    """``per_variant`` speakers for every variant of the split in every gender and age group. Names do not tell the labels."""
    if split not in VARIANTS:
        raise DataError(f"got split {split!r}; expected one of {', '.join(VARIANTS)}")
    cells = [
        (gender, age, variant) for gender in GENDERS for age in AGES for variant in VARIANTS[split][gender] for _ in range(per_variant)
    ]
    order = rng.permutation(len(cells))
    return [_make(f"{split}{number:03d}", cells[index], rng) for number, index in enumerate(order)]


def _make(name: str, cell: tuple[str, str, str], rng: np.random.Generator) -> Speaker:
    gender, age, variant = cell
    group = _GROUPS[gender, age]
    return Speaker(
        name=name,
        gender=gender,
        age=age,
        variant=variant,
        pitch_hz=round(float(np.exp(rng.uniform(*np.log(group.pitch_hz)))), 1),
        tract=round(float(rng.uniform(*group.tract)), 3),
        rate=round(float(rng.uniform(*group.rate)), 3),
        tremor=round(float(rng.uniform(*group.tremor)), 4),
        tremor_hz=round(float(rng.uniform(4.5, 6.5)), 2),
        breath_db=round(float(rng.uniform(*group.breath_db)), 1),
    )


# One of the few variants without flutter, roughness and echo: with them the samples would depend on what was said before.
ASSISTANT = Speaker("assistant", "male", "adult", "Denis", pitch_hz=110.0, tract=1.0, rate=1.0, tremor=0.0, tremor_hz=5.0, breath_db=-100.0)
