"""env.json: with what, where and how a run was made, one entry per start."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from osum_echat.files import write_text


def describe_environment(seed: int, step: int, world: int, device: torch.device) -> dict[str, Any]:
    """Facts about this start."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "step": step,
        "seed": seed,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.platform()}, {_cpu_name()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "world": world,
        "git_commit": _git_commit(),
    }


def write_environment(path: Path, facts: dict[str, Any]) -> None:
    """Write the facts of the newest start flat, and all starts under `starts`."""
    starts = json.loads(path.read_text(encoding="utf-8")).get("starts", []) if path.exists() else []
    text = json.dumps({**facts, "starts": [*starts, facts]}, indent=1)
    write_text(path, text)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git_commit() -> str | None:
    try:
        return _git("rev-parse", "HEAD") + ("+changes" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):  # no git, or not a checkout
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
