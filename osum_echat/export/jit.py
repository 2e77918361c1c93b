"""The one place that touches torch.jit: trace, script, save, load. Its deprecation warnings end here.

torch 2.13 calls TorchScript deprecated, but it is what runs from C++ without Python and without a compiler, several methods on one set of
weights. A trace records what eager code computes, so no formula is written twice; a value that Python took from a tensor, such as a length
it branched on, would be frozen into it: that is an error here. Where lengths decide, models call functions marked
``torch.jit.script_if_tracing``, whose branches a trace keeps.
"""

import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.jit import ScriptModule

from osum_echat.errors import UserError
from osum_echat.files import write_atomic

NEWEST_PYTHON = (3, 13)


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> None:
    """UserError on a Python that torch does not script on."""
    if version > NEWEST_PYTHON:
        newest, found = (".".join(map(str, pair)) for pair in (NEWEST_PYTHON, version))
        raise UserError(
            f"export needs Python {newest} or older, this is {found}: torch has no TorchScript on newer ones; "
            f"make an environment for it: PYTHON=python{newest} bash tools/setup_env.sh"
        )


@contextmanager
def _jit() -> Iterator[None]:
    check_python()
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, torch.jit.TracerWarning):
            raise RuntimeError(f"a trace would hold for this input only: {warning.filename}:{warning.lineno}: {warning.message}")
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def trace(module: nn.Module, **examples: tuple[Any, ...]) -> ScriptModule:
    """Methods of a module, each as it runs on its example arguments; all share the module's weights."""
    with _jit():
        return torch.jit.trace_module(module.eval(), examples, check_trace=False, strict=False)  # lists of tensors are state here


def script(module: nn.Module) -> ScriptModule:
    """A module with its methods compiled."""
    with _jit():
        return torch.jit.script(module.eval())


def save(module: ScriptModule, path: Path) -> None:
    """Into a file that :func:`load` and libtorch read."""
    content = io.BytesIO()
    with _jit():
        torch.jit.save(module, content)
    write_atomic(path, lambda file: file.write(content.getvalue()))


@contextmanager
def as_written() -> Iterator[None]:
    """Runs graphs as they are. The optimiser gains nothing on them, but takes seconds for the first calls: the solver is unrolled."""
    with _jit(), torch.jit.optimized_execution(False):
        yield


def load(path: Path, device: str = "cpu") -> ScriptModule:
    """What :func:`save` wrote, or another's file. Raises UserError for one that torch cannot read."""
    with _jit():
        try:
            return torch.jit.load(str(path), map_location=device)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"{path}: torch {torch.__version__} cannot read this TorchScript file ({str(error).splitlines()[0]})"
            ) from error
