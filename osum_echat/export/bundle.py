"""A bundle: a folder with all that a runtime reads, and nothing it has to guess. ``write`` fills it, ``load_bundle`` refuses a damaged one.

``bundle.json`` names every other file with its SHA-256. Its fields: docs/export.md. The folder appears under its name when everything in
it is written and checked; until then it is ``<name>.tmp``, which the next export removes.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from torch.jit import ScriptModule

import osum_echat
from osum_echat.config import RunConfig
from osum_echat.errors import UserError
from osum_echat.export import jit
from osum_echat.files import write_atomic, write_text

FORMAT = 1
INFO = "bundle.json"
PARTS = ("encoder", "llm", "flow", "vocoder", "vad")


@dataclass(frozen=True)
class Bundle:
    """A folder that was found whole: its ``bundle.json``, and the parts."""

    path: Path
    info: dict[str, Any]
    encoder: ScriptModule
    llm: ScriptModule
    flow: ScriptModule
    vocoder: ScriptModule
    vad: ScriptModule

    @property
    def config(self) -> RunConfig:
        """Of the run, with tokenizer and prompts from the bundle."""
        config = RunConfig.model_validate(self.info["config"])
        tokenizer = config.tokenizer.model_copy(update={"path": str(self.path / self.info["tokenizer"]["file"])})
        return config.model_copy(update={"tokenizer": tokenizer, "prompts": str(self.path / self.info["prompts"]["file"])})


def load_bundle(path: str | Path) -> Bundle:
    """Raises UserError for a folder that is no bundle, another format, or a file that is missing or not what was exported."""
    path = Path(path)
    info = read_info(path)
    for name, wanted in info["files"].items():
        if not (path / name).is_file():
            raise UserError(f"bundle {path} lacks {name}: it was not copied whole; copy it again or export it again")
        found = file_hash(path / name)
        if found != wanted:
            raise UserError(f"bundle {path}: {name} is damaged: its SHA-256 is {found}, expected {wanted}; copy it or export it again")
    if torch.device(info["device"]).type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"bundle {path} was exported for {info['device']}, and this machine has no such device; export it with --device cpu"
        )
    return Bundle(path, info, **{part: jit.load(path / f"{part}.pt", info["device"]) for part in PARTS})


def read_info(path: Path) -> dict[str, Any]:
    """``bundle.json`` of a folder, of the format this version reads."""
    try:
        info = json.loads((path / INFO).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is no bundle: it has no {INFO}; make one with osum-echat export") from None
    except (OSError, ValueError) as error:
        raise UserError(f"bundle {path}: {INFO} cannot be read ({error}); export it again") from None
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        given = (info.get("format"), info.get("version")) if isinstance(info, dict) else (None, None)
        raise UserError(
            f"bundle {path} has format {given[0]} (written by osum_echat {given[1]}), "
            f"this is osum_echat {osum_echat.__version__}, which reads format {FORMAT}: export it again"
        )
    return info


def write(
    out: Path, parts: Mapping[str, ScriptModule], files: Mapping[str, bytes], info: dict[str, Any], check: Callable[[Bundle], None]
) -> None:
    """Write everything beside ``out``, load it again, ``check`` it, and only then give it its name; an older bundle there is replaced.

    Raises:
        UserError: ``out`` is something else; what ``check`` raises. Nothing is left then, and what was at ``out`` is as it was.
    """
    if out.exists() and not (out / INFO).is_file():
        raise UserError(f"--out {out} exists and is no bundle: choose a folder that does not exist, or an earlier bundle to replace")
    aside = out.with_name(out.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        for part in PARTS:
            jit.save(parts[part], aside / f"{part}.pt")
        for name, content in files.items():
            write_atomic(aside / name, partial(_put, content))
        hashes = {file.name: file_hash(file) for file in sorted(aside.iterdir())}
        head = {"format": FORMAT, "version": osum_echat.__version__, "torch": torch.__version__}
        write_text(aside / INFO, json.dumps({**head, **info, "files": hashes}, indent=1, ensure_ascii=False) + "\n")
        check(load_bundle(aside))
        if out.exists():
            (out / INFO).unlink()  # first: half a folder must not look like a bundle
            shutil.rmtree(out)
        os.replace(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put(content: bytes, file: IO[bytes]) -> None:
    file.write(content)


def file_hash(path: Path) -> str:
    """SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
