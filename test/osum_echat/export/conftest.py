"""The tiny random model and voice of the tests of generate/, and a bundle of them."""

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from osum_echat.bin._model import load_model, read_run
from osum_echat.config import RunConfig
from osum_echat.export import jit
from osum_echat.export.build import export_bundle
from osum_echat.export.bundle import Bundle, load_bundle
from osum_echat.export.language import ready_model
from osum_echat.export.parity import Check, made_up_questions
from osum_echat.model.echat import EChat
from osum_echat.token2wav.stream import Token2wav
from osum_echat.train.assemble import load_token2wav

_spec = importlib.util.spec_from_file_location("generate_conftest", Path(__file__).parents[1] / "generate" / "conftest.py")
assert _spec and _spec.loader
_generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_generate)
run_config, model, run_dir = _generate.run_config, _generate.model, _generate.run_dir
noise_list, token2wav_runs = _generate.noise_list, _generate.token2wav_runs


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with jit.as_written():
        yield


@pytest.fixture(scope="session")
def eager(run_dir: Path) -> EChat:
    """The model as it is exported."""
    return ready_model(load_model(*read_run(run_dir), "cpu", "float32"), torch.float32)


@pytest.fixture(scope="session")
def voice_runs(token2wav_runs: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories `flow` and `vocoder`; two solver steps, since the trace has them one after the other."""
    folder = Path(shutil.copytree(token2wav_runs(8), tmp_path_factory.mktemp("voice") / "runs"))
    config = yaml.safe_load((folder / "flow" / "train.yaml").read_text())
    config["model"]["sampling"]["num_steps"] = 2
    (folder / "flow" / "train.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="session")
def voice(voice_runs: Path) -> Token2wav:
    return load_token2wav(voice_runs / "flow", voice_runs / "vocoder")


@pytest.fixture(scope="session")
def exported(run_config: RunConfig, eager: EChat, voice: Token2wav, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Check]]:
    """A bundle and the comparisons it has passed."""
    checks: list[Check] = []
    out = tmp_path_factory.mktemp("export") / "bundle"
    export_bundle(out, run_config, eager, voice, made_up_questions()[:2], checks.append)
    return out, checks


@pytest.fixture(scope="session")
def bundle(exported: tuple[Path, list[Check]]) -> Bundle:
    return load_bundle(exported[0])
