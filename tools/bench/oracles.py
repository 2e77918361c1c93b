"""Imports the packages we compare ourselves with, in an environment that holds only the part of them we use.

Shared by the benchmarks here and by ``test/parity``. Returns None when a package is not installed.
"""

import importlib
import importlib.util
import sys
from contextlib import contextmanager
from types import ModuleType
from typing import Any


def import_transformers() -> ModuleType | None:
    """transformers. torchaudio's PyPI wheel is linked against CUDA and fails to import beside a CPU torch; transformers only looks whether
    it is installed, so where it is broken it is reported as absent."""
    if importlib.util.find_spec("transformers") is None:
        return None
    transformers = importlib.import_module("transformers")
    try:
        importlib.import_module("torchaudio")
    except ImportError:
        pass
    except OSError:
        transformers.utils.is_torchaudio_available = lambda: False
    return transformers


def import_whisper_model() -> ModuleType | None:
    """``whisper.model`` of openai-whisper. It is installed without its dependencies (300 MB for word timing and tokens, which nobody here
    uses); those that are missing are replaced by empty modules while it is imported."""
    if importlib.util.find_spec("whisper") is None:
        return None
    with _empty_modules("tiktoken", "numba", "more_itertools", "tqdm"):
        return importlib.import_module("whisper.model")


class _Anything(ModuleType):
    """A module whose every attribute is a decorator that changes nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: lambda function: function


@contextmanager
def _empty_modules(*names: str) -> Any:
    missing = [name for name in names if name not in sys.modules and importlib.util.find_spec(name) is None]
    for name in missing:
        sys.modules[name] = _Anything(name)
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]
