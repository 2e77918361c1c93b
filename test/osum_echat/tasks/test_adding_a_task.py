"""docs/adding_a_task.md is run: its answer function and its row do what the page says."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from osum_echat.errors import DataError
from osum_echat.tasks import task as task_module
from osum_echat.tasks import understand
from osum_echat.tasks.task import encode
from osum_echat.text.vocab import IGNORE

PAGE = Path(__file__).parents[3] / "docs" / "adding_a_task.md"


def learned(utterance, task, builder, tokenizer):
    labels = encode(utterance, task, builder).labels
    return tokenizer.decode(labels[labels != IGNORE].tolist())


def row(pattern):
    """A row of the page, made by the code that makes rows."""
    (text,) = re.findall(pattern, PAGE.read_text(encoding="utf-8"))
    return eval(text, vars(task_module).copy())


def with_asr_prompt(task):
    return replace(task, prompt=partial(understand.prompt, family=task.family, instruction="asr"))


def test_the_row_of_the_page(builder, utterance, tokenizer):
    task = with_asr_prompt(row(r'_understand\("asr_gender_emotion".*?\)'))
    assert task.labels == ("gender", "emotion")
    assert learned(utterance, task, builder, tokenizer) == "open the Door<FEMALE><ANGRY><|im_end|>"


def test_the_function_of_the_page(builder, utterance, tokenizer, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names = vars(understand).copy()
    exec(code, names)
    monkeypatch.setattr(understand, "answer_initials", names["answer_initials"], raising=False)
    task = with_asr_prompt(row(r'_understand\("initials".*?\)'))
    assert learned(utterance, task, builder, tokenizer) == "otD<|im_end|>"
    with pytest.raises(DataError, match="initials"):
        encode(replace(utterance, txt=None), task, builder)
