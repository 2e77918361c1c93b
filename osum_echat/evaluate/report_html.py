"""The page of a run: one HTML file without scripts, web fonts or anything else from outside; audio and pictures are part of it."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from osum_echat.evaluate.datacard import DataCard
from osum_echat.evaluate.plots import line_chart
from osum_echat.evaluate.report import DecodeReport, Report, Sample, StageReport
from osum_echat.evaluate.report_parts import chip, player, words
from osum_echat.evaluate.report_scores_html import scores_section
from osum_echat.evaluate.report_speech_html import speech_section
from osum_echat.evaluate.report_style import CSS

SECTIONS = (
    ("scores", "Scores"),
    ("speech", "Speech"),
    ("labels", "Labels"),
    ("samples", "Samples"),
    ("training", "Training"),
    ("data", "Data"),
    ("drops", "Drops"),
    ("environment", "Environment"),
)
MAX_LISTED_DROPS = 50


def render_page(report: Report) -> str:
    """The whole page."""
    makers = {
        "scores": scores_section,
        "speech": speech_section,
        "labels": _confusions,
        "samples": _sample_lists,
        "training": _training,
        "data": _data,
        "drops": _drops,
        "environment": _environment,
    }
    parts = [(name, title, makers[name](report)) for name, title in SECTIONS]
    shown = [(name, title, body) for name, title, body in parts if body]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in shown)
    sections = "".join(f'<section id="{name}"><h2>{title}</h2>{body}</section>' for name, title, body in shown)
    problems = "".join(f'<p class="warn">{escape(problem)}</p>' for problem in report.problems)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(report.title)} – report</title><style>{CSS}</style></head><body>"
        f'<header><h1>{escape(report.title)}</h1><p class="dim">{escape(_headline(report))}</p></header>'
        f"<main><nav>{links}</nav>{problems}{sections}"
        "<footer>Written by osum-echat report. Intervals: 95 % bootstrap over speakers where they are known, else over utterances.</footer>"
        "</main></body></html>\n"
    )


def _headline(report: Report) -> str:
    hours = [card.hours for card in report.cards if card.name == "train" and card.hours]
    times = [str(stage.environment["time"]) for stage in report.stages if "time" in stage.environment]
    facts = [
        _plural(len(report.stages), "training run"),
        f"{sum(hours):.1f} h of training audio" if hours else "",
        _plural(len(report.decodes), "decode"),
        f"last started {max(times)}" if times else "",
    ]
    return " · ".join(fact for fact in facts if fact)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}" if count else ""


# ---- labels


def _confusions(report: Report) -> str:
    parts = []
    for decode in report.decodes:
        tables = "".join(_confusion(name, item) for name, item in decode.confusions.items())
        if tables:
            parts.append(f'<h3>{escape(decode.name)}</h3><div class="grid2">{tables}</div>')
    return "".join(parts)


def _confusion(name: str, item: Mapping[str, Any]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in item["columns"])
    rows = []
    for label, counts in zip(item["classes"], item["confusion"], strict=True):
        total = max(1, sum(counts))
        cells = "".join(_heat_cell(count, count / total) for count in counts)
        rows.append(f"<tr><th>{escape(label)}</th>{cells}</tr>")
    accuracy, uar, f1, majority = item["accuracy"], item["uar"], item["macro_f1"], item["majority"]
    facts = (
        f"accuracy <b>{_percent(accuracy)}</b>, UAR {_percent(uar)}, macro F1 {_percent(f1)}; always answering "
        f"“{escape(majority['class'])}” (majority of {escape(majority['source'])}) gives {100 * majority['accuracy']:.1f} %; "
        f"without answer {item['without_answer']} of {accuracy['num']}"
    )
    mae = item.get("age_mae_years")
    if mae:
        facts += f"; mean age error {mae['value']:.1f} years (n = {mae['num']})"
    return (
        f'<figure><figcaption>{escape(name)}</figcaption><div class="scroll"><table class="heat"><tr><th>ref \\ answer</th>{head}</tr>'
        f'{"".join(rows)}</table></div><p class="dim">{facts}</p></figure>'
    )


def _heat_cell(count: int, share: float) -> str:
    return f'<td style="background:rgba(var(--heat),{0.85 * share:.2f})">{100 * share:.0f}%<small>{count}</small></td>'


def _percent(interval: Mapping[str, Any]) -> str:
    return f"{100 * interval['value']:.1f} % [{100 * interval['lo']:.1f}, {100 * interval['hi']:.1f}]"


# ---- samples


def _sample_lists(report: Report) -> str:
    parts = []
    for decode in report.decodes:
        if not decode.samples and not decode.summary:
            continue
        info = decode.info
        facts = [
            f"task {info['task']}" if "task" in info else "",
            f"{info['n']} utterances" if "n" in info else "",
            f"RTF {info['rtf']:.3f}" if info.get("rtf") else "",
        ]
        parts.append(f'<h3>{escape(decode.name)}</h3><p class="dim">{escape(" · ".join(fact for fact in facts if fact))}</p>')
        if decode.summary:
            parts.append(f"<pre>{escape(chr(10).join(decode.summary[:12]))}</pre>")
        parts += [_sample(sample) for sample in decode.samples]
    return "".join(parts)


def _sample(sample: Sample) -> str:
    sound = player(sample.flac_base64) if sample.flac_base64 else ""
    speaker = f'<div class="dim">{escape(sample.speaker)}</div>' if sample.speaker else ""
    note = f'<div class="dim">{escape(sample.note)}</div>' if sample.note else ""
    left = f"<div>{sound}<div><code>{escape(sample.key)}</code></div>{speaker}{note}</div>"
    said = "" if sample.raw is None else f'<div class="dim">answer: {escape(sample.raw) or "(empty)"}</div>'
    answer = said or chip("no hypothesis", False)
    text = words(sample.columns) if sample.columns else ""
    chips = "".join(_label(name, ref, hyp) for name, ref, hyp in sample.labels)
    return f'<div class="card sample">{left}<div>{text}<div>{chips}</div>{answer}</div></div>'


def _label(name: str, ref: str, hyp: str | None) -> str:
    return chip(f"{name}: {ref} ✓", True) if ref == hyp else chip(f"{name}: {ref} → {hyp or 'none'} ✗", False)


# ---- training, data, drops, environment


def _training(report: Report) -> str:
    parts = []
    for stage in report.stages:
        charts = "".join(line_chart(name, series) for name, series in stage.charts.items())
        if charts:
            parts.append(
                f'<h3>{escape(stage.name)} <span class="dim">({stage.num_steps} steps)</span></h3><div class="grid2">{charts}</div>'
            )
    return "".join(parts)


def _data(report: Report) -> str:
    if not report.cards:
        return ""
    head = "<tr><th>list</th><th>utterances</th><th>hours</th><th>speakers</th><th>tasks</th><th>labels</th></tr>"
    return f'<div class="scroll"><table class="box">{head}{"".join(_data_row(card) for card in report.cards)}</table></div>'


def _data_row(card: DataCard) -> str:
    hours = "?" if card.hours is None else f"{'≈ ' if card.hours_are_estimated else ''}{card.hours:.2f}"
    tasks = ", ".join(f"{name} {count}" for name, count in card.tasks.most_common())
    labels = "".join(_distribution(name, counts, card.num) for name, counts in card.labels.items() if counts)
    note = f'<div class="warn">{escape(card.note)}</div>' if card.note else ""
    where = f'<b>{escape(card.name)}</b><br><code class="dim">{escape(card.path)}</code>{note}'
    unreadable = f'<div class="dim">{card.num_unreadable} unreadable</div>' if card.num_unreadable else ""
    return (
        f'<tr><td>{where}</td><td class="n">{card.num}{unreadable}</td>'
        f'<td class="n">{hours}</td><td class="n">{len(card.speakers) or "?"}</td><td>{escape(tasks)}</td><td>{labels}</td></tr>'
    )


def _distribution(name: str, counts: Counter[str], total: int) -> str:
    """A bar of all rows of a list; what is left empty on the right does not tell this label."""
    bars = "".join(
        f'<i style="width:{100 * count / total:.1f}%" title="{escape(value)} {count}"></i>' for value, count in counts.most_common()
    )
    text = ", ".join(f"{value} {count}" for value, count in counts.most_common())
    unknown = total - sum(counts.values())
    text += f", unknown {unknown}" if unknown else ""
    return f'<div><b>{escape(name)}</b> <span class="dim">{escape(text)}</span><div class="bar">{bars}</div></div>'


def _drops(report: Report) -> str:
    parts = [_drop_table(f"training {stage.name}", stage.drops) for stage in report.stages if stage.drops]
    for decode in report.decodes:
        dropped = decode.info.get("drops") or []
        if dropped:
            reasons = Counter(str(item.get("reason")) for item in dropped)
            parts.append(_drop_table(f"decode {decode.name}", reasons))
            lines = "\n".join(f"{item.get('key')}  {item.get('reason')}  {item.get('message')}" for item in dropped[:MAX_LISTED_DROPS])
            parts.append(f"<details><summary>utterances ({len(dropped)})</summary><pre>{escape(lines)}</pre></details>")
    nothing = '<p class="dim">Nothing was dropped.</p>' if report.stages or report.decodes else ""
    return "".join(parts) or nothing


def _drop_table(title: str, counts: Mapping[str, int]) -> str:
    rows = "".join(
        f'<tr><td>{escape(reason)}</td><td class="n">{count}</td></tr>'
        for reason, count in sorted(counts.items(), key=lambda item: -item[1])
    )
    return f"<h3>{escape(title)}</h3><table class=box><tr><th>reason</th><th>utterances</th></tr>{rows}</table>"


def _environment(report: Report) -> str:
    stages = [stage for stage in report.stages if stage.environment]
    if not stages:
        return ""
    shared, own = _split_environment(stages)
    parts = [f"<table class=box>{''.join(_pair(key, value) for key, value in shared.items())}</table>"] if shared else []
    for stage, values in zip(stages, own, strict=True):
        if values:
            rows = "".join(_pair(key, value) for key, value in values.items())
            parts.append(f"<details><summary>{escape(stage.name)}</summary><table>{rows}</table></details>")
    return "".join(parts)


def _split_environment(stages: Sequence[StageReport]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What all runs have in common is said once."""
    first = stages[0].environment
    shared = {key: value for key, value in first.items() if all(stage.environment.get(key) == value for stage in stages)}
    return shared, [{key: value for key, value in stage.environment.items() if key not in shared} for stage in stages]


def _pair(key: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
    shown = f"<pre>{escape(text)}</pre>" if "\n" in text else escape(text)
    return f"<tr><th>{escape(key)}</th><td>{shown}</td></tr>"


def decode_lines(decodes: Iterable[DecodeReport]) -> str:
    """One line a decode for RESULTS.md: task, number of utterances, real-time factor, drops."""
    lines = []
    for decode in decodes:
        info = decode.info
        rtf = f"{info['rtf']:.3f}" if isinstance(info.get("rtf"), float) else "?"
        dropped = len(info.get("drops") or [])
        facts = f"task {info.get('task', '?')}, {info.get('n', '?')} utterances, RTF {rtf}, {dropped} dropped"
        lines.append(f"- {decode.name}: {facts}")
    return "\n".join(lines)
