"""osum-echat score: error rate, label scores and intervals of a decode.

Writes wer, labels.json and confusion_*.png into the decode directory (or --out) and merges the figures into results.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from osum_echat.bin._cli import run_cli
from osum_echat.bin._scores import print_scores
from osum_echat.config import SourceConfig
from osum_echat.evaluate.decoded import read_decoded
from osum_echat.evaluate.results import Score, merge_results
from osum_echat.evaluate.score import Scored, read_references, score, write_scores


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="osum-echat score", description=__doc__)
    parser.add_argument("--ref", required=True, help="the decoded list, with transcripts and labels")
    parser.add_argument("--data_type", choices=("raw", "shard", "combine"), default="raw", help="form of the lists (default: raw)")
    parser.add_argument("--hyp", type=Path, required=True, help="decode directory")
    parser.add_argument("--labels", default="", help="labels to score, such as age,gender,emotion,event")
    parser.add_argument("--prefix", required=True, help="front of the keys in results.json, such as understand")
    parser.add_argument("--results", type=Path, help="results.json to merge the scores into")
    parser.add_argument("--train_list", help="training list in the same form: its majority class is the baseline")
    parser.add_argument("--out", type=Path, help="where to write the files (default: the decode directory)")
    return parser


def _show(scored: Scored, results: dict[str, Score]) -> None:
    print_scores(results, "%", lambda name: _remark(scored, name))
    if scored.text is not None and scored.text.missing:
        some = ", ".join(scored.text.missing[:5]) + (" ..." if len(scored.text.missing) > 5 else "")
        print(f"{len(scored.text.missing)} references have no hypothesis (counted as deletions): {some}")
    if scored.num_unreadable:
        print(f"{scored.num_unreadable} rows of the reference list cannot be read and are not scored")
    if scored.without_label:
        print(f"not scored, because no reference row carries them: {', '.join(scored.without_label)}")


def _remark(scored: Scored, name: str) -> str:
    if name == "wer" and scored.text is not None:
        total = scored.text.total
        mean = 100 * scored.text.mean_of_utterance
        return f"S {total.substituted} D {total.deleted} I {total.inserted} of {total.num} tokens; mean of utterances {mean:.2f}"
    if name not in scored.labels:
        return "ms"
    label = scored.labels[name]
    years = f"; off by {label.age_mae_years.value:.1f} years" if label.age_mae_years else ""
    majority = f"majority of {label.majority_source} ({label.majority_class}) {100 * label.majority_accuracy:.2f}"
    return f"UAR {100 * label.uar.value:.2f}, macro F1 {100 * label.macro_f1.value:.2f}, {majority}{years}"


def _body() -> int:
    args = _parser().parse_args()
    decoded = read_decoded(args.hyp)
    references, unreadable = read_references(SourceConfig(kind=args.data_type, list=args.ref))
    train = read_references(SourceConfig(kind=args.data_type, list=args.train_list))[0] if args.train_list else []
    names = [name.strip() for name in args.labels.split(",") if name.strip()]
    scored = score(references, decoded, names, train, num_unreadable=unreadable)
    results = scored.results(args.prefix)
    write_scores(scored, args.out or args.hyp)
    if args.results:
        merge_results(args.results, results)
    _show(scored, results)
    return 0


def main() -> int:
    """Entry point."""
    return run_cli(_body)


if __name__ == "__main__":
    sys.exit(main())
