"""The C++ tests of runtime/, as ctest runs them."""

import subprocess
from pathlib import Path

import pytest


@pytest.mark.slow
def test_ctest(runtime_build: Path) -> None:
    if not (runtime_build / "test" / "runtime_test").exists():
        pytest.skip("the C++ tests are not built: no GoogleTest (bash tools/install_runtime_deps.sh installs it)")
    command = ["ctest", "--test-dir", str(runtime_build), "--output-on-failure", "--no-tests=error"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
