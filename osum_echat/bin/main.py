"""``osum-echat <verb> ...``: one console command in front of the entry points of this package.

``VERBS`` is the whole program: a verb names a module with a ``main()`` that reads ``sys.argv``. Modules are imported only when their
verb is called, so ``osum-echat --help`` does not wait for torch. ``python -m osum_echat.bin.train`` is the same as ``osum-echat train``.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

# verb (one word or two): (module below osum_echat.bin, one-line help), in the order of a recipe
VERBS: dict[str, tuple[str, str]] = {
    "make-mini-corpus": ("make_mini_corpus", "synthesize the small labelled corpus of examples/mini (no download)"),
    "prepare": ("prepare", "manifest.jsonl or Kaldi directory -> raw lists for train and test"),
    "prepare speech-tokens": ("speech_tokens", "speech tokens of every utterance of a list, into a raw list"),
    "doctor": ("doctor", "check lists before training; writes doctor.html and doctor.json"),
    "train": ("train", "train a model from a YAML and raw, shard or combine lists"),
    "average": ("average", "average the weights of several checkpoints"),
    "decode": ("decode", "decode a list with a trained model"),
    "synthesize": ("synthesize", "speech tokens of a list -> wav files, with a trained flow and vocoder"),
    "own-replies": ("own_replies", "write a thinking model's replies into the rows of a list, to be learned without thinking"),
    "pseudo-label": ("pseudo_label", "write decoded labels into the rows of a list"),
    "score": ("score", "score decoded text and labels, with confidence intervals"),
    "score speech": ("score_speech", "score generated speech and the text of replies: round-trip WER, distortion, pitch, exactness"),
    "score echat": (
        "score_echat",
        "judge the empathy of replies (EChat-eval): by a language model, or offline by rules",
    ),
    "chat": ("chat", "ask a trained model by voice; it answers in text and speech"),
    "tts": ("tts", "read a text aloud with a trained model"),
    "export": ("export", "a trained model and its voice -> a bundle that runs without Python"),
    "report": ("report", "write the offline report.html of a run"),
}


def usage() -> str:
    """The text of ``--help``."""
    width = max(map(len, VERBS)) + 2
    rows = "\n".join(f"  {verb:{width}}{text}" for verb, (_, text) in VERBS.items())
    return f"usage: osum-echat <verb> [arguments]\n\nverbs (each has its own --help):\n{rows}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the verb named by the first argument; the module's own status is the result."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0 if args else 2
    words = [word.replace("_", "-") for word in args[:2]]
    verb = " ".join(words) if " ".join(words) in VERBS else words[0]
    if verb == "--version":
        print(importlib.import_module("osum_echat").__version__)
        return 0
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        print(f"osum-echat: unknown verb {args[0]!r}{hint}\n\n{usage()}", end="", file=sys.stderr)
        return 2
    module = importlib.import_module(f"osum_echat.bin.{VERBS[verb][0]}")
    saved = sys.argv
    sys.argv = [f"osum-echat {verb}", *args[len(verb.split()) :]]  # argparse shows it as the program's name
    try:
        return int(module.main() or 0)
    finally:
        sys.argv = saved


if __name__ == "__main__":
    sys.exit(main())
