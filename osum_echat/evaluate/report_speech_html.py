"""The speech section of the report: what was written, said and heard, beside the recordings, to look at and to listen to."""

from collections.abc import Mapping
from html import escape
from typing import Any

from osum_echat.evaluate.report import Report
from osum_echat.evaluate.report_parts import chip, player, words
from osum_echat.evaluate.report_speech import Sound, SpeechReport, SpeechSample

PIXELS_A_SECOND = 110  # pictures share one scale of time


def speech_section(report: Report) -> str:
    """Samples of every decode that was scored with osum-echat score speech."""
    return "".join(_decode(item) for item in report.speech)


def _decode(report: SpeechReport) -> str:
    info = report.info
    what = f"task {info['task']}" if info.get("task") else "recordings as codes and back"
    facts = f"{what} · scores {info.get('prefix', '?')}.* · {report.num} utterances, {len(report.samples)} of them here"
    skipped = "".join(f"<li>{escape(str(why))}</li>" for why in info.get("skipped", {}).values())
    note = f"<details><summary>not compared with a recording</summary><ul>{skipped}</ul></details>" if skipped else ""
    return f'<h3>{escape(report.name)}</h3><p class="dim">{escape(facts)}</p>{"".join(map(_sample, report.samples))}{note}'


def _sample(sample: SpeechSample) -> str:
    lines = [("written", sample.written)] if sample.row["written"] is not None else []
    lines += [("heard", sample.heard)] if sample.row["heard"] is not None else []
    texts = "".join(f"<tr><th>{name}</th><td>{words(columns) or '(nothing)'}</td></tr>" for name, columns in lines)
    reference = f"<tr><th>text</th><td>{escape(sample.row['ref'])}</td></tr>"
    sounds = "".join(_sound(sound) for sound in sample.sounds)
    return (
        f'<div class="card said"><div><code>{escape(sample.key)}</code> {_chips(sample.row)}</div>'
        f'<table>{reference}{texts}</table><div class="sounds">{sounds}</div></div>'
    )


def _chips(row: Mapping[str, Any]) -> str:
    chips = [chip("text right ✓" if row["right"] else "text wrong ✗", row["right"])] if row["right"] is not None else []
    chips += [chip(name, False) for name in ("empty", "truncated") if row[name]]
    if "mcd_db" in row:
        chips.append(chip(f"MCD {row['mcd_db']:.2f} dB"))
        chips.append(chip(f"duration × {row['seconds'] / row['ref_seconds']:.2f}"))
        chips += [chip(f"F0 correlation {row['f0_corr']:.2f}")] if row["f0_corr"] is not None else []
    return "".join(chips)


def _sound(sound: Sound) -> str:
    picture = ""
    if sound.png_base64:
        width = round(PIXELS_A_SECOND * sound.seconds)
        alt = escape(f"spectrogram of: {sound.caption}")
        picture = f'<img alt="{alt}" width="{width}" height="110" src="data:image/png;base64,{sound.png_base64}">'
    caption = f"<figcaption>{escape(sound.caption)}</figcaption>"
    return f'<figure>{caption}<div class="scroll">{picture}</div>{player(sound.flac_base64)}</figure>'
