"""Everything the model is told besides the user's words: chat template, system prompt per family, instructions per task.

They are data (prompts/*.yaml): versioned, hashed, and part of what a checkpoint was trained on. `{age}` and the other label kinds in an
instruction stand for the tags of that kind, so that a prompt and its inventory (text/tags.py) cannot drift apart. The template is Qwen's
(ChatML), cut into pieces that are encoded one by one: a prompt is then an exact prefix of prompt + answer whatever the tokenizer merges.
Leaves out: which pieces a task uses, and in which order (tasks/).
"""

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from osum_echat.errors import ConfigError
from osum_echat.text.tags import KINDS, tag_texts

BUILTIN = Path(__file__).parent / "prompts"
_SECTIONS = ("version", "template", "system", "instructions")


@dataclass(frozen=True)
class Template:
    """`begin` system prompt `user` the user's content `assistant` answer `next_user` the user's next content ..."""

    begin: str
    user: str
    assistant: str
    next_user: str


@dataclass(frozen=True)
class Prompts:
    """One prompt file, checked and expanded."""

    name: str
    version: int
    sha256: str
    template: Template
    system: Mapping[str, str]
    instructions: Mapping[str, tuple[str, ...]]

    def system_prompt(self, family: str) -> str:
        """The system prompt of a family of tasks (`understand`, `s2t`, ...)."""
        if family not in self.system:
            raise ConfigError(f"prompt file {self.name} has no system prompt {family!r}{_nearest(family, self.system)}")
        return self.system[family]

    def instruction(self, task: str, rng: np.random.Generator | None = None) -> str:
        """An instruction drawn with `rng`; without one always the first, which is the one to decode with."""
        if task not in self.instructions:
            raise ConfigError(f"prompt file {self.name} has no instructions for task {task!r}{_nearest(task, self.instructions)}")
        pool = self.instructions[task]
        return pool[0] if rng is None else pool[int(rng.integers(len(pool)))]

    def symbols(self) -> tuple[str, ...]:
        """The template pieces: a small tokenizer that makes each one id saves a dozen positions per sequence."""
        template = self.template
        return (template.begin, template.user, template.assistant, template.next_user)

    def texts(self) -> list[str]:
        """Every system prompt and instruction, to train a small tokenizer on."""
        return [*self.system.values(), *(text for pool in self.instructions.values() for text in pool)]


def prompts_file(name_or_path: str | Path) -> Path:
    """`prompts/<name>.yaml` of this package, or the file at a path (anything with a slash or a suffix)."""
    path = Path(name_or_path)
    if path.suffix == "" and len(path.parts) == 1:
        path = BUILTIN / f"{name_or_path}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in BUILTIN.glob("*.yaml"))
        raise ConfigError(f"no prompt file {path}; give a path, or one of {', '.join(known)}")
    return path


def load_prompts(name_or_path: str | Path) -> Prompts:
    """Read a :func:`prompts_file`."""
    path = prompts_file(name_or_path)
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    return _parse(record, path)


def _parse(record: Any, path: Path) -> Prompts:
    if not isinstance(record, dict) or set(record) != set(_SECTIONS):
        got = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
        raise ConfigError(f"{path} must hold exactly the keys {', '.join(_SECTIONS)}; got {got}")
    if not isinstance(record["version"], int):
        raise ConfigError(f"{path}: version must be a whole number, got {record['version']!r}")
    template, system = _strings(record["template"], path, "template"), _strings(record["system"], path, "system")
    pieces = Template.__dataclass_fields__
    if set(template) != set(pieces):
        raise ConfigError(f"{path}: template must hold exactly {', '.join(pieces)}; got {', '.join(template)}")
    system = {family: text.strip() for family, text in system.items()}
    pools = _pools(record["instructions"], path)
    content = {"version": record["version"], "template": template, "system": system, "instructions": pools}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
    return Prompts(path.stem, record["version"], digest, Template(**template), system, pools)


def _strings(section: Any, path: Path, where: str) -> dict[str, str]:
    if not isinstance(section, dict) or not all(isinstance(text, str) and text for text in section.values()):
        raise ConfigError(f"{path}: {where} must map names to non-empty strings (quote words that YAML reads as something else)")
    return section


def _pools(section: Any, path: Path) -> dict[str, tuple[str, ...]]:
    if not isinstance(section, dict):
        raise ConfigError(f"{path}: instructions must map task names to lists of strings, got {type(section).__name__}")
    pools = {}
    for task, pool in section.items():
        if not isinstance(pool, list) or not pool or not all(isinstance(text, str) and text.strip() for text in pool):
            raise ConfigError(f"{path}: instructions.{task} must be a list of non-empty strings")
        expanded = tuple(_expand(text.strip()) for text in pool)
        if len(set(expanded)) != len(expanded):
            raise ConfigError(f"{path}: instructions.{task} holds the same string twice")
        pools[str(task)] = expanded
    return pools


def _expand(text: str) -> str:
    for kind in KINDS:
        text = text.replace("{" + kind + "}", " ".join(tag_texts(kind)))
    return text


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(known)}"
