"""Order of the tests and what several of them share."""

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
