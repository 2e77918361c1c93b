"""Tokenizers: lossless on any text, special strings one id, incremental decoding equal to decoding at once, clear errors."""

import pickle

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from osum_echat.config import TokenizerConfig
from osum_echat.errors import ConfigError
from osum_echat.text.tokenizer import SPECIAL, IncrementalDetokenizer, load_tokenizer, train_sentencepiece

TEXTS = ["hello world, how are you today", "the cat sat on the mat", "你好，世界", "two\nlines"] * 3
SYMBOLS = ["<HAPPY>", "<|im_start|>user\n"]
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture(scope="module")
def sentencepiece_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("sp") / "text.model"
    train_sentencepiece(TEXTS, path, 340, SYMBOLS)
    return path


@pytest.fixture(scope="module")
def hf_path(tmp_path_factory):
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    model.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False))
    model.add_special_tokens(list(SPECIAL))
    path = tmp_path_factory.mktemp("hf") / "tokenizer.json"
    model.save(str(path))
    return path


@pytest.fixture(scope="module", params=["sentencepiece", "hf"])
def tokenizer(request):
    path = request.getfixturevalue(f"{request.param}_path")
    return load_tokenizer(TokenizerConfig(kind=request.param, path=str(path)))


@settings(max_examples=150, deadline=None)
@given(text=any_text)
def test_round_trip_of_any_text(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


HARD = ["", " ", "  a  b ", "a\n\nb\n", "\0"]
HARD += ["\u2581a \u2581\u2581", "\ufeffx", "<0x41><unk><s>", "e\u0301 ﬁ Ａ", "\U0001f469\u200d\U0001f467"]


@pytest.mark.parametrize("text", HARD)
def test_round_trip_of_hard_text(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_strings_are_one_id_anywhere(tokenizer):
    inside = tokenizer.encode("you<|im_end|>hello")
    assert inside.count(tokenizer.eos_id) == 1
    assert [len(tokenizer.encode(special)) for special in SPECIAL] == [1, 1, 1]
    assert tokenizer.encode("<|im_end|>") == [tokenizer.eos_id]
    assert tokenizer.encode("<|endoftext|>") == [tokenizer.pad_id]
    assert tokenizer.decode([tokenizer.eos_id]) == "<|im_end|>"


def test_vocab_size_bounds_every_id(tokenizer):
    ids = tokenizer.encode("".join(TEXTS) + "".join(SPECIAL) + "".join(map(chr, range(300))))
    assert max(ids) < tokenizer.vocab_size


def test_pickles(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("hello 世界<|im_end|>") == tokenizer.encode("hello 世界<|im_end|>")


@settings(max_examples=150, deadline=None)
@given(text=any_text)
def test_incremental_equals_at_once(tokenizer, text):
    detokenizer = IncrementalDetokenizer(tokenizer)
    ids = tokenizer.encode(text)
    assert "".join(map(detokenizer.push, ids)) + detokenizer.flush() == text


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_incremental_equals_at_once_for_broken_bytes(tokenizer, data):
    ids = data.draw(st.lists(st.integers(5, tokenizer.vocab_size - 5), max_size=25))
    detokenizer = IncrementalDetokenizer(tokenizer)
    assert "".join(map(detokenizer.push, ids)) + detokenizer.flush() == tokenizer.decode(ids)


def test_incremental_never_shows_half_a_character(tokenizer):
    detokenizer = IncrementalDetokenizer(tokenizer)
    pieces = [detokenizer.push(token) for token in tokenizer.encode("a😀b")]
    assert "".join(pieces) == "a😀b"
    assert "\ufffd" not in "".join(pieces)


def test_user_symbols_and_newline_are_one_id(sentencepiece_path):
    tokenizer = load_tokenizer(TokenizerConfig(kind="sentencepiece", path=str(sentencepiece_path)))
    assert tokenizer.vocab_size == 340
    assert [len(tokenizer.encode(symbol)) for symbol in [*SYMBOLS, "\n"]] == [1, 1, 1]
    assert len(tokenizer.encode("hi<HAPPY>")) == len(tokenizer.encode("hi")) + 1


def test_training_is_reproducible(sentencepiece_path, tmp_path):
    train_sentencepiece(TEXTS, tmp_path / "again.model", 340, SYMBOLS)
    assert (tmp_path / "again.model").read_bytes() == sentencepiece_path.read_bytes()


def test_errors_name_the_file(tmp_path, hf_path):
    for kind in ("sentencepiece", "hf"):
        with pytest.raises(ConfigError, match="nowhere"):
            load_tokenizer(TokenizerConfig(kind=kind, path=str(tmp_path / "nowhere")))
    (tmp_path / "bad").write_text("no tokenizer")
    for kind in ("sentencepiece", "hf"):
        with pytest.raises(ConfigError, match="bad"):
            load_tokenizer(TokenizerConfig(kind=kind, path=str(tmp_path / "bad")))
    plain = tokenizers.Tokenizer(models.BPE())
    plain.save(str(tmp_path / "plain.json"))
    with pytest.raises(ConfigError, match="im_end"):
        load_tokenizer(TokenizerConfig(kind="hf", path=str(tmp_path / "plain.json")))


def test_training_that_cannot_work_says_so(tmp_path):
    with pytest.raises(ConfigError, match="9999"):
        train_sentencepiece(["a few words"], tmp_path / "x.model", 9999)
    with pytest.raises(ConfigError, match="no text"):
        train_sentencepiece(["", "\n"], tmp_path / "x.model", 300)
    assert not list(tmp_path.iterdir())
