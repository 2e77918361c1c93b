"""Bootstrap confidence intervals over speakers when they are known, else over utterances.

Utterances of one speaker are not independent, so whole speakers are drawn with replacement. A statistic is a function of sums over
utterances (errors and words; cells of a confusion matrix), so a draw needs only the per-group sums and a vector of draw counts.
Percentile method: Efron & Tibshirani 1993, chapter 13. Leaves out bias correction (BCa).

Shapes: U utterances, G groups, F features, R draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

NUM_DRAWS = 1000
SEED = 777
_CHUNK_CELLS = 20_000_000  # draws x groups held at once: 160 MB of int64


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % interval. `num` counts what was scored, `num_groups` what was resampled (`unit`)."""

    value: float
    lo: float
    hi: float
    num: int
    unit: str
    num_groups: int


def group_utterances(speakers: Sequence[str | None]) -> tuple[np.ndarray, str]:
    """Group index of each utterance and the name of the unit ("speaker" or "utterance").

    One speaker alone would give an interval of width zero, so with fewer than two the utterances are drawn instead.
    """
    names = [f"speaker:{name}" if name else f"utterance:{row}" for row, name in enumerate(speakers)]
    if any(speakers) and len(set(names)) > 1:
        return np.unique(names, return_inverse=True)[1].reshape(-1), "speaker"
    return np.arange(len(names)), "utterance"


def resample_sums(features_UF: np.ndarray, groups_U: np.ndarray, draws: int = NUM_DRAWS, seed: int = SEED) -> np.ndarray:
    """sums_RF of each bootstrap draw of groups."""
    num_groups = int(groups_U.max()) + 1
    per_group_GF = np.zeros((num_groups, features_UF.shape[1]))
    np.add.at(per_group_GF, groups_U, features_UF)
    rng = np.random.default_rng(seed)
    share_G = np.full(num_groups, 1.0 / num_groups)
    step = max(1, _CHUNK_CELLS // num_groups)
    sums = [rng.multinomial(num_groups, share_G, size=min(step, draws - done)) @ per_group_GF for done in range(0, draws, step)]
    return np.concatenate(sums)


def interval(
    features_UF: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    speakers: Sequence[str | None],
    *,
    num: int | None = None,
    draws: int = NUM_DRAWS,
    seed: int = SEED,
) -> Interval:
    """The statistic of all utterances with its 95 % interval.

    Args:
        features_UF: additive numbers of each utterance.
        statistic: maps sums_RF to one number a row; nan where undefined (such draws are left out).
        speakers: speaker of each utterance or None.
        num: the n to report; the number of utterances when None.
    """
    features_UF = np.asarray(features_UF, dtype=np.float64)
    if not len(features_UF):
        return Interval(float("nan"), float("nan"), float("nan"), 0, "utterance", 0)
    groups_U, unit = group_utterances(speakers)
    value = float(statistic(features_UF.sum(axis=0, keepdims=True))[0])
    drawn_R = statistic(resample_sums(features_UF, groups_U, draws, seed))
    drawn_R = drawn_R[np.isfinite(drawn_R)]
    lo, hi = np.percentile(drawn_R, [2.5, 97.5]) if len(drawn_R) else (float("nan"), float("nan"))
    return Interval(value, float(lo), float(hi), len(features_UF) if num is None else num, unit, int(groups_U.max()) + 1)


def ratio(sums_RF: np.ndarray) -> np.ndarray:
    """Statistic: feature 0 over feature 1, nan where the latter is 0."""
    num_R, den_R = sums_RF[:, 0], sums_RF[:, 1]
    return np.divide(num_R, den_R, out=np.full(len(num_R), np.nan), where=den_R != 0)
