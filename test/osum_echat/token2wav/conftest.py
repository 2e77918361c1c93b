import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def flows() -> ModuleType:
    """The module flows.py beside this file (tests are imported by path, so it is no package)."""
    spec = importlib.util.spec_from_file_location("token2wav_flows", Path(__file__).with_name("flows.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["token2wav_flows"] = module
    spec.loader.exec_module(module)
    return module
