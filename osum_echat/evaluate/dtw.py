"""Dynamic time warping: which frames of two recordings belong together.

H. Sakoe and S. Chiba, "Dynamic programming algorithm optimization for spoken word recognition" (1978), without weights and without a band:
from a pair of frames the path goes on in the first, in the second, or in both. Written here because the packages that do it are under the
GPL (dtw-python), approximate (fastdtw) or bring a compiler (librosa with numba).

Shapes: I and J frames, P steps of the path.
"""

import numpy as np


def warp(cost_IJ: np.ndarray) -> np.ndarray:
    """The cheapest path from the first to the last pair of frames as (P, 2) indices; among equals the one with the fewest steps back.

    Raises ValueError when a side has no frames.
    """
    rows, columns = cost_IJ.shape
    if not rows or not columns:
        raise ValueError(f"warp needs frames on both sides, got {rows} and {columns}")
    total = np.full((rows + 1, columns + 1), np.inf, dtype=cost_IJ.dtype)
    total[0, 0] = 0.0
    flat, cost = total.reshape(-1), cost_IJ.reshape(-1)
    width = columns + 1
    for diagonal in range(rows + columns - 1):  # all pairs (i, diagonal - i) at once: they depend on earlier diagonals alone
        first, last = max(0, diagonal - columns + 1), min(diagonal, rows - 1)
        num = last - first + 1
        here = (first + 1) * width + diagonal - first + 1  # steps of `columns` go down and to the left in both arrays
        step, span = width - 1, (num - 1) * (width - 1) + 1
        best = np.minimum(flat[here - width - 1 :][:span:step], flat[here - width :][:span:step])
        np.minimum(best, flat[here - 1 :][:span:step], out=best)
        start = first * columns + diagonal - first
        flat[here : here + span : step] = best + cost[start :: max(columns - 1, 1)][:num]
    return _trace(total)


def _trace(total: np.ndarray) -> np.ndarray:
    """Back from the last pair; a step in both comes before the others."""
    i, j = total.shape[0] - 1, total.shape[1] - 1
    path = [(i - 1, j - 1)]
    while i > 1 or j > 1:
        both, up, left = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        if both <= up and both <= left:
            i, j = i - 1, j - 1
        elif up <= left:
            i -= 1
        else:
            j -= 1
        path.append((i - 1, j - 1))
    return np.array(path[::-1], dtype=np.int64)
