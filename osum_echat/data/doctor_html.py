"""doctor.html: the doctor's ``Diagnosis`` as one page that needs nothing but a browser (no scripts, no files beside it)."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from osum_echat.data.doctor import KINDS, AudioSummary, Diagnosis, Finding, ListSummary

_COLOURS = {"error": "#b3261e", "warning": "#9a6700", "info": "#3867a6", "errors": "#b3261e", "warnings": "#9a6700", "ok": "#1a7f37"}
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222;background:#fff}
h1 span{color:#fff;border-radius:.3em;padding:0 .4em} table{border-collapse:collapse;margin:.5em 0}
td,th{text-align:left;padding:.15em .8em .15em 0;vertical-align:top;border-bottom:1px solid #eee}
code{font-size:90%;overflow-wrap:anywhere} .row{display:flex;gap:2em;flex-wrap:wrap}
.bar{background:#7aa5d8;height:.9em;display:inline-block}
details{margin:.6em 0} summary{cursor:pointer} .muted{color:#666} figure{margin:0} figcaption{font-size:90%;color:#666}
@media(prefers-color-scheme:dark){body{background:#181a1b;color:#ddd} td,th{border-color:#333}}
"""


def render(diagnosis: Diagnosis, title: str = "Data doctor") -> str:
    """The whole page."""
    verdict = diagnosis.verdict
    findings = "".join(_finding(finding) for finding in diagnosis.findings) or "<p>Nothing to report.</p>"
    lists = "".join(_list(summary) for summary in diagnosis.lists)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}: {verdict}</title>'
        f"<style>{_STYLE}</style></head><body>"
        f'<h1>{escape(title)} <span style="background:{_COLOURS[verdict]}">{verdict}</span></h1>'
        f"<p>{_headline(diagnosis)}</p><h2>Findings</h2>{findings}<h2>Lists</h2>{lists}</body></html>\n"
    )


def _headline(diagnosis: Diagnosis) -> str:
    num, hours = sum(x.num for x in diagnosis.lists), sum(x.audio.hours for x in diagnosis.lists)
    answers = sum(x.answers.hours for x in diagnosis.lists)
    said = f" and {answers:.2f} hours of answers" if answers else ""
    return f"{num:,} rows, {hours:.2f} hours of audio{said} in {len(diagnosis.lists)} lists."


def _finding(finding: Finding) -> str:
    kind = KINDS[finding.kind]
    rows = "".join(
        f"<tr><td><code>{escape(x['key'])}</code><td>{escape(x['detail'])}<td><code>{escape(x['origin'])}</code></tr>"
        for x in finding.examples
    )
    num_more = finding.count - len(finding.examples)
    more = f'<p class="muted">and {num_more} more</p>' if num_more > 0 else ""
    is_open = " open" if finding.severity == "error" else ""
    return (
        f'<details{is_open}><summary><b style="color:{_COLOURS[finding.severity]}">{finding.severity}</b> {escape(kind.title)}: '
        f"{finding.count} in <code>{escape(finding.where)}</code></summary>"
        f"<p>{escape(kind.advice)}</p><table>{rows}</table>{more}</details>"
    )


def _list(summary: ListSummary) -> str:
    facts = {
        "split": summary.split,
        "rows": f"{summary.num:,}",
        "speakers": f"{summary.num_speakers:,}",
        "tasks": ", ".join(f"{name} {num}" for name, num in summary.tasks.items()),
        "audio": _amount(summary.audio),
        "answers": _amount(summary.answers),
    }
    table = "".join(f"<tr><th>{name}<td>{escape(value)}</tr>" for name, value in facts.items() if value)
    plots = _histograms(summary.audio, "") + _histograms(summary.answers, " of answers")
    balances = "".join(_balance(name, counts) for name, counts in summary.labels.items())
    rows = f'<div class="row"><table>{table}</table>{plots}</div><div class="row">{balances}</div>'
    return f"<h3><code>{escape(summary.name)}</code></h3>{rows}"


def _amount(audio: AudioSummary) -> str:
    if not audio.seconds:
        return ""
    return f"{audio.hours:.3f} h; " + ", ".join(f"{rate} Hz ({num})" for rate, num in audio.rates.items())


def _histograms(audio: AudioSummary, of: str) -> str:
    return _histogram(audio.seconds, f"seconds{of}") + _histogram(audio.chars_per_second, f"characters per second{of}")


def _balance(name: str, counts: Mapping[str, int]) -> str:
    top, total = max(counts.values()), sum(counts.values())
    rows = "".join(
        f"<tr><td>{escape(value)}<td>{num}<td>{100 * num / total:.1f} %"
        f'<td><span class="bar" style="width:{10 * num / top:.2f}em"></span></tr>'
        for value, num in counts.items()
    )
    return f"<figure><figcaption>{escape(name)}</figcaption><table>{rows}</table></figure>"


def _histogram(values: Sequence[float], unit: str, width: int = 260, height: int = 90) -> str:
    """Thirty bars between the smallest and the 99.5th percentile; what lies above stands in the last bar."""
    if not values:
        return ""
    low, high = float(np.min(values)), float(np.quantile(values, 0.995))
    counts, _ = np.histogram(np.minimum(values, high), bins=30, range=(low, high if high > low else low + 1))
    bar, top = width / len(counts), max(int(counts.max()), 1)
    bars = "".join(
        f'<rect x="{i * bar:.1f}" y="{height - height * n / top:.1f}" width="{bar - 1:.1f}" height="{height * n / top:.1f}"/>'
        for i, n in enumerate(counts)
    )
    label = f"{unit}: {low:.2f} to {max(values):.2f}, median {float(np.median(values)):.2f}"
    svg = f'<svg width="{width}" height="{height}" fill="#7aa5d8" role="img" aria-label="{escape(label)}">{bars}</svg>'
    return f"<figure>{svg}<figcaption>{escape(label)}</figcaption></figure>"
