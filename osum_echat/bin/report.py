"""osum-echat report: one offline page about a run (report.html) and a table of its scores (RESULTS.md)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from osum_echat.bin._cli import run_cli
from osum_echat.evaluate.ablation import ablation_markdown
from osum_echat.evaluate.report import find_decodes, gather
from osum_echat.evaluate.report_html import decode_lines, render_page
from osum_echat.evaluate.results import markdown_table
from osum_echat.evaluate.targets import read_targets
from osum_echat.files import write_text


def _body() -> int:
    parser = argparse.ArgumentParser(prog="osum-echat report", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="experiment directory: results.json, and the runs of the stages below it")
    parser.add_argument("--decode", type=Path, action="append", help="decode directory to show (repeatable; default: all below --dir)")
    parser.add_argument("--targets", type=Path, help='YAML of figures to reach, such as "tts.wer: <= 20"; they are shown with the scores')
    parser.add_argument("--out", type=Path, help="the page (default: <dir>/report.html)")
    parser.add_argument("--results_md", type=Path, help="the table (default: <dir>/RESULTS.md)")
    args = parser.parse_args()
    targets = read_targets(args.targets) if args.targets else {}
    report = gather(args.dir, args.decode if args.decode is not None else find_decodes(args.dir), targets)
    page, table = args.out or args.dir / "report.html", args.results_md or args.dir / "RESULTS.md"
    write_text(page, render_page(report))
    title = f"# Results of {report.title}\n"
    parts = (title, markdown_table(report.scores), ablation_markdown(report.scores), decode_lines(report.decodes))
    write_text(table, "\n".join(part for part in parts if part) + "\n")
    for problem in report.problems:
        print(f"note: {problem}")
    print(f"wrote {page} and {table}")
    return 0


def main() -> int:
    """Entry point."""
    return run_cli(_body)


if __name__ == "__main__":
    sys.exit(main())
