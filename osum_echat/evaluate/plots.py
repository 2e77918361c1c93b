"""Pictures: confusion matrix as a PNG file, curves as inline SVG that takes its colours from the page.

The SVG is written by hand (a few poly-lines) so that it follows a light or dark page; matplotlib draws what stands alone as a file.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 460, 240, 52, 26, 12
MAX_POINTS = 400  # more than a screen can show only makes the file heavy


def save_confusion(path: Path, matrix: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str) -> None:
    """Draw row percentages with counts; reference down, answer across."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(1.6 + 0.75 * len(columns), 1.4 + 0.6 * len(rows)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("answer")
    axes.set_ylabel("reference")
    axes.set_title(title)
    for row in range(len(rows)):
        for column in range(len(columns)):
            colour = "white" if share[row, column] > 0.55 else "black"
            text = f"{100 * share[row, column]:.0f}%\n{int(matrix[row, column])}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def thin(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `limit` points; each is the mean of its run, so noise shrinks and no jump is invented."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if len(finite) <= limit:
        return finite
    parts = np.array_split(np.array(finite), limit)
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts]


def line_chart(title: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """An inline SVG of one or more named curves over steps; "" when there is nothing finite to draw."""
    curves = {name: thin(points) for name, points in series.items()}
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return ""
    every = [point for points in curves.values() for point in points]
    x_low, x_high = _span([x for x, _ in every])
    y_low, y_high = _span([y for _, y in every])

    def place(x: float, y: float) -> str:
        across = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - 10)
        down = TOP + (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return f"{across:.1f},{down:.1f}"

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = y_low + share * (y_high - y_low)
        down = float(place(x_low, value).split(",")[1])
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 10}" y1="{down}" y2="{down}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{down + 4}" text-anchor="end">{_short(value)}</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 8}">{round(x_low)}</text>')
    parts.append(f'<text x="{WIDTH - 10}" y="{HEIGHT - 8}" text-anchor="end">step {round(x_high)}</text>')
    for at, (name, points) in enumerate(curves.items()):
        path = " ".join(place(x, y) for x, y in (points if len(points) > 1 else points * 2))
        parts.append(f'<polyline class="s{at % 6}" points="{path}"><title>{escape(name)}</title></polyline>')
    legend = " ".join(
        f'<span class="k{at % 6}">{escape(name)} <b>{_short(points[-1][1])}</b></span>' for at, (name, points) in enumerate(curves.items())
    )
    return f"<figure><figcaption>{escape(title)}</figcaption>{''.join(parts)}</svg><div class=legend>{legend}</div></figure>"


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    return (low, high) if low >= 0 and high - low > pad else (low - pad, high + pad)


def _short(value: float) -> str:
    if value and (abs(value) >= 100_000 or abs(value) < 0.001):
        return f"{value:.1e}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
