"""osum-echat pseudo-label: fill unknown labels of a raw list with decoded ones (task only_p), for training on all labels at once."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from osum_echat.bin._cli import run_cli
from osum_echat.config import SourceConfig
from osum_echat.datagen.pseudo import PseudoCounts, fill_labels
from osum_echat.errors import UserError
from osum_echat.evaluate.decoded import read_labels
from osum_echat.evaluate.score import read_references
from osum_echat.files import write_text


def _report(counts: PseudoCounts, out: Path, unreadable: int) -> None:
    print(f"{out}: {counts.written} rows with every label")
    for name in sorted({*counts.known, *counts.filled}):
        values = counts.filled.get(name, Counter())
        spread = ", ".join(f"{value} {count}" for value, count in values.most_common())
        print(f"  {name}: {counts.known[name]} known, {sum(values.values())} filled in" + (f" ({spread})" if spread else ""))
    for name, count in counts.incomplete.items():
        print(f"  left out {count} rows: no {name}, neither known nor decoded")
    if unreadable:
        print(f"  left out {unreadable} rows that cannot be read")


def _body() -> int:
    parser = argparse.ArgumentParser(prog="osum-echat pseudo-label", description=__doc__)
    parser.add_argument("--list", required=True, help="raw list whose labels are incomplete")
    parser.add_argument("--decoded", type=Path, nargs="+", required=True, help="decode directories of that list (labels.jsonl of each)")
    parser.add_argument("--out", type=Path, required=True, help="raw list to write")
    args = parser.parse_args()
    predicted: dict[str, dict[str, str]] = {}
    for directory in args.decoded:
        labels = directory / "labels.jsonl"
        if not labels.is_file():
            raise UserError(
                f"{labels}: no such file; decode the list first: osum-echat decode --task only_p --list {args.list} --out {directory}"
            )
        for key, values in read_labels(labels).items():
            predicted.setdefault(key, {}).update(values)
    rows, unreadable = read_references(SourceConfig(kind="raw", list=args.list))
    counts = PseudoCounts()
    lines = [row.to_json() + "\n" for row in fill_labels(rows, predicted, counts)]
    if not lines:
        raise UserError(f"no row of {args.list} got every label; do the folders of --decoded hold decodes of this list?")
    write_text(args.out, "".join(lines))
    _report(counts, args.out, unreadable)
    return 0


def main() -> int:
    """Entry point."""
    return run_cli(_body)


if __name__ == "__main__":
    sys.exit(main())
