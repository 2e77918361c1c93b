"""A small tokenizer, a vocabulary and builders for both prompt files."""

import numpy as np
import pytest

from osum_echat.config import TokenizerConfig
from osum_echat.tasks.sequence import SequenceBuilder
from osum_echat.text.prompts import load_prompts
from osum_echat.text.tags import ALL_TAGS
from osum_echat.text.tokenizer import load_tokenizer, train_sentencepiece
from osum_echat.text.vocab import JointVocab
from osum_echat.utterance import Utterance

SPEECH = (*range(40), 63, 0)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tasks") / "text.model"
    prompts = load_prompts("mini")
    train_sentencepiece([*prompts.texts(), "open the door", "the light is on"] * 3, path, 420, [*ALL_TAGS, *prompts.symbols()])
    return load_tokenizer(TokenizerConfig(kind="sentencepiece", path=str(path)))


@pytest.fixture(scope="session")
def vocab(tokenizer):
    return JointVocab(tokenizer.vocab_size + 13, 64)  # the LLM may have more rows than the tokenizer ids


@pytest.fixture(params=["mini", "default"])
def builder(request, tokenizer, vocab):
    return SequenceBuilder(tokenizer, vocab, load_prompts(request.param))


@pytest.fixture
def utterance():
    return Utterance(
        key="u1",
        txt="open the Door",
        gender="F",
        age_years=34.0,
        emotion="anger",
        event="coughing",
        style="chat",
        question="what is on?",
        words=(("open", 0.0, 0.32), ("the", 0.4, 0.5), ("Door", 0.5, 1.0)),
        extra={"answer": "it is open"},
        speech_token=SPEECH,
        origin="train.list:7",
        waveform_S=np.linspace(-0.5, 0.5, 16000, dtype=np.float32),
    )
