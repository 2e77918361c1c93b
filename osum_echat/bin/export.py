"""osum-echat export: a trained model and its voice -> a bundle, the folder that runs without Python (docs/export.md).

    osum-echat export --dir exp/default/3a_think --out exp/default/bundle
    osum-echat export --dir exp/default/3a_think --out exp/default/bundle_bf16 --dtype bfloat16 --list data/default/test_s2s.list

The exported parts are loaded again and compared with the model they were made of; the table shows by how much they differ. A bundle that
differs is not written. An earlier bundle at --out is replaced when the new one is complete.
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path

import torch

from osum_echat.bin._cli import run_cli
from osum_echat.bin._model import load_model, read_run
from osum_echat.bin._sampling import add_device_arguments
from osum_echat.bin._voice import add_voice_arguments, load_voice
from osum_echat.config import SourceConfig
from osum_echat.errors import UserError
from osum_echat.export.build import export_bundle
from osum_echat.export.jit import check_python
from osum_echat.export.language import ready_model
from osum_echat.export.parity import Check, made_up_questions
from osum_echat.generate.requests import read_rows
from osum_echat.utterance import Utterance

_NUM_QUESTIONS = 4


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="osum-echat export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="run directory of the model: train.yaml and final.pt")
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    help_list = f"raw list; bundle and model answer its first {_NUM_QUESTIONS} recordings and must say the same (default: noises)"
    parser.add_argument("--list", type=Path, help=help_list)
    add_voice_arguments(parser)
    add_device_arguments(parser)
    return parser


def _questions(path: Path | None) -> list[Utterance]:
    if path is None:
        return made_up_questions()
    rows = (row for row in read_rows(SourceConfig(list=str(path))) if isinstance(row, Utterance) and row.wav is not None)
    questions = list(islice(rows, _NUM_QUESTIONS))
    if not questions:
        raise UserError(f"--list {path} has no row with a recording ('wav')")
    return questions


def _show(check: Check) -> None:
    verdict = "ok" if check.passed else "DIFFERS"
    numbers = f"{check.num:>9} {check.absolute:>10.1e} {check.relative:>10.1e} {check.tolerance:>10.0e}"
    print(f"{check.part:<9}{check.what:<44}{numbers}  {verdict}", flush=True)


def _body() -> int:
    args = _parser().parse_args()
    check_python()
    config, checkpoint = read_run(args.dir)
    questions = _questions(args.list)
    voice, _ = load_voice(args, config.model.speech.codebook_size)
    model = ready_model(load_model(config, checkpoint, args.device, "float32"), getattr(torch, args.dtype))
    print(f"{'part':<9}{'compared':<44}{'values':>9} {'max abs':>10} {'relative':>10} {'tolerance':>10}")
    export_bundle(args.out, config, model, voice, questions, _show)
    size = sum(file.stat().st_size for file in args.out.iterdir())
    print(f"{args.out}: {size / 1e6:.1f} MB, {args.dtype} on {args.device}")
    return 0


def main() -> int:
    """Entry point."""
    return run_cli(_body)


if __name__ == "__main__":
    sys.exit(main())
