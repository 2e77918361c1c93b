"""``osum-echat doctor``: checks data lists before training; writes doctor.html and doctor.json, exits with 1 on errors.

osum-echat doctor --train data/train.list --test data/test.list --out exp/doctor
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from osum_echat.bin._cli import run_cli
from osum_echat.config import SourceConfig
from osum_echat.data.doctor import KINDS, Diagnosis, ListSpec, check_lists, detect_kind
from osum_echat.data.doctor_html import render
from osum_echat.data.doctor_rows import Limits
from osum_echat.errors import UserError

_STYLES = {"error": "red", "warning": "yellow", "info": "cyan", "errors": "bold red", "warnings": "bold yellow", "ok": "bold green"}


def get_parser() -> argparse.ArgumentParser:
    """The command line; every number is a field of ``Limits``."""
    limits = Limits()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for split in ("train", "dev", "test"):
        parser.add_argument(f"--{split}", nargs="+", action="extend", default=[], metavar="LIST", help="raw, shard or combine lists")
    parser.add_argument("--out", type=Path, required=True, help="folder for doctor.html and doctor.json")
    parser.add_argument("--num_jobs", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    overlap = ("error", "warning", "ok")
    parser.add_argument("--speaker_overlap", choices=overlap, default=limits.speaker_overlap, help="what it is that splits share speakers")
    parser.add_argument("--codebook_size", type=int, default=limits.codebook_size, help="of the speech tokens; 0: unknown (default)")
    for name in ("max_bad", "min_seconds", "max_seconds", "max_clipped", "silence_db", "max_deviations"):
        parser.add_argument(f"--{name}", type=float, default=getattr(limits, name), help="default: %(default)s")
    return parser


@contextmanager
def _progress(console: Console) -> Iterator[Any]:
    """A bar with the time left on a terminal; nothing in a log file, where the result follows soon enough."""
    columns = (TextColumn("doctor"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("doctor", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _show(diagnosis: Diagnosis, out: Path, console: Console) -> None:
    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    for summary in diagnosis.lists:
        answers = f", {summary.answers.hours:.2f} h of answers" if summary.answers.seconds else ""
        say(f"{summary.name}: {summary.num} rows, {summary.audio.hours:.2f} h{answers}, {summary.num_speakers} speakers")
    for finding in diagnosis.findings:
        say(f"{finding.severity:8} {KINDS[finding.kind].title}: {finding.count} in {finding.where}", _STYLES[finding.severity])
        for example in finding.examples[:3] if finding.severity == "error" else []:
            say(f"         {example['origin']} {example['key']} {example['detail']}")
    say(f"verdict: {diagnosis.verdict}, see {out / 'doctor.html'}", _STYLES[diagnosis.verdict])


def _body() -> int:
    args = get_parser().parse_args()
    console = Console(stderr=True)
    names = [(split, path) for split in ("train", "dev", "test") for path in getattr(args, split)]
    if not names:
        raise UserError("doctor: name at least one list with --train, --dev or --test")
    limits = Limits(**{name: getattr(args, name) for name in vars(Limits())})
    specs = [ListSpec(split, SourceConfig(kind=detect_kind(path), list=path)) for split, path in names]  # type: ignore[arg-type]
    with _progress(console) as progress:
        diagnosis = check_lists(specs, limits, args.num_jobs, progress)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "doctor.json").write_text(json.dumps(diagnosis.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (args.out / "doctor.html").write_text(render(diagnosis), encoding="utf-8")
    _show(diagnosis, args.out, console)
    return 1 if diagnosis.verdict == "errors" else 0


def main() -> int:
    """0 for ok and warnings, 1 for errors in the data, 2 for a wrong command line or list name."""
    return run_cli(_body)


if __name__ == "__main__":
    sys.exit(main())
