"""tools/parse_options.sh as recipes use it, and the syntax of every script."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = """#!/usr/bin/env bash
# One line of what this does.
#
#   0  a stage
set -euo pipefail
stage=-1               # first stage to run
some_name="a b"        # a text
flag=false
dir=exp/${stage}/x     # made of another
. {parser}
late=1
printf '%s|' "$stage" "$some_name" "$flag" "$dir" "$@"
"""


@pytest.fixture
def script(tmp_path: Path, root: Path) -> Path:
    path = tmp_path / "demo.sh"
    path.write_text(SCRIPT.replace("{parser}", str(root / "tools" / "parse_options.sh")))
    return path


def run(script: Path, *args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(script), *args], capture_output=True, text=True, cwd=cwd, check=False)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "-1|a b|false|exp/-1/x|"),
        (["--stage", "3"], "3|a b|false|exp/-1/x|"),
        (["--stage=3", "--some_name=x=y z"], "3|x=y z|false|exp/-1/x|"),
        (["--some-name", "new", "--flag", "true"], "-1|new|true|exp/-1/x|"),
        (["--stage", "-2"], "-2|a b|false|exp/-1/x|"),
        (["--some_name="], "-1||false|exp/-1/x|"),
        (["--some_name=--stage"], "-1|--stage|false|exp/-1/x|"),
        (["--stage", "1", "left", "--over"], "1|a b|false|exp/-1/x|left|--over|"),
        (["--", "--stage"], "-1|a b|false|exp/-1/x|--stage|"),
    ],
)
def test_values(script: Path, args: list[str], expected: str) -> None:
    done = run(script, *args)
    assert (done.returncode, done.stdout) == (0, expected), done.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--stagee", "3"], ["demo.sh", "--stagee", "unknown", "nearest: --stage"]),
        (["--HOME", "/x"], ["--HOME", "unknown"]),  # a variable of the environment is no option
        (["--late", "2"], ["--late", "unknown"]),  # assigned after the parser was sourced
        (["--stage"], ["--stage needs a value"]),
        (["--stage", "--flag", "true"], ["--stage needs a value"]),
        (["--flag", "yes"], ["--flag takes true or false", "yes"]),
    ],
)
def test_refusals(script: Path, args: list[str], words: list[str]) -> None:
    done = run(script, *args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert all(word in done.stderr for word in words), done.stderr


def test_help_is_the_header_and_every_option(script: Path) -> None:
    done = run(script, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("One line of what this does.\n\n  0  a stage\n")
    assert "set -euo" not in done.stdout
    assert "--late" not in done.stdout
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines() if line.startswith("  --")]
    assert ["--stage", "-1", "first stage to run"] in lines
    assert {line[0] for line in lines} == {"--stage", "--some_name", "--flag", "--dir"}


def scripts(root: Path) -> list[Path]:
    folders = ("tools", "examples", "test", ".ci")
    found = [path for folder in folders for path in sorted((root / folder).rglob("*")) if path.is_file()]
    return [p for p in found if p.suffix == ".sh" or (not p.suffix and p.read_bytes()[:2] == b"#!")]


def test_every_script_parses_and_stops_on_errors(root: Path) -> None:
    found = scripts(root)
    assert len(found) >= 6
    for path in found:
        done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    for path in root.glob("examples/*/*/run.sh"):
        assert "\nset -euo pipefail\n" in path.read_text(), f"{path} does not stop on errors"


@pytest.mark.parametrize("recipe", ["mini", "custom"])
def test_recipe_help_names_stages_and_options_from_any_folder(root: Path, recipe: str, tmp_path: Path) -> None:
    script = root / "examples" / recipe / "s0" / "run.sh"
    done = run(script, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("--stage", "--stop_stage", "--seed", "--HOST_NODE_ADDR", "score"):
        assert word in done.stdout
    assert len(script.read_text().splitlines()) <= 150
    wrong = run(script, "--stop_stag", "1", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "--stop_stage" in wrong.stderr


def test_setup_env_help_and_refusal(root: Path) -> None:
    script = root / "tools" / "setup_env.sh"
    assert "TORCH_SPEC" in run(script, "--help").stdout
    wrong = run(script, "--no-vnev")
    assert wrong.returncode != 0
    assert "--no-vnev" in wrong.stderr


def test_setup_env_refuses_an_old_python_with_a_clear_message(root: Path, tmp_path: Path) -> None:
    fake = tmp_path / "python-old"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    done = subprocess.run(
        ["bash", str(root / "tools" / "setup_env.sh"), "--no-venv"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(fake), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Python >= 3.10" in done.stderr
    assert str(fake) in done.stderr


def test_only_the_processes_of_a_training_share_the_cores(root: Path) -> None:
    """What a stage runs afterwards, such as decoding, has all of them."""
    script = """
    unset OMP_NUM_THREADS
    stage=1 stop_stage=1 nproc=2 num_nodes=1 job_id=1 HOST_NODE_ADDR=localhost:0 train_engine=torch_ddp
    . tools/stages.sh
    getconf() { echo 4; }
    torchrun() { echo "training: $OMP_NUM_THREADS"; }
    launch module
    echo "afterwards: ${OMP_NUM_THREADS:-all}"
    """
    done = subprocess.run(["bash", "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["training: 2", "afterwards: all"]
