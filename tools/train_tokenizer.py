#!/usr/bin/env python3
"""Trains the sentencepiece tokenizer of a small model on the texts of raw lists.

Label tags, the marks of a think block and the pieces of the chat template become one id each; the prompts' words are learnt with the texts.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a checkout without installing

from osum_echat.config import TokenizerConfig
from osum_echat.data.source import SOURCES, Drop
from osum_echat.errors import UserError
from osum_echat.text import think
from osum_echat.text.prompts import load_prompts
from osum_echat.text.tags import ALL_TAGS
from osum_echat.text.tokenizer import load_tokenizer, train_sentencepiece

_PROMPT_COPIES = 50  # prompts stand in every sequence, so each of their words should be one piece


def texts(lists: Sequence[str]) -> Iterator[str]:
    """Transcripts and questions, without their tags."""
    for path in lists:
        source = SOURCES["raw"](path)
        for index in range(len(source)):
            for make in source.rows(index):
                row = make()
                if isinstance(row, Drop):
                    raise UserError(row.message)
                for text in (row.txt, row.question):
                    if text:
                        for tag in ALL_TAGS:
                            text = text.replace(tag, "\n")
                        yield text


def main() -> int:
    """Writes the model and says how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", nargs="+", required=True, help="raw lists")
    parser.add_argument("--prompts", default="mini", help="prompt file the model will be trained with (default: mini)")
    parser.add_argument("--vocab_size", type=int, default=768, help="pieces, 256 bytes and all symbols included (default: 768)")
    parser.add_argument("--out", required=True, help="the .model file")
    args = parser.parse_args()
    try:
        prompts = load_prompts(args.prompts)
        corpus = [*texts(args.list), *(prompts.texts() * _PROMPT_COPIES)]
        train_sentencepiece(corpus, args.out, args.vocab_size, [*prompts.symbols(), *ALL_TAGS, *think.MARKS])
        tokenizer = load_tokenizer(TokenizerConfig(kind="sentencepiece", path=args.out))
    except UserError as error:
        print(f"train_tokenizer.py: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {tokenizer.vocab_size} pieces, trained on {len(corpus)} texts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
