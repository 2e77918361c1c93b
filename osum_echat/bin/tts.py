"""osum-echat tts: read a text aloud with a trained model.

    osum-echat tts "the light is on" --dir exp/default/2a_tts --out x.wav
    osum-echat tts --file story.txt --dir exp/default/2a_tts --out story.wav --emotion happy
    echo "the light is on" | osum-echat tts --dir exp/default/2a_tts --out x.wav

The text is said sentence by sentence, so it may be long. A character the tokenizer does not know is written in a form it knows (lower case,
without accent), unknown punctuation is left out; anything else it does not know is an error.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from osum_echat.bin._cli import run_cli
from osum_echat.bin._model import load_model, read_run
from osum_echat.bin._sampling import add_device_arguments, add_sampling_arguments, samplers_of
from osum_echat.bin._voice import add_voice_arguments, load_voice, save_wav
from osum_echat.errors import UserError
from osum_echat.generate.reply import Reply
from osum_echat.generate.requests import RequestEncoder
from osum_echat.generate.session import DialogueSession
from osum_echat.tasks.task import TASKS
from osum_echat.text.aloud import split_aloud
from osum_echat.text.tags import canonical
from osum_echat.utterance import Utterance

READ_ALOUD = [name for name, task in TASKS.items() if task.reads_aloud]
PAUSE_SECONDS = 0.2  # between sentences


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="osum-echat tts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", help="what to say (default: --file, or what comes through a pipe)")
    parser.add_argument("--file", type=Path, help="text file in UTF-8")
    parser.add_argument("--dir", type=Path, required=True, help="run directory of the model: train.yaml and final.pt")
    parser.add_argument("--out", type=Path, required=True, help="wav to write (16 bit)")
    parser.add_argument("--emotion", help="how it is said: happy, sad, angry, ... (default: neutral)")
    parser.add_argument("--task", choices=READ_ALOUD, default="tts", help="speech alone, or text and speech by turns (default: tts)")
    parser.add_argument("--max_text", type=int, default=100, help="a sentence of more text tokens is cut (default: 100)")
    add_voice_arguments(parser)
    add_sampling_arguments(parser)
    add_device_arguments(parser)
    return parser


def _read_text(args: argparse.Namespace) -> str:
    if args.text is not None and args.file is not None:
        raise UserError("give the text or --file, not both")
    if args.text is not None:
        return str(args.text)
    if args.file is None and sys.stdin.isatty():
        raise UserError("nothing to say: give a text, --file, or a text through a pipe")
    try:
        return sys.stdin.read() if args.file is None else args.file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{args.file or 'standard input'}: cannot be read as UTF-8 text ({error})") from error


def _body() -> int:
    args = _parser().parse_args()
    if args.max_text < 1:
        raise UserError(f"--max_text {args.max_text} must be at least 1")
    text, emotion = _read_text(args), canonical("emotion", args.emotion) if args.emotion else None
    config, checkpoint = read_run(args.dir)
    text_sampler, speech_sampler = samplers_of(args, config)
    model = load_model(config, checkpoint, args.device, args.dtype)
    encoder = RequestEncoder(config, TASKS[args.task])
    pieces = split_aloud(text, encoder.tokenizer, args.max_text)
    voice, hops = load_voice(args, config.model.speech.codebook_size)
    plan = encoder.plan(text_sampler, speech_sampler, args.max_new, args.max_speech)
    session = DialogueSession(model, encoder, plan, seed=args.seed, synthesizer=voice, hops=hops)
    replies = []
    for number, piece in enumerate(pieces, 1):
        print(f"[{number}/{len(pieces)}] {piece}", flush=True)
        reply = Reply(session.reply(Utterance(f"piece{number}", txt=piece, emotion=emotion)))
        if not reply.finished or not len(reply.samples_S):
            why = "gave no speech" if not len(reply.samples_S) else "was cut off at the longest length (--max_speech)"
            print(f"  this sentence {why}", file=sys.stderr)
        replies += [reply] if len(reply.samples_S) else []
    if not replies:
        raise UserError("the model said nothing, its training may be too short; no wav was written")
    pause_S = np.zeros(round(PAUSE_SECONDS * voice.sample_rate), np.float32)
    samples_S = np.concatenate([part for reply in replies for part in (pause_S, reply.samples_S)][1:])
    save_wav(args.out, samples_S, voice.sample_rate)
    spoken, seconds = len(samples_S) / voice.sample_rate, sum(reply.seconds for reply in replies)
    print(f"{args.out}: {spoken:.2f} s of speech in {seconds:.2f} s, real-time factor {seconds / spoken:.2f}")
    return 0


def main() -> int:
    """Entry point."""
    return run_cli(_body)


if __name__ == "__main__":
    sys.exit(main())
