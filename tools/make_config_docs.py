#!/usr/bin/env python3
"""Write docs/configuration.md from the schema in osum_echat/config.py (--check: only say whether the page is up to date)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from osum_echat.config import class_docs  # noqa: E402  (runs from a checkout that is not installed)

INTRO = """# Configuration reference

Made by `python tools/make_config_docs.py` from `osum_echat/config.py`; do not edit.

One YAML file defines a training run: `osum-echat train --config conf/x.yaml --dir exp/x`.

- `base: other.yaml` (a path relative to the file) takes another file's values first; sections are merged key by key, lists are replaced.
- `--set a.b.c=value` overrides one key; the value is read as YAML (`--set train.optim.lr=1e-4`, `--set train.trainable=[adapter]`),
  an element of a list is named by its number (`--set data.train.0.weight=0.5`).
- An unknown or ill-typed key stops the command and names the file, the line and the nearest valid key.
- File names are relative to the directory the command runs in.
- The resolved values are saved as `train.yaml` in the run directory. It is what decoding and export read, and a run directory is not
  continued with other settings unless `--allow_change` is given.
"""


def render() -> str:
    """The whole page."""
    parts = [INTRO]
    seen: dict[str, str] = {}
    for section in class_docs():
        title = f"## `{section.path}`" if section.path else "## Top level"
        if section.doc in seen:
            parts.append(f"{title}\n\nThe same keys as `{seen[section.doc]}`.\n")
            continue
        seen[section.doc] = section.path
        rows = [f"| `{f.name}` | {f.type} | {_default(f.default)} | {f.description} |" for f in section.fields]
        parts.append("\n".join([title, "", section.doc, "", "| key | type | default | meaning |", "|---|---|---|---|", *rows, ""]))
    return "\n".join(parts)


def _default(text: str) -> str:
    return text if text in ("required", "see below") else f"`{text}`"


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "configuration.md")
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 when the page is out of date")
    args = parser.parse_args()
    text = render()
    if args.check:
        current = args.out.exists() and args.out.read_text(encoding="utf-8") == text
        print(f"{args.out}: {'up to date' if current else 'out of date, run python tools/make_config_docs.py'}")
        return 0 if current else 1
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text, encoding="utf-8")
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
