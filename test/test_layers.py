"""Packages import only downward: every import of osum_echat inside osum_echat goes to the same package or to a lower layer."""

import ast
from pathlib import Path

# From the top; names on one line do not import each other, except the pairs of SIDEWAYS.
LAYERS = [
    {"bin"},
    {"export", "datagen"},
    {"evaluate"},
    {"generate", "train"},
    {"model", "token2wav", "losses"},
    {"data"},
    {"tasks"},
    {"audio", "text"},
    {"utterance", "config"},
    {"config_token2wav", "config_optim", "config_judge"},
    {"config_types", "config_yaml"},
    {"files", "kernels"},
    {"errors", "processes"},
]
SIDEWAYS = {("token2wav", "model")}  # the speech tokenizer is an encoder with a codebook inside
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def package_of(module: str) -> str | None:
    """osum_echat.data.source -> data; None for modules of others and for the top package itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == "osum_echat" and len(parts) > 1 else None


def imports_of(source: str) -> list[tuple[int, str]]:
    """(line, module) of every import, also those inside functions; `from osum_echat import x` counts as osum_echat.x."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            if node.module == "osum_echat":
                found += [(node.lineno, f"osum_echat.{alias.name}") for alias in node.names]
            elif node.module:
                found.append((node.lineno, node.module))
    return found


def violations(path: Path, home: str, source: str) -> list[str]:
    wrong = []
    for line, module in imports_of(source):
        target = package_of(module)
        if target is None or target == home or target.startswith("__"):
            continue
        if target not in LEVEL:
            wrong.append(f"{path}:{line}: {target} has no layer")
        elif LEVEL[target] < LEVEL[home] or (LEVEL[target] == LEVEL[home] and (home, target) not in SIDEWAYS):
            wrong.append(f"{path}:{line}: {home} imports {module}, which is not below it")
    return wrong


def test_imports_go_down(root: Path) -> None:
    files = [path for path in sorted((root / "osum_echat").rglob("*.py")) if path.name != "__init__.py"]
    assert len(files) > 30
    wrong = []
    for path in files:
        home = package_of(".".join(path.relative_to(root).with_suffix("").parts))
        assert home in LEVEL, f"{path}: {home} has no layer in test_layers.py"
        wrong += violations(path.relative_to(root), home, path.read_text(encoding="utf-8"))
    assert not wrong, "\n".join(wrong)


def test_nothing_imports_tools_or_tests(root: Path) -> None:
    for path in sorted((root / "osum_echat").rglob("*.py")):
        for line, module in imports_of(path.read_text(encoding="utf-8")):
            assert module.split(".")[0] not in ("tools", "test"), f"{path}:{line}: imports {module}"


def test_upward_and_sideways_imports_are_seen() -> None:
    source = "import osum_echat.train.trainer\ndef f():\n    from osum_echat.evaluate import text\n"
    source += "    from osum_echat import losses\nimport torch\n"
    assert len(violations(Path("x.py"), "data", source)) == 3
    assert violations(Path("x.py"), "bin", source) == []
    assert len(violations(Path("x.py"), "model", "from osum_echat.losses import a\n")) == 1  # sideways
    assert violations(Path("x.py"), "evaluate", "from osum_echat.generate.runner import a\n") == []
