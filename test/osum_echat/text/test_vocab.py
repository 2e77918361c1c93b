"""The joint id space, and that nobody else knows a token id."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from osum_echat.text.vocab import IGNORE, JointVocab

PACKAGE = Path(__file__).parents[3] / "osum_echat"


def test_layout_of_the_released_model():
    vocab = JointVocab(151936)  # osum_contract §1.2
    assert (vocab.boundary, vocab.num_output, vocab.num_input) == (156032, 156033, 156035)
    assert (vocab.num_speech_output, vocab.num_speech_input) == (4097, 4099)
    assert (vocab.audio_begin, vocab.audio_end) == (156033, 156034)
    assert vocab.id_to_code(vocab.audio_begin) == 4097
    assert vocab.audio_slot >= vocab.num_input
    assert vocab.code_to_id(0) == 151936


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_sorts_are_disjoint_and_total_over_outputs(make):
    vocab = JointVocab(10, 4)
    ids = make(list(range(-1, vocab.audio_slot + 1)))
    assert vocab.is_text(ids).tolist() == [False] + [True] * 10 + [False] * 8
    assert vocab.is_speech(ids).tolist() == [False] * 11 + [True] * 5 + [False] * 3
    assert vocab.is_slot(ids).tolist() == [False] * 18 + [True]
    assert vocab.id_to_code(vocab.code_to_id(make([0, 3]))).tolist() == [0, 3]
    assert not vocab.is_text(make([IGNORE])).any()


def test_sizes_must_be_positive():
    with pytest.raises(ValueError, match="text_size=0"):
        JointVocab(0)


def test_no_token_id_is_written_anywhere_else():
    ids = re.compile(r"\b(15164[345]|15166[0-9]|15603[2-9]|409[789])\b")
    files = [path for path in PACKAGE.rglob("*.py") if path.name != "vocab.py"]
    assert len(files) > 5
    found = [f"{path}:{number}" for path in files for number, line in enumerate(path.read_text().splitlines(), 1) if ids.search(line)]
    assert not found, "token ids belong to text/vocab.py and configurations"
