"""Prompt files: built-in ones are complete, broken ones are refused with the place of the defect."""

import re

import numpy as np
import pytest
import yaml

from osum_echat.errors import ConfigError
from osum_echat.text.prompts import BUILTIN, load_prompts
from osum_echat.text.tags import KINDS, tag_texts

FAMILIES = {"understand", "s2t", "s2t_think", "t2t", "tts", "tts_stream", "s2s", "s2s_think", "s2s_stream", "s2s_stream_think"}


@pytest.mark.parametrize("name", ["default", "mini"])
def test_builtin_files_cover_the_families_in_chat_form(name):
    prompts = load_prompts(name)
    assert set(prompts.system) == FAMILIES
    assert len(set(prompts.system.values())) == len(FAMILIES)
    template = prompts.template
    joined = template.begin + "S" + template.user + "U" + template.assistant
    assert joined == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    assert "<|im_end|>" + template.next_user + "U" == "<|im_end|>\n<|im_start|>user\nU"


def test_default_pools_are_rich_and_bilingual():
    for task, pool in load_prompts("default").instructions.items():
        chinese = [text for text in pool if re.search(r"[\u4e00-\u9fff]{4}", re.sub(r"<[^<>]*>", "", text))]
        assert len(pool) >= 8, task
        assert 2 <= len(chinese) <= len(pool) - 2, task


def test_label_tasks_enumerate_their_tags():
    four = {"age", "gender", "event", "emotion"}
    for task, pool in load_prompts("default").instructions.items():
        named = (four if "_p" in task and task != "asr_punctuation" else set()) | set(KINDS) & set(task.split("_"))
        for text in pool:
            for kind in KINDS:
                assert (" ".join(tag_texts(kind)) in text) == (kind in named), (task, text)
            assert "{" not in text


def test_mini_instructions_are_short_and_distinct():
    pools = load_prompts("mini").instructions
    assert all(len(pool) == 1 and len(pool[0].split()) <= 5 for pool in pools.values())
    assert len({pool[0] for pool in pools.values()}) == len(pools)


def test_instruction_is_first_without_rng_and_drawn_with_one():
    prompts = load_prompts("default")
    pool = prompts.instructions["asr"]
    assert prompts.instruction("asr") == prompts.instruction("asr", None) == pool[0]
    rng = np.random.default_rng(0)
    assert {prompts.instruction("asr", rng) for _ in range(300)} == set(pool)
    assert prompts.instruction("asr", np.random.default_rng(5)) == prompts.instruction("asr", np.random.default_rng(5))


def test_unknown_names_name_the_nearest():
    prompts = load_prompts("mini")
    with pytest.raises(ConfigError, match="did you mean 'understand'"):
        prompts.system_prompt("understood")
    with pytest.raises(ConfigError, match="did you mean 'asr_p'"):
        prompts.instruction("asr_pp")
    with pytest.raises(ConfigError, match="default, mini"):
        load_prompts("no_such")


def _copy(tmp_path, change):
    record = yaml.safe_load((BUILTIN / "mini.yaml").read_text(encoding="utf-8"))
    change(record)
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(record), encoding="utf-8")
    return path


def test_the_hash_follows_the_content_only(tmp_path):
    mini = load_prompts("mini")
    assert load_prompts(_copy(tmp_path, lambda record: None)).sha256 == mini.sha256
    other = load_prompts(_copy(tmp_path, lambda record: record["system"].update(understand="hear")))
    assert other.sha256 != mini.sha256
    assert other.name == "own"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.pop("system"), "exactly the keys"),
        (lambda record: record.update(extra=1), "exactly the keys"),
        (lambda record: record.update(version="one"), "version"),
        (lambda record: record["template"].pop("user"), "template"),
        (lambda record: record["system"].update(understand=None), "system"),
        (lambda record: record["instructions"].update(asr=[]), "instructions.asr"),
        (lambda record: record["instructions"].update(asr="words"), "instructions.asr"),
        (lambda record: record["instructions"].update(asr=["a", " a"]), "twice"),
        (lambda record: record.update(instructions=[]), "instructions"),
    ],
)
def test_broken_files_are_refused(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        load_prompts(_copy(tmp_path, change))


def test_text_that_is_no_yaml(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: [", encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_prompts(path)


def test_symbols_and_texts_serve_a_small_tokenizer():
    prompts = load_prompts("mini")
    assert "<|im_end|>\n<|im_start|>assistant\n" in prompts.symbols()
    assert {"listen", "words", "words voice"} <= set(prompts.texts())
