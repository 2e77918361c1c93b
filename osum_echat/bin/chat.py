"""osum-echat chat: ask a trained model by voice; its text appears while it answers, its voice goes into a wav.

    osum-echat chat question.wav --dir exp/default/2d_s2s_interleaved --out reply.wav
    osum-echat chat first.wav second.wav third.wav --dir ... --out reply.wav     one dialogue: reply_1.wav, reply_2.wav, reply_3.wav
    osum-echat chat question.wav --dir exp/default/3a_think --out reply.wav --think --show_think

At the end it says where the time until the first sound went. Tasks that only write (--task s2t) need no voice and no --out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from osum_echat.bin._cli import run_cli
from osum_echat.bin._model import load_model, read_run
from osum_echat.bin._sampling import add_device_arguments, add_sampling_arguments, samplers_of
from osum_echat.bin._voice import add_voice_arguments, load_voice, save_wav
from osum_echat.errors import UserError
from osum_echat.generate.question import read_question
from osum_echat.generate.reply import Reply
from osum_echat.generate.requests import RequestEncoder
from osum_echat.generate.session import DialogueSession, TextEvent, ThinkEvent
from osum_echat.generate.voice import Hops
from osum_echat.tasks.task import TASKS, THINKING
from osum_echat.utterance import Utterance

SPOKEN_CHATS = [name for name, task in TASKS.items() if task.follow_up and task.reads_audio and not task.thinks]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="osum-echat chat", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wav", nargs="+", help="a spoken question; several are the turns of one dialogue")
    parser.add_argument("--dir", type=Path, required=True, help="run directory of the model: train.yaml and final.pt")
    parser.add_argument("--out", type=Path, help="wav of the reply; of several, a number is put before the suffix")
    parser.add_argument("--task", choices=SPOKEN_CHATS, default="s2s_interleaved", help="how it answers (default: s2s_interleaved)")
    parser.add_argument("--think", action=argparse.BooleanOptionalAction, default=False, help="note first what is heard (default: no)")
    parser.add_argument("--show_think", "--show-think", action="store_true", help="print these notes too")
    parser.add_argument("--max_context", type=int, help="positions of a dialogue that are remembered (default: data.filter.max_sequence)")
    add_voice_arguments(parser)
    add_sampling_arguments(parser)
    add_device_arguments(parser)
    return parser


def _session(args: argparse.Namespace) -> tuple[DialogueSession, float]:
    """The dialogue, and how long a question has to be."""
    task = TASKS[THINKING[args.task] if args.think else args.task]
    if args.max_context is not None and args.max_context < 1:
        raise UserError(f"--max_context {args.max_context} must be at least 1")
    if task.speaks and args.out is None:
        raise UserError(f"the task {args.task} speaks: say with --out where the wav goes")
    config, checkpoint = read_run(args.dir)
    text, speech = samplers_of(args, config)
    model = load_model(config, checkpoint, args.device, args.dtype)
    voice, hops = load_voice(args, config.model.speech.codebook_size) if task.speaks else (None, Hops())
    encoder = RequestEncoder(config, task)
    plan = encoder.plan(text, speech, args.max_new, args.max_speech, args.max_think)
    bounds = config.data.filter
    context = args.max_context or bounds.max_sequence
    return DialogueSession(model, encoder, plan, seed=args.seed, synthesizer=voice, hops=hops, max_context=context), bounds.min_seconds


def _show(reply: Reply) -> None:
    spans = reply.spans
    if not reply.finished:
        print("  (cut off at the longest length: --max_new, --max_speech)")
    if spans is None:
        return
    parts = f"encode {1000 * spans.encode:.0f} + prefill {1000 * spans.prefill:.0f} + tokens {1000 * spans.tokens:.0f}"
    print(f"  first sound after {1000 * spans.first_audio:.0f} ms = {parts} + flow and vocoder {1000 * spans.token2wav:.0f}")
    print(f"  {spans.spoken:.2f} s of speech in {spans.total:.2f} s, real-time factor {spans.rtf:.2f}")


def _body() -> int:
    args = _parser().parse_args()
    session, min_seconds = _session(args)
    questions = [read_question(path, min_seconds) for path in args.wav]  # all of them before the first answer
    for turn, (path, waveform_S) in enumerate(zip(args.wav, questions, strict=True), 1):
        print(f"{path}: ", end="", flush=True)
        reply = Reply()
        for event in session.reply(Utterance(f"turn{turn}", waveform_S=waveform_S)):
            reply.add(event)
            if isinstance(event, TextEvent):
                print(event.text, end="", flush=True)
            elif isinstance(event, ThinkEvent) and args.show_think:
                print(f"[{event.text}{'' if event.finished else ' … closed at --max_think'}] ", end="", flush=True)
        print()
        _show(reply)
        if args.out and reply.sample_rate:
            out = args.out.with_stem(f"{args.out.stem}_{turn}") if len(questions) > 1 else args.out
            save_wav(out, reply.samples_S, reply.sample_rate)
            print(f"  wrote {out}")
        elif TASKS[args.task].speaks:
            print("  the model said nothing aloud: no wav was written", file=sys.stderr)
    return 0


def main() -> int:
    """Entry point."""
    return run_cli(_body)


if __name__ == "__main__":
    sys.exit(main())
