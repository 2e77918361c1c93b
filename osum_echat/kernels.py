"""The operators `torch.ops.osum` of `runtime/kernels`, loaded from the library that `make runtime` builds.

OSUM_KERNELS names another file. Where the library is absent, loading is refused: what needs it exists for speed alone, and the same
arithmetic in plain torch is many times slower than a model that was not quantised at all.
"""

import os
from functools import cache
from pathlib import Path

import torch

from osum_echat.errors import UserError

_BUILT = Path(__file__).resolve().parents[1] / "runtime" / "build" / "libosum_kernels.so"


def library_path() -> Path:
    """Where the library is looked for: OSUM_KERNELS, or the build folder of this checkout."""
    return Path(os.environ.get("OSUM_KERNELS") or _BUILT)


@cache
def load_kernels() -> None:
    """Registers `torch.ops.osum`; calling it again does nothing.

    Raises:
        UserError: the library is not there, or does not fit this torch.
    """
    path = library_path()
    if not path.exists():
        raise UserError(f"{path}: no kernels; build them with `make runtime`, or name the library in OSUM_KERNELS")
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be loaded ({error}); build it for torch {torch.__version__} with `make runtime`") from error
