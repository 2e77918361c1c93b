"""The run configuration: errors name the place and the nearest key, files combine, resolved files are kept."""

import subprocess
import sys

import pytest
import yaml
from pydantic import ValidationError

from osum_echat.config import class_docs, config_changes, dump_config, load_config, save_config
from osum_echat.errors import ConfigError

MINIMAL = """
model:
  llm: {vocab_size: 100, width: 64, num_layers: 2, num_heads: 4, num_kv_heads: 2, ffn_width: 128}
tokenizer: {kind: sentencepiece, path: tok.model}
data:
  train:
    - list: a.list
    - {list: b.list, weight: 0.5, kind: shard}
  convert: [{from: tts, to: tts_interleaved, rate: 0.5}]
train: {max_steps: 10}
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(MINIMAL)
    return file


def write(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_defaults_are_the_papers(path):
    cfg = load_config(path)
    optim, schedule = cfg.train.optim, cfg.train.schedule
    assert (optim.lr, optim.betas, optim.weight_decay) == (5e-6, (0.9, 0.999), 0.01)
    assert (schedule.kind, schedule.warmup_steps, cfg.train.clip, cfg.train.accum_steps) == ("warmup_inverse_sqrt", 8000, 5.0, 4)
    assert (cfg.train.max_tokens, cfg.model.speech.codebook_size, cfg.seed) == (2800, 4096, 777)
    assert cfg.model.llm.head_dim == 16
    assert cfg.data.convert[0].from_ == "tts"


def test_objects_are_frozen(path):
    with pytest.raises(ValidationError):
        load_config(path).train.clip = 1.0


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("train: {max_steps", "train: {max_step", r"run.yaml:10: train.max_step: unknown key; nearest valid key: `max_steps`"),
        ("weight: 0.5", "weigth: 0.5", r"run.yaml:8: data.train.1.weigth: unknown key; nearest valid key: `weight`"),
        ("from: tts", "form: tts", r"run.yaml:9: data.convert.0.form: unknown key; nearest valid key: `from`"),
        ("tokenizer:", "tokeniser:", r"run.yaml:4: tokeniser: unknown key; nearest valid key: `tokenizer`"),
        ("width: 64, ", "", r"run.yaml:3: model.llm.width: missing"),
        ("num_layers: 2", "num_layers: two", r"run.yaml:3: model.llm.num_layers: .*integer.*got 'two'"),
        ("kind: shard", "kind: tar", r"run.yaml:8: data.train.1.kind: .*'raw', 'shard' or 'combine', got 'tar'"),
        ("num_heads: 4", "num_heads: 5", r"run.yaml:3: model.llm: num_heads 5 does not divide width 64"),
        ("max_steps: 10", "clip: 1", r"run.yaml:10: train: give max_epochs or max_steps"),
        ("max_steps: 10", "max_epochs: 1, schedule: {kind: warmup_cosine}", r"needs schedule.total_steps or max_steps"),
        ("max_steps: 10", "max_steps: 10, max_steps: 11", r"run.yaml:10: key `max_steps` is given twice"),
        ("max_steps: 10}", "max_steps: 10", r"run.yaml: not valid YAML"),
        ("tokenizer:", "features: {num_mels: 128}\ntokenizer:", r"features.num_mels 128 differs from model.encoder.num_mels 80"),
    ],
)
def test_errors_name_the_place(path, old, new, expected):
    with pytest.raises(ConfigError, match=expected):
        load_config(write(path, old, new))


def test_missing_file():
    with pytest.raises(ConfigError, match=r"nowhere.yaml: no such configuration file"):
        load_config("nowhere.yaml")


def test_all_errors_at_once(path):
    with pytest.raises(ConfigError) as error:
        load_config(path, ["train.clip=-1", "data.windwo=3"])
    assert "--set train.clip=-1: train.clip:" in str(error.value)
    assert "--set data.windwo=3: data.windwo: unknown key; nearest valid key: `window`" in str(error.value)


def test_overrides(path):
    sets = ["train.optim.lr=1e-4", "data.train.1.weight=2", "train.trainable=[adapter, encoder]", "model.ctc={weight: 0.5}"]
    cfg = load_config(path, sets)
    assert cfg.train.optim.lr == 1e-4 and cfg.data.train[1].weight == 2
    assert cfg.train.trainable == ["adapter", "encoder"] and cfg.model.ctc and cfg.model.ctc.weight == 0.5


@pytest.mark.parametrize("text", ["train.clip", "=3", "data.train.7.weight=1", "data.train.x.weight=1"])
def test_malformed_overrides(path, text):
    with pytest.raises(ConfigError, match="--set"):
        load_config(path, [text])


def test_base_is_merged_under_and_keeps_its_lines(path, tmp_path):
    child = tmp_path / "sub" / "child.yaml"
    child.parent.mkdir()
    child.write_text("base: ../run.yaml\ntrain: {optim: {lr: 0.5}}\ndata: {train: [{list: c.list}]}\n")
    cfg = load_config(child)
    assert cfg.train.optim.lr == 0.5 and cfg.train.max_steps == 10, "sections are merged"
    assert [source.list for source in cfg.data.train] == ["c.list"], "lists are replaced"
    write(path, "max_steps: 10", "max_steps: 10, clop: 3")
    with pytest.raises(ConfigError, match=r"run.yaml:10: train.clop.*`clip`"):
        load_config(child)
    write(path, "\nmodel:", "base: sub/child.yaml\nmodel:")
    with pytest.raises(ConfigError, match="leads back"):
        load_config(child)


def test_saved_file_is_complete_and_loads_to_the_same(path, tmp_path):
    cfg = load_config(path)
    save_config(cfg, tmp_path / "exp/train.yaml")
    assert load_config(tmp_path / "exp/train.yaml") == cfg
    saved = yaml.safe_load((tmp_path / "exp/train.yaml").read_text())
    assert saved["train"]["max_tokens"] == 2800 and saved["data"]["convert"][0]["from"] == "tts"
    assert saved == dump_config(cfg)


def test_a_different_saved_file_is_kept(path, tmp_path):
    target = tmp_path / "train.yaml"
    save_config(load_config(path), target)
    save_config(load_config(path), target)
    before = target.read_text()
    other = load_config(path, ["train.clip=1", "data.train.1.weight=0.1"])
    with pytest.raises(ConfigError, match=r"keys that differ(.|\n)*data.train.1.weight: 0.5 -> 0.1\n  train.clip: 5.0 -> 1.0"):
        save_config(other, target)
    assert target.read_text() == before
    save_config(other, target, allow_change=True)
    assert config_changes(load_config(target), other) == []


def test_every_key_is_documented():
    for section in class_docs():
        assert section.doc and not section.doc.startswith("Base of"), section.path
        for field in section.fields:
            assert field.description.endswith("."), f"{section.path}.{field.name}"


def test_configuration_page_is_up_to_date(root):
    done = subprocess.run([sys.executable, str(root / "tools/make_config_docs.py"), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
