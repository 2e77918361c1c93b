"""House rules a machine can check: sizes, no numeric token ids, no print in the library, docstrings, no bare except."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

FILE_LINES, FUNCTION_LINES = 400, 60
TOKEN_IDS = re.compile(r"\b(15164[3-9]|15166[0-9]|151936|15206[4-9]|156032|156033|15603[0-9])\b")
# Files that speak of sizes of published models, not of ids.
SIZES_ALLOWED = {"osum_echat/text/vocab.py", "osum_echat/model/build.py"}
MAY_PRINT = ("osum_echat/bin/", "tools/")


def sources(root: Path, *folders: str) -> Iterator[tuple[str, str]]:
    found = 0
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            found += 1
            yield str(path.relative_to(root)), path.read_text(encoding="utf-8")
    assert found > 0, folders


def function_lengths(source: str) -> Iterator[tuple[int, str]]:
    """Lines of every function with its name, decorators left out."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1, node.name


def printing(source: str) -> list[int]:
    """Lines that call print, exit or quit."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "exit", "quit")
    ]


def bare_excepts(source: str) -> list[int]:
    return [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ExceptHandler) and node.type is None]


def test_files_are_short(root: Path) -> None:
    long = {path: n for path, text in sources(root, "osum_echat", "tools", "test") if (n := len(text.splitlines())) > FILE_LINES}
    assert not long, f"over {FILE_LINES} lines, split them: {long}"


def test_functions_are_short(root: Path) -> None:
    long = [
        f"{path}: {name} has {n} lines"
        for path, text in sources(root, "osum_echat", "tools")
        for n, name in function_lengths(text)
        if n > FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


def test_entry_points_hold_no_logic(root: Path) -> None:
    long = {path: n for path, text in sources(root, "osum_echat/bin") if (n := len(text.splitlines())) > 120}
    assert not long, f"entry points over 120 lines: {long}"


def test_no_numeric_token_ids(root: Path) -> None:
    wrong = [
        f"{path}:{number}: {line.strip()}"
        for path, text in sources(root, "osum_echat", "tools")
        if path not in SIZES_ALLOWED
        for number, line in enumerate(text.splitlines(), 1)
        if TOKEN_IDS.search(line) and not path.startswith("tools/bench/")
    ]
    assert not wrong, "numeric token ids belong into osum_echat/text/vocab.py only:\n" + "\n".join(wrong)


def test_the_library_does_not_print_or_exit(root: Path) -> None:
    wrong = [f"{path}:{n}" for path, text in sources(root, "osum_echat") if not path.startswith(MAY_PRINT) for n in printing(text)]
    assert not wrong, "\n".join(wrong)


def test_no_bare_except(root: Path) -> None:
    wrong = [f"{path}:{n}" for path, text in sources(root, "osum_echat", "tools", "test") for n in bare_excepts(text)]
    assert not wrong, "\n".join(wrong)


def test_modules_say_what_they_are(root: Path) -> None:
    silent = [path for path, text in sources(root, "osum_echat", "tools") if text.strip() and not ast.get_docstring(ast.parse(text))]
    assert not silent, f"no module docstring: {silent}"


def test_test_names_are_unique_and_folders_are_no_packages(root: Path) -> None:
    """Two test files of one name hide each other in a run from another folder."""
    names = [path.name for path in (root / "test").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)
    assert not list((root / "test").rglob("__init__.py"))


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (printing, "def f():\n    print(1)\n"),
        (bare_excepts, "try:\n    pass\nexcept:\n    pass\n"),
        (lambda s: [n for n, _ in function_lengths(s) if n > FUNCTION_LINES], "def f():\n" + "    x = 1\n" * 60),
        (lambda s: TOKEN_IDS.findall(s), "eos = 151645\n"),
    ],
)
def test_checks_see_what_they_look_for(check: object, source: str) -> None:
    assert check(source)  # type: ignore[operator]
