#!/usr/bin/env python3
"""Time from the end of a spoken question to the first sound of the reply, by spans, and the real-time factor of the whole answer.

One question at a time, each a dialogue of its own, with everything warm: the model and the voice are loaded, and some questions are
answered before any is measured. Waveforms are in memory when the clock starts. --results merges latency.* and rtf into results.json.

    tools/bench/bench_first_audio.py --dir exp/default/2d_s2s_interleaved --list data/default/test_s2s.list
        --results exp/default/results.json
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from osum_echat.audio.features import SAMPLE_RATE
from osum_echat.bin._cli import run_cli
from osum_echat.bin._model import load_model, read_run
from osum_echat.bin._sampling import add_device_arguments, add_sampling_arguments, samplers_of
from osum_echat.bin._voice import add_voice_arguments, load_voice
from osum_echat.config import SourceConfig
from osum_echat.data.source import Drop
from osum_echat.data.steps import decode
from osum_echat.errors import UserError
from osum_echat.evaluate.latency import latency_scores
from osum_echat.evaluate.results import merge_results
from osum_echat.generate.reply import Reply, Spans
from osum_echat.generate.requests import RequestEncoder, read_rows
from osum_echat.generate.session import DialogueSession
from osum_echat.tasks.task import TASKS
from osum_echat.utterance import Utterance

TARGETS = {"latency.first_audio_ms.p50": 300.0, "rtf": 0.5}
WARM_UP = 3


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="run directory of the model")
    parser.add_argument("--list", required=True, help="raw list of spoken questions")
    parser.add_argument(
        "--task", choices=[name for name, task in TASKS.items() if task.speaks and task.follow_up], default="s2s_interleaved"
    )
    parser.add_argument("--num", type=int, default=40, help="questions that are measured (default: 40)")
    parser.add_argument("--seconds", type=float, default=2.0, help="those nearest to this length are taken (default: 2)")
    parser.add_argument("--results", type=Path, help="results.json to merge the figures into")
    add_voice_arguments(parser)
    add_sampling_arguments(parser)
    add_device_arguments(parser)
    return parser


def read_questions(path: str, task: str, num: int, seconds: float) -> list[Utterance]:
    """Decoded rows without history, nearest in length to `seconds`."""
    rows = [row for row in read_rows(SourceConfig(kind="raw", list=path)) if not isinstance(row, Drop) and not row.history]
    heard = [decode(Utterance(row.key, task=task, wav=row.wav, audio=row.audio, start=row.start, end=row.end)) for row in rows]
    heard = [row for row in heard if row.waveform_S is not None]
    if not heard:
        raise UserError(f"--list {path}: no row with audio and without history")
    return sorted(heard, key=lambda row: abs(length_of(row) - seconds))[:num]


def length_of(question: Utterance) -> float:
    """Seconds of its audio."""
    assert question.waveform_S is not None
    return len(question.waveform_S) / SAMPLE_RATE


def measure(session: DialogueSession, questions: list[Utterance]) -> list[Spans]:
    """Spans of every question that was answered aloud, the warm-up left out."""
    found: list[Spans] = []
    for at, question in enumerate([*questions[:WARM_UP], *questions]):
        session.reset()
        spans = Reply(session.reply(question)).spans
        if at >= WARM_UP and spans is not None:
            found.append(spans)
    if not found:
        raise UserError("no question was answered aloud: there is nothing to measure")
    return found


def body() -> int:
    """Load, measure, print."""
    args = make_parser().parse_args()
    config, checkpoint = read_run(args.dir)
    text, speech = samplers_of(args, config)
    model = load_model(config, checkpoint, args.device, args.dtype)
    voice, hops = load_voice(args, config.model.speech.codebook_size)
    encoder = RequestEncoder(config, TASKS[args.task])
    plan = encoder.plan(text, speech, args.max_new, args.max_speech, args.max_think)
    session = DialogueSession(model, encoder, plan, seed=args.seed, synthesizer=voice, hops=hops)
    questions = read_questions(args.list, args.task, args.num, args.seconds)
    found = measure(session, questions)
    scores = latency_scores(found)
    lengths = [length_of(question) for question in questions]
    print(f"{len(found)} of {len(questions)} questions of {min(lengths):.1f} to {max(lengths):.1f} s answered aloud, ", end="")
    print(f"first hop {hops.first} codes, {args.device}, {torch.get_num_threads()} threads, {args.dtype}")
    for key, score in scores.items():
        target = f"  (target <= {TARGETS[key]:g})" if key in TARGETS else ""
        print(f"{key:<32}{score.value:10.2f}{target}")
    if args.results:
        merge_results(args.results, scores)
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(body))
