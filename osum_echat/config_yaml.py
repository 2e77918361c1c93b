"""YAML files, overrides and error messages for config.py; knows no section by name.

Every value remembers where it came from (file:line or the override), so that an error of the schema can say it.
Left out on purpose: variables, includes inside lists, import paths. `base: other.yaml` is the only way files combine.
"""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel

from osum_echat.errors import ConfigError

Key = tuple[str | int, ...]
Origins = dict[Key, str]


class FieldDoc(NamedTuple):
    """One line of the configuration reference."""

    name: str
    type: str
    default: str
    description: str


class SectionDoc(NamedTuple):
    """One section of the configuration reference; `path` is where it stands in the YAML."""

    path: str
    doc: str
    fields: list[FieldDoc]


def read_yaml(path: Path, parents: tuple[Path, ...] = ()) -> tuple[dict[str, Any], Origins]:
    """Values of a YAML file merged over its `base`, and the file:line of every key."""
    if path.resolve() in parents:
        raise ConfigError(f"{path}: `base` leads back to this file: " + " -> ".join(str(p) for p in (*parents, path)))
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        by = f" (named as `base` in {parents[-1]})" if parents else ""
        raise ConfigError(f"{path}: no such configuration file{by}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping with keys such as model, data, train, got {type(values).__name__}")
    origins: Origins = {}
    _collect_origins(node, (), str(path), origins)
    base = values.pop("base", None)
    if base is None:
        return values, origins
    if not isinstance(base, str):
        raise ConfigError(f"{origins[('base',)]}: base must be a file name, got {base!r}")
    below, below_origins = read_yaml(path.parent / base, (*parents, path.resolve()))
    return _merge(below, values), {**below_origins, **origins}


def _collect_origins(node: yaml.Node | None, key: Key, file: str, origins: Origins) -> None:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key_node, value_node in node.value:
            line = f"{file}:{key_node.start_mark.line + 1}"
            if key_node.value in seen:
                raise ConfigError(f"{line}: key `{key_node.value}` is given twice")
            seen.add(key_node.value)
            origins[(*key, key_node.value)] = line
            _collect_origins(value_node, (*key, key_node.value), file, origins)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            origins[(*key, index)] = f"{file}:{item.start_mark.line + 1}"
            _collect_origins(item, (*key, index), file, origins)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def apply_override(values: dict[str, Any], origins: Origins, text: str) -> None:
    """Apply one `a.b.c=value`; the value is read as YAML, a list element is named by its index."""
    path, equals, raw = text.partition("=")
    path = path.strip()
    if not equals or not path:
        raise ConfigError(f"--set {text}: expected path=value, such as --set train.max_steps=100")
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: the value is not valid YAML: {error}") from None
    key: Key = ()
    place: Any = values
    parts = path.split(".")
    for depth, part in enumerate(parts):
        index = _index_into(place, part, text, ".".join(parts[:depth]))
        key = (*key, index)
        if depth == len(parts) - 1:
            place[index] = value
        elif isinstance(place, dict) and not isinstance(place.get(index), dict | list):
            place[index] = {}
        place = place[index]
    for old in [old for old in origins if old[: len(key)] == key]:
        del origins[old]
    origins[key] = f"--set {text}"


def _index_into(place: Any, part: str, text: str, parent: str) -> str | int:
    if isinstance(place, dict):
        return part
    if not part.isdigit() or int(part) >= len(place):
        raise ConfigError(f"--set {text}: {parent} is a list of {len(place)}; expected an index below that, got {part!r}")
    return int(part)


def describe_error(error: Mapping[str, Any], root: type[BaseModel], origins: Origins, file: str) -> str:
    """One schema error as `file:line: path: what is wrong`."""
    key: Key = tuple(error["loc"])
    path = ".".join(str(part) for part in key) or "(top level)"
    where = next((origins[key[:n]] for n in range(len(key), 0, -1) if key[:n] in origins), file)
    if error["type"] == "extra_forbidden":
        section = _section_at(root, key[:-1])
        names = sorted(_yaml_names(section)) if section else []
        near = difflib.get_close_matches(str(key[-1]), names, n=1, cutoff=0.0)
        nearest = f"; nearest valid key: `{near[0]}`" if near else ""
        return f"{where}: {path}: unknown key{nearest} (valid here: {', '.join(names)})"
    if error["type"] == "missing":
        return f"{where}: {path}: missing, it has no default"
    message = str(error["msg"]).removeprefix("Value error, ")
    got = "" if error["type"] == "value_error" else f", got {error['input']!r}"
    return f"{where}: {path}: {message}{got}"


def _section_at(section: type[BaseModel] | None, key: Key) -> type[BaseModel] | None:
    for part in key:
        if isinstance(part, int) or section is None:
            continue
        field = next((f for name, f in section.model_fields.items() if part in (name, f.alias)), None)
        section = section_in(field.annotation) if field else None
    return section


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section class inside an annotation such as `list[SourceConfig]` or `LoraConfig | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in typing.get_args(annotation) if (found := section_in(arg))), None)


def _yaml_names(section: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in section.model_fields.items()]


def flatten(values: Any, path: str = "") -> dict[str, Any]:
    """Nested values as `{"a.b.0.c": leaf}`."""
    if isinstance(values, dict | list) and values:
        items = values.items() if isinstance(values, dict) else enumerate(values)
        return {k: v for key, value in items for k, v in flatten(value, f"{path}.{key}" if path else str(key)).items()}
    return {path: values}


def section_docs(section: type[BaseModel], path: str = "") -> list[SectionDoc]:
    """The reference of a section and of all sections below it, in YAML order."""
    fields, below = [], []
    for name, field in section.model_fields.items():
        key = field.alias or name
        child = section_in(field.annotation)
        default = "required" if field.is_required() else _show_default(field.get_default(call_default_factory=True))
        fields.append(FieldDoc(key, _show_type(field.annotation), default, field.description or ""))
        if child:
            is_list = typing.get_origin(field.annotation) is list
            below += section_docs(child, f"{path}.{key}".lstrip(".") + ("[]" if is_list else ""))
    return [SectionDoc(path, inspect.cleandoc(section.__doc__ or ""), fields), *below]


def run_docs(main: type[BaseModel], others: Mapping[str, type[BaseModel]]) -> list[SectionDoc]:
    """The reference of a run, and what is different in runs of other models."""
    docs = section_docs(main)
    for arch, run in others.items():
        docs.append(section_docs(run)[0]._replace(path=f"top level (arch: {arch})"))
        for name, field in run.model_fields.items():
            section = section_in(field.annotation)
            if section and (name == "model" or name not in main.model_fields):
                docs += section_docs(section, f"{name} (arch: {arch})")
    return docs


def _show_default(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "see below"
    return yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True).split("\n")[0]


def _show_type(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is typing.Annotated:
        return _show_type(args[0])
    if origin is typing.Literal:
        return " or ".join(f"`{arg}`" for arg in args)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_show_type(arg) for arg in args)
    if origin in (list, tuple):
        return f"list of {_show_type(args[0])}" if origin is list else f"list of {len(args)} {_show_type(args[0])}"
    if section_in(annotation):
        return "section"
    return {"int": "integer", "float": "number", "str": "text", "bool": "true or false"}.get(annotation.__name__, annotation.__name__)
