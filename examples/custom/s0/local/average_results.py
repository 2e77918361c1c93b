#!/usr/bin/env python3
"""The mean over several runs' results.json, each choice beside it: <dir>/results.json and <dir>/RESULTS.md.

The interval is Student's t over the runs (https://en.wikipedia.org/wiki/Student%27s_t-distribution): every choice is one draw.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

# two-sided 95 % points of Student's t for 1 to 30 degrees of freedom; beyond that the normal one
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
_T95 += (2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)

Results = dict[str, dict[str, float]]


def average(runs: dict[str, Results]) -> Results:
    """Mean, total n and interval of every key that all runs have."""
    keys = [key for key in next(iter(runs.values())) if all(key in run for run in runs.values())]
    means: Results = {}
    for key in keys:
        values = [run[key]["value"] for run in runs.values()]
        mean = statistics.fmean(values)
        means[key] = {"value": mean, "n": sum(run[key]["n"] for run in runs.values())}
        if len(values) > 1:
            degrees = len(values) - 1
            point = _T95[degrees - 1] if degrees <= len(_T95) else 1.96
            half = point * statistics.stdev(values) / len(values) ** 0.5
            means[key] |= {"lo": mean - half, "hi": mean + half}
    return means


def table(runs: dict[str, Results], means: Results) -> str:
    """Markdown: a row per score, a column per choice."""
    lines = [f"| score | mean | 95 % interval | {' | '.join(runs)} |", "|---" * (3 + len(runs)) + "|"]
    for key, mean in means.items():
        span = f"{mean['lo']:.1f} to {mean['hi']:.1f}" if "lo" in mean else ""
        cells = " | ".join(f"{run[key]['value']:.1f} (n {run[key]['n']:.0f})" for run in runs.values())
        lines.append(f"| {key} | {mean['value']:.1f} | {span} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Reads <dir>/<choice>/results.json of every choice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--choices", nargs="+", required=True, help="names of the runs")
    args = parser.parse_args()
    runs: dict[str, Results] = {}
    for choice in args.choices:
        path = args.dir / choice / "results.json"
        if not path.is_file():
            print(f"average_results.py: {path} is missing; that run did not finish", file=sys.stderr)
            return 2
        runs[choice] = json.loads(path.read_text(encoding="utf-8"))
    means = average(runs)
    (args.dir / "results.json").write_text(json.dumps(means, indent=1) + "\n", encoding="utf-8")
    text = table(runs, means)
    (args.dir / "RESULTS.md").write_text(f"# {args.dir.name}\n\n{text}", encoding="utf-8")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
