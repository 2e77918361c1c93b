#!/usr/bin/env python3
"""Writes the YAML of a fine-tuning: how to train from --conf, what is trained (model, tokenizer, prompts, features) from the run of --init.

A run's train.yaml keeps paths as they were given, relative to the folder it ran in; they are looked for from the checkpoint upwards and
made absolute. What cannot be found is an error here, not an hour later. Prints the tokenizer's path and the prompts, a line each.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from osum_echat.config import RunConfig, dump_config, load_config
from osum_echat.errors import ConfigError, UserError

FROM_INIT = ("model", "tokenizer", "prompts", "features")


def find(path: str, checkpoint: Path, what: str) -> str:
    """An absolute path for one that is relative to the checkpoint's folder or to one of those above it."""
    for folder in checkpoint.resolve().parents:
        if (folder / path).is_file():
            return os.path.abspath(folder / path)
    raise ConfigError(f"{what} {path} of {checkpoint} does not exist in its folder or any above it; give it with --tokenizer")


def start_from(conf: Path, checkpoint: Path, tokenizer: str) -> dict[str, Any]:
    """The values of the new YAML."""
    beside = checkpoint.parent / "train.yaml"
    if not checkpoint.is_file():
        raise ConfigError(f"--init {checkpoint}: no such checkpoint")
    if not beside.is_file():
        raise ConfigError(f"{beside}: missing; it says which model {checkpoint.name} holds")
    run: RunConfig = load_config(beside)
    values: dict[str, Any] = {name: dump_config(run)[name] for name in FROM_INIT}
    values["tokenizer"]["path"] = os.path.abspath(tokenizer) if tokenizer else find(run.tokenizer.path, checkpoint, "tokenizer")
    if Path(run.prompts).suffix:
        values["prompts"] = find(run.prompts, checkpoint, "prompts")
    return {"base": os.path.abspath(conf), **values}


def main() -> int:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conf", type=Path, required=True, help="YAML with the data and train sections")
    parser.add_argument("--init", type=Path, required=True, help="checkpoint with its train.yaml beside it")
    parser.add_argument("--tokenizer", default="", help="tokenizer file, where the one named in train.yaml has moved")
    parser.add_argument("--out", type=Path, required=True, help="the YAML to write")
    args = parser.parse_args()
    try:
        values = start_from(args.conf, args.init, args.tokenizer)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
        config = load_config(args.out)
    except UserError as error:
        print(f"start_from.py: {error}", file=sys.stderr)
        return 2
    print(f"{config.tokenizer.path}\n{config.prompts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
