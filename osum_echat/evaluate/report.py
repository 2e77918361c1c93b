"""What report.html shows, gathered from the files of an experiment; report_html.py turns it into a page.

Nothing here is typed by hand or asked from the network: environment (env.json), data card (the lists of the training configurations and of
the decodes), curves (metrics.jsonl of every stage), scores (results.json), confusion matrices, drops and samples (decode directories).
"""

import base64
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from osum_echat.audio.features import SAMPLE_RATE
from osum_echat.audio.io import encode_pcm16, read_audio
from osum_echat.config import SourceConfig, load_config
from osum_echat.errors import UserError
from osum_echat.evaluate.datacard import DataCard, card_of, label_of
from osum_echat.evaluate.decoded import Decoded, read_decoded
from osum_echat.evaluate.report_speech import SpeechReport, gather_speech, transcript_folders
from osum_echat.evaluate.results import Score, read_results
from osum_echat.evaluate.samples import choose_samples
from osum_echat.evaluate.score import read_references, words_of
from osum_echat.evaluate.speech import SPEECH_FILE
from osum_echat.evaluate.targets import Target
from osum_echat.evaluate.text import align_tokens, tokenize
from osum_echat.text.tags import KINDS
from osum_echat.train.metrics import read_metrics
from osum_echat.utterance import Utterance

Series = dict[str, list[tuple[float, float]]]
NUM_SAMPLES = 20
MAX_SAMPLE_SECONDS = 20.0
CURVES = ("loss", "ce", "ce_and_kl", "kl", "ctc", "accuracy", "lr", "grad_norm", "tokens_per_second", "data_wait", "peak_memory_gb")
"""Columns of metrics.jsonl that are drawn, in this order."""


@dataclass(frozen=True)
class Sample:
    """One utterance to listen to. `labels` holds (name, reference, answer); `columns` the aligned words; `flac_base64` "" without audio."""

    key: str
    columns: tuple[tuple[str, str], ...]
    labels: tuple[tuple[str, str, str | None], ...]
    raw: str | None
    speaker: str | None
    flac_base64: str
    note: str = ""

    @property
    def is_wrong(self) -> bool:
        """True when a word or a label differs or nothing was answered."""
        return self.raw is None or any(lab != rec for lab, rec in self.columns) or any(ref != hyp for _, ref, hyp in self.labels)


@dataclass(frozen=True)
class DecodeReport:
    """One decode directory. `confusions` is the content of labels.json."""

    name: str
    info: Mapping[str, Any]
    confusions: Mapping[str, Any]
    summary: tuple[str, ...]
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class StageReport:
    """One training run: its environment, curves by metric, and drops by reason."""

    name: str
    environment: Mapping[str, Any]
    charts: Mapping[str, Series]
    drops: Mapping[str, int]
    num_steps: int


@dataclass(frozen=True)
class Report:
    """Everything on the page."""

    title: str
    scores: Mapping[str, Score]
    stages: tuple[StageReport, ...]
    cards: tuple[DataCard, ...]
    decodes: tuple[DecodeReport, ...]
    speech: tuple[SpeechReport, ...] = ()
    targets: Mapping[str, Sequence[Target]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def gather(folder: Path, decode_dirs: Sequence[Path], targets: Mapping[str, Sequence[Target]] | None = None) -> Report:
    """Read an experiment directory. What cannot be read is told on the page; only a missing directory is an error."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such directory; give the experiment's --dir (it holds results.json and the runs of the stages)")
    problems: list[str] = []
    runs = sorted({path.parent for name in ("metrics.jsonl", "env.json") for path in folder.glob(f"**/{name}")})
    speech = gather_speech(folder, problems)
    transcripts = transcript_folders(speech)
    decodes = [read_decoded(path) for path in decode_dirs if path.resolve() not in transcripts]
    sources = _sources(runs, decodes, problems)
    return Report(
        title=folder.name if folder.name not in ("", ".") else folder.resolve().name,
        scores=read_results(folder / "results.json"),
        stages=tuple(_stage(run, folder, problems) for run in runs),
        cards=tuple(card_of(source, name) for name, source in sources),
        decodes=tuple(_decode_report(decoded, folder, problems) for decoded in decodes),
        speech=tuple(speech),
        targets=targets or {},
        problems=problems,
    )


def find_decodes(folder: Path) -> list[Path]:
    """Decode directories below an experiment, by their decode.json."""
    return sorted(path.parent for path in folder.glob("**/decode.json"))


def _stage(run: Path, folder: Path, problems: list[str]) -> StageReport:
    name = str(run.relative_to(folder)) if run != folder else folder.name
    rows = read_metrics(run / "metrics.jsonl")
    drops: Counter[str] = Counter()
    for row in rows:
        if row.get("split") == "epoch":
            _add_drops(drops, row.get("drops"), "")
    steps = max((int(row["step"]) for row in rows if "step" in row), default=0)
    return StageReport(name, _read_object(run / "env.json", problems), _charts(rows), drops, steps)


def _charts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    charts: dict[str, Series] = {}
    for row in rows:
        split = row.get("split")
        if split not in ("train", "dev"):
            continue
        task = row.get("task", "all")
        name = split if task == "all" else f"{split} {task}"
        for key in CURVES:
            if isinstance(row.get(key), int | float):
                charts.setdefault(key, {}).setdefault(name, []).append((float(row["step"]), float(row[key])))
    return {key: charts[key] for key in CURVES if key in charts}


def _add_drops(drops: Counter[str], value: Any, name: str) -> None:
    """Counts may be nested (rank, task, reason); the innermost names the reason, the others go in front."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _add_drops(drops, inner, f"{name} / {key}" if name else str(key))
    elif isinstance(value, list):
        for inner in value:
            _add_drops(drops, inner, name)
    elif isinstance(value, int):
        drops[name] += value


def _read_object(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        problems.append(f"{path}: not JSON ({error})")
        return {}
    return value if isinstance(value, dict) else {"value": value}


def _sources(runs: Sequence[Path], decodes: Sequence[Decoded], problems: list[str]) -> list[tuple[str, SourceConfig]]:
    """Every list once, under the first role it was seen in."""
    found: dict[str, tuple[str, SourceConfig]] = {}
    for run in runs:
        if not (run / "train.yaml").is_file():
            continue
        try:
            data = load_config(run / "train.yaml").data
        except UserError as error:
            problems.append(str(error))
            continue
        for role, sources in (("train", data.train), ("dev", data.dev)):
            for source in sources:
                found.setdefault(source.list, (role, source))
    for decoded in decodes:
        if decoded.source is not None:
            found.setdefault(decoded.source.list, ("test", decoded.source))
    return list(found.values())


def _decode_report(decoded: Decoded, folder: Path, problems: list[str]) -> DecodeReport:
    inside = decoded.folder.is_relative_to(folder) and decoded.folder != folder
    name = str(decoded.folder.relative_to(folder)) if inside else decoded.folder.name
    confusions = _read_object(decoded.folder / "labels.json", problems)
    if (decoded.folder / SPEECH_FILE).is_file():  # shown in the speech section
        return DecodeReport(name, decoded.info, confusions, (), ())
    wer = decoded.folder / "wer"
    lines = wer.read_text(encoding="utf-8").splitlines() if wer.is_file() else []
    first = next((at for at, line in enumerate(lines) if line.startswith("Overall ->")), len(lines))
    summary = tuple(line for line in lines[first:] if line and not line.startswith("="))
    return DecodeReport(name, decoded.info, confusions, summary, tuple(_samples(decoded, problems)))


def _samples(decoded: Decoded, problems: list[str]) -> Iterator[Sample]:
    if decoded.source is None:
        return
    try:
        rows, _ = read_references(decoded.source, keep_audio=False)
    except UserError as error:
        problems.append(f"no samples of {decoded.folder}: {error}")
        return
    judged = [_sample(row, decoded) for row in rows]
    chosen = choose_samples(judged, NUM_SAMPLES)
    sounds = _audio_of({sample.key for sample in chosen}, decoded.source, decoded.info.get("audio", "wav"))
    for sample in chosen:
        flac, note = sounds.get(sample.key, ("", "no audio"))
        yield replace(sample, flac_base64=flac, note=note)


def _sample(row: Utterance, decoded: Decoded) -> Sample:
    hyp = decoded.transcripts.get(row.key)
    answers = decoded.labels.get(row.key, {})
    columns = align_tokens(tokenize(words_of(row, decoded) or ""), tokenize(hyp or "")) if decoded.has_transcript else ()
    labels = [(name, ref, answers.get(name)) for name in KINDS if (ref := label_of(row, name)) is not None and decoded.asks_for(name)]
    return Sample(row.key, columns, tuple(labels), decoded.raw.get(row.key), row.speaker, "")


def _audio_of(keys: set[str], source: SourceConfig, audio: str) -> dict[str, tuple[str, str]]:
    """Base64 flac and a note by key, from one more pass over the list: samples are few, audio of a whole list is not kept."""
    found: dict[str, tuple[str, str]] = {}
    rows, _ = read_references(source, keep_audio=True, keys=keys)
    for row in (row.hearing(audio) for row in rows):
        origin = row.audio if row.audio is not None else row.wav
        if origin is None:
            continue
        try:
            samples_S = read_audio(origin, row.start, row.end)
        except UserError as error:
            found[row.key] = ("", str(error))
            continue
        limit = int(MAX_SAMPLE_SECONDS * SAMPLE_RATE)
        note = f"first {MAX_SAMPLE_SECONDS:.0f} s of {len(samples_S) / SAMPLE_RATE:.0f} s" if len(samples_S) > limit else ""
        found[row.key] = (base64.b64encode(encode_pcm16(samples_S[:limit], container="FLAC")).decode(), note)
    return found
