"""Order of the tests and what several of them share."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REAL_DATA = ROOT.parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Unit tests first: what is broken at the bottom should be seen before the recipes spend minutes on it."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session")
def root() -> Path:
    """Top of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real recordings; tests that need it are skipped by name where it does not exist."""
    if not (REAL_DATA / "manifest.jsonl").exists():
        pytest.skip(f"no real recordings at {REAL_DATA}")
    return REAL_DATA


@pytest.fixture(scope="session")
def runtime_build(root: Path) -> Path:
    """Build folder of runtime/, brought up to date once, so that no test sees an old library."""
    missing = [tool for tool in ("cmake", "c++", "make") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"runtime/ cannot be built here: no {', '.join(missing)}")
    build = root / "runtime" / "build"
    configure = ["cmake", "-S", str(root / "runtime"), "-B", str(build), f"-DOSUM_PYTHON={sys.executable}"]
    for command in (configure, ["cmake", "--build", str(build)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return build
