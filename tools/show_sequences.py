#!/usr/bin/env python3
"""Print sequences as the model sees them: what is learned in green, the rest grey, audio as [audio x37]; a few per task, with counts.

    tools/show_sequences.py --list data/train/data.list --tokenizer exp/text.model --prompts mini --num 2

Reads raw lists (one JSON per line). Rows that cannot be laid out are counted by reason, with the first of each. Exit status 1 when no row
can be shown. The default instruction is each task's first; --seed draws one as training does.
"""

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from osum_echat.config import TokenizerConfig
from osum_echat.data.steps import decode
from osum_echat.errors import DataError, UserError
from osum_echat.tasks.sequence import Sequence, SequenceBuilder, show
from osum_echat.tasks.task import Task, encode, get_task
from osum_echat.text.prompts import load_prompts
from osum_echat.text.tokenizer import load_tokenizer
from osum_echat.text.vocab import JointVocab
from osum_echat.utterance import Utterance


@dataclass
class Shown:
    """What was seen of one task."""

    sequences: list[Sequence] = field(default_factory=list)
    num_rows: int = 0


@dataclass
class Dropped:
    """How often each reason occurred, and what its first case said."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, error: DataError) -> None:
        self.counts[error.reason] += 1
        self.first.setdefault(error.reason, str(error))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", required=True, help="raw list (data.list)")
    parser.add_argument("--tokenizer", required=True, help="sentencepiece .model or Hugging Face tokenizer.json")
    parser.add_argument("--prompts", default="default", help="name of a prompt file, or its path (default: %(default)s)")
    parser.add_argument("--task", help="lay every row out as this task instead of its own")
    parser.add_argument("--num", type=int, default=2, help="sequences per task (default: %(default)s)")
    parser.add_argument("--max_rows", type=int, default=2000, help="rows of the list to read; 0 for all (default: %(default)s)")
    parser.add_argument("--codebook_size", type=int, default=4096, help="speech codes of the model (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="draw instructions with this seed")
    return parser.parse_args()


def read_rows(path: str, max_rows: int, dropped: Dropped) -> Iterator[Utterance]:
    """Utterances of a raw list; broken lines are counted."""
    if not Path(path).is_file():
        raise DataError(f"list {path} does not exist", "missing_list")
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if max_rows and number > max_rows:
                return
            if line.strip():
                try:
                    yield Utterance.from_json(line, f"{path}:{number}")
                except DataError as error:
                    dropped.add(error)


def lay_out(utt: Utterance, task: Task, builder: SequenceBuilder) -> Sequence:
    """Decode the audio if the task wants it, and encode."""
    return encode(decode(replace(utt, task=task.name)), task, builder)


def collect(arguments: argparse.Namespace, builder: SequenceBuilder) -> tuple[dict[str, Shown], Dropped]:
    """The first `num` sequences per task and the number of rows of each; audio is decoded only for what is shown."""
    shown: dict[str, Shown] = defaultdict(Shown)
    dropped = Dropped()
    fixed = get_task(arguments.task) if arguments.task else None
    for utt in read_rows(arguments.list, arguments.max_rows, dropped):
        try:
            task = fixed or get_task(utt.task)
            shown[task.name].num_rows += 1
            if len(shown[task.name].sequences) < arguments.num:
                shown[task.name].sequences.append(lay_out(utt, task, builder))
        except DataError as error:
            dropped.add(error)
    return shown, dropped


def report(shown: dict[str, Shown], dropped: Dropped, builder: SequenceBuilder, console: Console) -> None:
    """One block per task, then what could not be laid out."""
    for name, seen in sorted(shown.items()):
        console.rule(Text(f"{name}: {seen.num_rows} rows", style="bold"), align="left")
        for sequence in seen.sequences:
            audio = f"{sequence.num_slots} audio, " if sequence.audio else ""
            head = f"{sequence.key}: {len(sequence)} positions, {audio}{sequence.num_supervised} learned, {len(sequence.ctc_ids)} for CTC"
            console.print(Text(head, style="cyan"), soft_wrap=True)
            console.print(show(sequence, builder.tokenizer, builder.vocab), soft_wrap=True)
    for reason, count in dropped.counts.most_common():
        console.print(Text(f"dropped {count} x {reason}, first: {dropped.first[reason]}", style="yellow"), soft_wrap=True)


def main() -> int:
    arguments = parse_arguments()
    kind = "hf" if arguments.tokenizer.endswith(".json") else "sentencepiece"
    try:
        tokenizer = load_tokenizer(TokenizerConfig(kind=kind, path=arguments.tokenizer))
        rng = None if arguments.seed is None else np.random.default_rng(arguments.seed)
        vocab = JointVocab(tokenizer.vocab_size, arguments.codebook_size)
        builder = SequenceBuilder(tokenizer, vocab, load_prompts(arguments.prompts), rng)
        shown, dropped = collect(arguments, builder)
    except UserError as error:
        Console(stderr=True, highlight=False).print(Text(f"show_sequences: {error}", style="red"), soft_wrap=True)
        return 2
    report(shown, dropped, builder, Console(highlight=False))
    return 0 if any(seen.sequences for seen in shown.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
