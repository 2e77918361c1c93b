"""The scores section of the report: a card a score, grouped by the front of its key, with targets; latency as a bar of its spans."""

import math
from collections.abc import Mapping
from html import escape
from itertools import groupby

from osum_echat.evaluate.ablation import HEADER, ablation_rows
from osum_echat.evaluate.latency import PERCENTILES, PREFIX
from osum_echat.evaluate.report import Report
from osum_echat.evaluate.report_parts import chip
from osum_echat.evaluate.results import Score, unit_of
from osum_echat.generate.reply import SPANS


def scores_section(report: Report) -> str:
    """All scores; what is missing for a target is told too."""
    if not report.scores:
        return '<p class="dim">No results.json yet: run osum-echat score.</p>'
    parts = []
    for group, keys in groupby(report.scores, key=lambda key: key.split(".")[0]):
        shown = [key for key in keys if not _is_span(key)]
        cards = "".join(_card(key, report) for key in shown)
        title = f"<h3>{escape(group)}</h3>" if len(shown) > 1 else ""
        parts.append(f'{title}<div class="cards">{cards}</div>')
        if group == PREFIX:
            parts.append(_latency_bars(report.scores))
    missing = [key for key in report.targets if key not in report.scores]
    note = f'<p class="dim">Not measured yet: {escape(", ".join(missing))}</p>' if missing else ""
    return "".join(parts) + _ablations(report.scores) + note


def _ablations(scores: Mapping[str, Score]) -> str:
    rows = ablation_rows(scores)
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in HEADER)
    body = "".join(f"<tr><td>{escape(row[0])}</td>{''.join(f'<td class=n>{escape(cell)}</td>' for cell in row[1:])}</tr>" for row in rows)
    return f"<h3>Ablations</h3><div class=scroll><table class=box><tr>{head}</tr>{body}</table></div>"


def _card(key: str, report: Report) -> str:
    score, unit = report.scores[key], unit_of(key)
    value = f"{score.value:.2f}" if math.isfinite(score.value) else "n/a"
    span, text = "", f"n = {score.n}"
    if score.lo is not None and score.hi is not None:
        text = f"[{score.lo:.2f}, {score.hi:.2f}] · n = {score.n}"
        if unit in ("%", "of 100") and 0 <= score.lo <= score.hi <= 100 and math.isfinite(score.value):
            width = max(score.hi - score.lo, 0.5)
            span = (
                f'<div class="range"><i style="left:{score.lo:.1f}%;width:{width:.1f}%"></i><u style="left:{score.value:.1f}%"></u></div>'
            )
    shown_unit = f" <small>{escape(unit)}</small>" if unit else ""
    targets = "".join(_target(target.text, target.is_met(score.value, report.scores)) for target in report.targets.get(key, ()))
    note = f"<span>{escape(score.note)}</span>" if score.note else ""
    return f'<div class="card"><span>{escape(key)}</span><b>{value}{shown_unit}</b>{span}<span>{text}</span>{note}{targets}</div>'


def _target(text: str, is_met: bool | None) -> str:
    return f"<div>{chip(f'target {text} ' + ('?' if is_met is None else '✓' if is_met else '✗'), is_met)}</div>"


def _is_span(key: str) -> bool:
    """Scores the bars show."""
    return any(key.startswith(f"{PREFIX}.{name}_ms.") for name in SPANS)


def _latency_bars(scores: Mapping[str, Score]) -> str:
    """Where the time to the first sound goes: a bar a percentile, a part a span, all bars on one scale."""
    rows = {f"p{percent}": [scores.get(f"{PREFIX}.{name}_ms.p{percent}") for name in SPANS] for percent in PERCENTILES}
    known = {name: [item.value for item in items if item is not None] for name, items in rows.items() if None not in items}
    if not known:
        return ""
    longest = max(sum(values) for values in known.values())
    bars = "".join(_bar(name, values, longest) for name, values in known.items())
    legend = "".join(f'<span class="k{at}">{escape(name)}</span>' for at, name in enumerate(SPANS))
    return f"<figure><figcaption>Time to the first sound by span, ms</figcaption>{bars}<div class=legend>{legend}</div></figure>"


def _bar(name: str, values: list[float], longest: float) -> str:
    parts = "".join(
        f'<i class="b{at}" style="width:{100 * value / longest:.2f}%" title="{escape(SPANS[at])} {value:.1f} ms">{value:.0f}</i>'
        for at, value in enumerate(values)
    )
    return f'<div class="spans"><span>{name}</span><div>{parts}</div></div>'
