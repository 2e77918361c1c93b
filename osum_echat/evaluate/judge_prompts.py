"""The words of the EChat-eval judge (judge_prompts.yaml): prompts per task and the keywords of sound events, versioned and hashed.

The criteria are those of OSUM-EChat (arXiv:2508.09600, appendix A.2); the words are this project's. The item goes to the judge as one JSON
object, so that nothing in a reply can be taken for the frame around it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from osum_echat.errors import ConfigError

BUILTIN = Path(__file__).with_name("judge_prompts.yaml")
_SECTIONS = ("version", "fields", "not_known", "system", "events")


@dataclass(frozen=True)
class JudgePrompts:
    """One prompt file. `sha256` covers every word of it, and no comment."""

    version: int
    sha256: str
    fields: Mapping[str, tuple[str, ...]]
    not_known: str
    system: Mapping[str, str]
    events: Mapping[str, tuple[str, ...]]

    def messages(self, task: str, known: Mapping[str, str | None]) -> list[dict[str, str]]:
        """The messages of a request. `known` maps names of `fields` to values; what is missing or empty is written as not known."""
        content = {name: known.get(name) or self.not_known for name in self.fields[task]}
        return [
            {"role": "system", "content": self.system[task]},
            {"role": "user", "content": json.dumps(content, ensure_ascii=False, indent=1)},
        ]


@lru_cache(maxsize=4)
def load_judge_prompts(path: Path = BUILTIN) -> JudgePrompts:
    """Read and check a prompt file; ConfigError says what is wrong with it."""
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as prompts of a judge ({error})") from error
    if not isinstance(record, dict) or tuple(record) != _SECTIONS:
        raise ConfigError(f"{path} must hold exactly the keys {', '.join(_SECTIONS)}, in this order")
    system = {task: text.strip() for task, text in record["system"].items()}
    if set(system) != set(record["fields"]):
        raise ConfigError(f"{path}: system and fields must name the same tasks; got {', '.join(system)} and {', '.join(record['fields'])}")
    content = {**record, "system": system}
    return JudgePrompts(
        version=record["version"],
        sha256=_digest(content),
        fields=_tuples(record["fields"]),
        not_known=record["not_known"],
        system=system,
        events=_tuples(record["events"]),
    )


def _tuples(section: Mapping[str, list[Any]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(str(item) for item in items) for name, items in section.items()}


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
