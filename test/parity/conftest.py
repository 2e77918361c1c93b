"""The packages that parity tests compare with."""

import importlib.util
from pathlib import Path

import pytest

_PATH = Path(__file__).resolve().parents[2] / "tools" / "bench" / "oracles.py"


@pytest.fixture(scope="session")
def _oracles():
    spec = importlib.util.spec_from_file_location("oracles", _PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def transformers(_oracles):
    """transformers, or the test is skipped by name."""
    module = _oracles.import_transformers()
    if module is None:
        pytest.skip("parity tests need transformers (test requirement)")
    return module


@pytest.fixture(scope="session")
def whisper_model(_oracles):
    """openai-whisper's model module, or the test is skipped by name."""
    module = _oracles.import_whisper_model()
    if module is None:
        pytest.skip("parity tests need openai-whisper (test requirement)")
    return module
