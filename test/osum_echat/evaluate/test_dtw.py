"""The path against a plain double loop."""

import numpy as np
import pytest

from osum_echat.evaluate.dtw import warp


def cheapest(cost_IJ: np.ndarray) -> float:
    total = np.full((cost_IJ.shape[0] + 1, cost_IJ.shape[1] + 1), np.inf)
    total[0, 0] = 0.0
    for i in range(cost_IJ.shape[0]):
        for j in range(cost_IJ.shape[1]):
            total[i + 1, j + 1] = cost_IJ[i, j] + min(total[i, j], total[i, j + 1], total[i + 1, j])
    return float(total[-1, -1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (2, 2), (3, 8), (8, 3), (17, 17), (30, 11)])
def test_the_path_is_a_path_and_the_cheapest(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(shape))
    for _ in range(20):
        cost_IJ = rng.random(shape)
        path_P2 = warp(cost_IJ)
        assert path_P2[0].tolist() == [0, 0] and path_P2[-1].tolist() == [shape[0] - 1, shape[1] - 1]
        steps = np.diff(path_P2, axis=0)
        assert ((steps >= 0) & (steps <= 1)).all() and (steps.sum(1) > 0).all()
        assert cost_IJ[path_P2[:, 0], path_P2[:, 1]].sum() == pytest.approx(cheapest(cost_IJ))


def test_a_stretched_copy_is_followed() -> None:
    sound, times = np.arange(12.0), np.repeat(np.arange(12), [1, 3, 1, 1, 4, 1, 2, 1, 1, 1, 5, 1])
    path_P2 = warp(np.abs(sound[:, None] - sound[times][None]))
    assert path_P2.tolist() == [[row, column] for column, row in enumerate(times)]


def test_nothing_cannot_be_warped() -> None:
    with pytest.raises(ValueError, match="0 and 4"):
        warp(np.zeros((0, 4)))
