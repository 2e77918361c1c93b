"""osum-echat score speech: how well a decoded task speaks, and how often its replies are right.

    osum-echat decode --task s2s --list test_s2s.list --out d ...          d/hyp.list
    osum-echat synthesize --list d/hyp.list --out d/speech ...             d/speech/data.list
    osum-echat decode --task asr --list d/speech/data.list --out d/heard   d/heard/transcript (or that of any other recogniser)
    osum-echat score speech --ref test_s2s.list --hyp d --synthesized d/speech --heard d/heard --prefix s2s --results results.json

Without --hyp it scores recordings that were turned into codes and back: then --heard_in_recordings tells what that costs. Writes wer and
speech.json into the decode directory (or --out) and merges the figures into results.json. docs/speech.md explains every score.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from osum_echat.bin._cli import run_cli
from osum_echat.bin._progress import Progress
from osum_echat.bin._scores import print_scores
from osum_echat.config import SourceConfig
from osum_echat.errors import UserError
from osum_echat.evaluate.results import merge_results, unit_of
from osum_echat.evaluate.score import read_references
from osum_echat.evaluate.speech import SpeechScore, score_speech, write_speech
from osum_echat.evaluate.spoken import RECORDINGS, Spoken, check_keys, read_heard, read_speech, read_spoken


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="osum-echat score speech", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ref", required=True, help="the decoded list: txt, and answer_wav where there are recordings")
    parser.add_argument("--data_type", choices=("raw", "shard", "combine"), default="raw", help="form of that list (default: raw)")
    parser.add_argument("--hyp", type=Path, help="decode directory; none: the recordings themselves were taken apart and put together")
    parser.add_argument("--synthesized", type=Path, help="folder that osum-echat synthesize wrote")
    parser.add_argument("--heard", type=Path, help="transcripts of it: a decode directory (task asr) or a Kaldi text file")
    parser.add_argument("--heard_in_recordings", type=Path, help="the same of answer_wav (decode --audio answer_wav), for wer_added")
    parser.add_argument("--prefix", required=True, help="front of the keys in results.json: tokens, tts, s2s, ...")
    parser.add_argument("--results", type=Path, help="results.json to merge the scores into")
    parser.add_argument("--out", type=Path, help="where to write the files (default: the decode directory)")
    return parser


def _score(args: argparse.Namespace, spoken: Spoken) -> SpeechScore:
    references, unreadable = read_references(SourceConfig(kind=args.data_type, list=args.ref))
    if unreadable:
        print(f"{unreadable} rows of the reference list cannot be read and are not scored")
    keys = {row.key for row in references}
    speech = read_speech(args.synthesized) if args.synthesized else None
    heard = read_heard(args.heard) if args.heard else None
    recordings = read_heard(args.heard_in_recordings) if args.heard_in_recordings else None
    for path, found in ((args.synthesized, speech.wavs if speech else None), (args.heard, heard), (args.heard_in_recordings, recordings)):
        if found is not None:
            check_keys(path, found, keys, args.ref)
    with Progress(Console(stderr=True), "compare", "utterances") as bar:
        return score_speech(references, spoken, speech, heard, recordings, bar.show)


def _remark(scored: SpeechScore, name: str) -> str:
    if name == "wer" and scored.words is not None:
        total, mean = scored.words.total, 100 * scored.words.mean_of_utterance
        return f"%; S {total.substituted} D {total.deleted} I {total.inserted} of {total.num} tokens; mean of utterances {mean:.2f}"
    return unit_of(name)


def _body() -> int:
    args = _parser().parse_args()
    folder = args.out or args.hyp
    if folder is None:
        raise UserError("without --hyp, --out has to say where the files go")
    if args.hyp is None and args.synthesized is None:
        raise UserError("nothing to score: give --hyp (a decode), --synthesized (its sound) or both")
    spoken = read_spoken(args.hyp) if args.hyp else RECORDINGS
    scored = _score(args, spoken)
    paths = {name: str(getattr(args, name)) for name in ("synthesized", "heard", "heard_in_recordings") if getattr(args, name)}
    write_speech(scored, folder, {"prefix": args.prefix, "task": spoken.task, "list": args.ref, "data_type": args.data_type, **paths})
    results = scored.results(args.prefix)
    if args.results:
        merge_results(args.results, results)
    print_scores(results, "value", lambda name: _remark(scored, name))
    if scored.words is not None and scored.words.missing:
        print(f"{len(scored.words.missing)} utterances were not heard by the recogniser (counted as deletions)")
    for key, why in scored.skipped.items():
        print(f"not compared with its recording: {key}: {why}")
    return 0


def main() -> int:
    """Entry point."""
    return run_cli(_body)


if __name__ == "__main__":
    sys.exit(main())
