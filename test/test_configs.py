"""Every YAML of every recipe loads, and its model builds, without data, on the meta device and in its full shape."""

from pathlib import Path

import pytest
import yaml

from osum_echat.config import FlowRun, RunConfig, SpeechTokenizerRun, VocoderRun, load_run, save_config
from osum_echat.errors import ConfigError
from osum_echat.model.build import build_model, set_trainable
from osum_echat.tasks.task import get_task
from osum_echat.text.prompts import load_prompts
from osum_echat.train.assemble import ARCHS

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "examples").rglob("conf/*.yaml"))


def test_there_are_configs() -> None:
    assert len(CONFIGS) >= 7
    assert {path.parts[-4] for path in CONFIGS} >= {"mini", "custom"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: "/".join(path.parts[-4:]))
def test_config_loads_builds_and_saves(path: Path, tmp_path: Path) -> None:
    config = load_run(path)
    model = build_model(config.model, "meta") if isinstance(config, RunConfig) else ARCHS[config.model.arch].model(config)
    names = set_trainable(model, config.train.trainable)
    assert names, f"{path}: nothing would be trained"
    if isinstance(config, RunConfig):
        prompts = load_prompts(config.prompts)
        for convert in config.data.convert:
            for task in (get_task(convert.from_), get_task(convert.to)):
                assert task.name in prompts.instructions if task.family == "understand" else prompts.system_prompt(task.family)
    save_config(config, tmp_path / "train.yaml")
    assert load_run(tmp_path / "train.yaml") == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: "/".join(path.parts[-4:]))
def test_every_key_is_checked(path: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    values["base"] = str(path.parent / values["base"]) if "base" in values else None
    values = {name: value for name, value in values.items() if value is not None}
    values.setdefault("train", {})["max_stepss"] = 3
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=r"max_stepss.*max_steps"):
        load_run(tmp_path / "wrong.yaml")


def test_stages_of_the_mini_recipe_share_one_model() -> None:
    configs = [load_run(path) for path in CONFIGS if path.parts[-4] == "mini"]
    models = {config.model for config in configs if isinstance(config, RunConfig)}
    assert len(models) == 1
    (model,) = models
    tokenizers = [config.model for config in configs if isinstance(config, SpeechTokenizerRun)]
    assert [tokenizer.quantizer.codebook_size for tokenizer in tokenizers] == [model.speech.codebook_size]
    assert [config.model.codebook_size for config in configs if isinstance(config, FlowRun)] == [model.speech.codebook_size]
    assert len({config.mel for config in configs if isinstance(config, FlowRun | VocoderRun)}) == 1
    assert all(getattr(tokenizers[0].encoder, n) == getattr(model.encoder, n) for n in ("num_mels", "width", "num_layers", "ffn_width"))
