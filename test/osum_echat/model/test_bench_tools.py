"""The benchmarks run at their small size and print a ratio."""

import re
import subprocess
import sys

import pytest

PRINTED = {
    "bench_decode.py": r"int4 text / transformers bf16: (\d+\.\d+)",
    "bench_loss_head.py": r"ours / full +memory (\d+\.\d+)  time (\d+\.\d+)",
    "bench_train_step.py": r"ours / theirs (\d+\.\d+)",
    "bench_decode_heads.py": r"joint / phase (\d+\.\d+)",
    "bench_encoder.py": r"speed-up (\d+\.\d+)",
    "bench_token2wav.py": r"streaming costs (\d+\.\d+) x offline",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PRINTED))
def test_small(root, name, request):
    if name == "bench_decode.py":
        request.getfixturevalue("runtime_build")
    if name not in ("bench_loss_head.py", "bench_decode_heads.py", "bench_token2wav.py"):
        pytest.importorskip("transformers", reason="this benchmark compares with transformers (test requirement)")
    done = subprocess.run([sys.executable, root / "tools" / "bench" / name, "--small"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ratios = re.search(PRINTED[name], done.stdout)
    assert ratios is not None and all(float(ratio) > 0 for ratio in ratios.groups()), done.stdout
