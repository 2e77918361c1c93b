"""osum-echat score echat: how well replies fit the emotion, age, gender and sounds of the user (EChat-eval, arXiv:2508.09600).

    osum-echat score echat --ref test_echat.list --hyp d --judge rule --results results.json
    export OPENAI_BASE_URL=https://... OPENAI_API_KEY=...
    osum-echat score echat --ref test_echat.list --hyp d --judge llm --model gpt-4o --results results.json

The rule judge needs no network; its numbers are not comparable with a language model's. Ratings are kept in --cache: started again, the
command asks only for what is missing. Writes judge_rule.json or judge_llm.json into the decode directory (or --out) and merges finished
scores into results.json. docs/echat_eval.md explains rows, scores and limits.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from osum_echat.bin._cli import run_cli
from osum_echat.bin._progress import Progress
from osum_echat.bin._scores import print_scores
from osum_echat.config import SourceConfig
from osum_echat.config_judge import JudgeConfig, judge_config
from osum_echat.errors import UserError
from osum_echat.evaluate.decoded import Decoded, read_decoded
from osum_echat.evaluate.judge import LLM, RULE, EchatScore, judge_by_llm, judge_by_rules
from osum_echat.evaluate.judge_cache import AnswerCache
from osum_echat.evaluate.judge_client import ChatClient
from osum_echat.evaluate.judge_items import TASKS, VARIANTS, EchatItem, read_items, replies_of
from osum_echat.evaluate.judge_listen import CLASSIFIERS, classifier_of, hear_emotions
from osum_echat.evaluate.judge_llm import LlmJudge
from osum_echat.evaluate.judge_report import summary, write_judged
from osum_echat.evaluate.results import merge_results
from osum_echat.evaluate.score import read_references
from osum_echat.evaluate.spoken import read_speech


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="osum-echat score echat", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ref", required=True, help="the decoded list: question, labels, extra.echat")
    parser.add_argument("--data_type", choices=("raw", "shard", "combine"), default="raw", help="form of that list (default: raw)")
    parser.add_argument("--hyp", type=Path, required=True, help="decode directory that holds the replies")
    parser.add_argument("--judge", choices=(RULE, LLM), required=True, help="rule: offline; llm: a language model behind an endpoint")
    parser.add_argument("--tasks", default=",".join(TASKS), help=f"tasks to judge (default: {','.join(TASKS)})")
    parser.add_argument("--variant", choices=VARIANTS, default="", help="ending of the keys in results.json: echat.emotion.direct")
    parser.add_argument("--results", type=Path, help="results.json to merge the scores into")
    parser.add_argument("--out", type=Path, help="where to write the file (default: the decode directory)")
    parser.add_argument("--synthesized", type=Path, help="folder that osum-echat synthesize wrote: the replies as sound")
    parser.add_argument("--reply_emotion", type=Path, help="what the classifier reads: for decoded, a decode of that sound, task emotion")
    parser.add_argument("--classifier", choices=tuple(CLASSIFIERS), default="decoded", help="who hears it (default: decoded)")
    parser.add_argument("--cache", type=Path, help="file that keeps the ratings (default: judge_cache.jsonl beside judge_llm.json)")
    parser.add_argument("--api_key_env", default="OPENAI_API_KEY", help="environment variable with the key (default: OPENAI_API_KEY)")
    group = parser.add_argument_group("endpoint of --judge llm")
    for name, field in JudgeConfig.model_fields.items():
        group.add_argument(f"--{name}", help=f"{field.description}{_default_of(name)}")
    return parser


def _default_of(name: str) -> str:
    if name == "base_url":
        return " (default: OPENAI_BASE_URL)"
    field = JudgeConfig.model_fields[name]
    return "" if field.is_required() else f" (default: {field.default})"


def _config(args: argparse.Namespace) -> JudgeConfig:
    options = {name: getattr(args, name) for name in JudgeConfig.model_fields if getattr(args, name) is not None}
    options.setdefault("base_url", os.environ.get("OPENAI_BASE_URL", ""))
    if not options["base_url"] or "model" not in options:
        raise UserError("--judge llm needs --model and an endpoint (--base_url or OPENAI_BASE_URL); --judge rule needs no network")
    return judge_config(options)


def _ask(args: argparse.Namespace, config: JudgeConfig, items: list[EchatItem], decoded: Decoded) -> EchatScore:
    if bool(args.synthesized) != bool(args.reply_emotion):
        raise UserError("--synthesized and --reply_emotion belong together: the sound of the replies, and what was heard in it")
    heard = hear_emotions(read_speech(args.synthesized), classifier_of(args.classifier, args.reply_emotion)) if args.synthesized else {}
    replies = replies_of(decoded)
    client = ChatClient(config, os.environ.get(args.api_key_env))
    with AnswerCache(args.cache or (args.out or args.hyp) / "judge_cache.jsonl") as cache:
        judge = LlmJudge(config, client, cache)
        with Progress(Console(stderr=True), "judge", "ratings") as bar:
            return judge_by_llm(items, replies, judge, config, reply_emotions=heard, progress=bar.show)


def _body() -> int:
    args = _parser().parse_args()
    config = _config(args) if args.judge == LLM else None
    decoded = read_decoded(args.hyp)
    references, unreadable = read_references(SourceConfig(kind=args.data_type, list=args.ref))
    items = read_items(references, [name.strip() for name in args.tasks.split(",") if name.strip()])
    scored = _ask(args, config, items, decoded) if config else judge_by_rules(items, replies_of(decoded))
    results = scored.results(args.variant)
    path = write_judged(scored, args.out or args.hyp, {"list": args.ref, "variant": args.variant})
    print_scores(results, "of 100", lambda name: "")
    for line in summary(scored, unreadable):
        print(line)
    if scored.is_partial:
        raise UserError(
            f"the judge's endpoint was given up ({scored.down}). What was rated is kept; {path} is marked partial and nothing went into "
            "results.json. Run the same command again when the endpoint answers: it asks only for what is missing."
        )
    if args.results:
        merge_results(args.results, results)
    return 0


def main() -> int:
    """Entry point."""
    return run_cli(_body)


if __name__ == "__main__":
    sys.exit(main())
