"""Text tokenizers behind one small protocol: sentencepiece (trained here, for small models) or a Hugging Face `tokenizer.json`.

Both are lossless: `decode(encode(text)) == text`, no added or eaten spaces, and the strings of `SPECIAL` are one id each wherever they
occur. Leaves out: padding, truncation, chat templates (text/prompts.py), speech codes (text/vocab.py).
"""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece
import tokenizers

from osum_echat.config import TokenizerConfig
from osum_echat.errors import ConfigError
from osum_echat.files import write_atomic

END_OF_TEXT, TURN_BEGIN, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END_OF_TEXT, TURN_BEGIN, TURN_END)
_SPACE_MARK = "\u2581"  # sentencepiece writes a space as this character
_REPLACEMENT = "\ufffd"  # what bytes that are no character (yet) decode to


class Tokenizer(Protocol):
    """Text to ids and back."""

    @property
    def vocab_size(self) -> int: ...  # one more than the largest id

    @property
    def eos_id(self) -> int: ...  # ends an answer: <|im_end|>

    @property
    def pad_id(self) -> int: ...  # <|endoftext|>

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def covers(self, text: str) -> bool: ...  # True when it has pieces for these characters, and need not spell them in bytes


class SentencePieceTokenizer:
    """A model made by `train_sentencepiece` (others may lack the special strings or eat spaces and are refused)."""

    def __init__(self, path: str | Path) -> None:
        _require_file(path)
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except RuntimeError as error:
            raise ConfigError(f"{path} is no sentencepiece model: {error}") from error
        self.vocab_size: int = self._model.get_piece_size()
        self.eos_id: int = self._special_id(TURN_END, path)
        self.pad_id: int = self._special_id(END_OF_TEXT, path)
        mark_bytes = [f"<0x{byte:02X}>" for byte in _SPACE_MARK.encode()]
        self._mark_ids: list[int] = [self._special_id(piece, path) for piece in mark_bytes]

    def _special_id(self, piece: str, path: str | Path) -> int:
        found = self._model.piece_to_id(piece)
        if found == self._model.unk_id():
            raise ConfigError(f"{path} has no piece {piece!r}; train it with osum_echat.text.tokenizer.train_sentencepiece")
        return found

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; a literal U+2581 is spelled in bytes, because its piece means a space."""
        first, *rest = text.split(_SPACE_MARK)
        ids: list[int] = self._model.encode(first)
        for part in rest:
            ids += self._mark_ids + self._model.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; bytes that form no character become U+FFFD."""
        return self._model.decode(list(ids))

    def covers(self, text: str) -> bool:
        """True when no character is spelled in bytes: all occurred in the training text."""
        return not any(self._model.is_byte(token) or self._model.is_unknown(token) for token in self.encode(text))


class HuggingFaceTokenizer:
    """A `tokenizer.json` with Qwen's special strings."""

    def __init__(self, path: str | Path) -> None:
        _require_file(path)
        try:
            self._model = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust binding raises plain Exception
            raise ConfigError(f"{path} is no tokenizer.json: {error}") from error
        self._model.no_truncation()
        self._model.no_padding()
        self.eos_id: int = self._special_id(TURN_END, path)
        self.pad_id: int = self._special_id(END_OF_TEXT, path)
        self.vocab_size: int = max(self._model.get_vocab(with_added_tokens=True).values()) + 1

    def _special_id(self, token: str, path: str | Path) -> int:
        found = self._model.token_to_id(token)
        if found is None:
            raise ConfigError(f"{path} has no token {token!r}; a tokenizer with Qwen's chat tokens is needed")
        return found

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without anything the file's post-processor would add."""
        return self._model.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special strings included."""
        return self._model.decode(list(ids), skip_special_tokens=False)

    def covers(self, text: str) -> bool:
        """True when the text survives; these tokenizers were trained on all sorts of text, bytes are nothing strange to their models."""
        return self.decode(self.encode(text)) == text


class IncrementalDetokenizer:
    """Text as it is generated: what the pushed ids add, held back while the last character lacks bytes.

    The pieces of `push` and the final `flush` concatenate to `decode` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []  # ids last emitted: some decoders treat the very first id differently
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        """The text that became certain with this id, often one word, at times nothing."""
        self._pending.append(token)
        text = self._pending_text()
        return "" if text.endswith(_REPLACEMENT) else self._emit(text)

    def flush(self) -> str:
        """What was still held back."""
        return self._emit(self._pending_text())

    def _pending_text(self) -> str:
        shown = self._tokenizer.decode(self._context)
        return self._tokenizer.decode(self._context + self._pending)[len(shown) :]

    def _emit(self, text: str) -> str:
        if self._pending:
            self._context, self._pending = self._pending, []
        return text


TOKENIZERS: dict[str, type[SentencePieceTokenizer] | type[HuggingFaceTokenizer]] = {
    "sentencepiece": SentencePieceTokenizer,
    "hf": HuggingFaceTokenizer,
}


def load_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """The tokenizer a configuration names."""
    return TOKENIZERS[config.kind](config.path)


def train_sentencepiece(texts: Iterable[str], path: str | Path, vocab_size: int, user_symbols: Sequence[str] = ()) -> None:
    """Train a lossless BPE model of exactly `vocab_size` pieces and write it to `path`.

    `user_symbols` (label tags, pieces of the chat template) become one id each, besides `SPECIAL` and the newline; 256 pieces are bytes.
    """
    lines = [line for text in texts for line in text.split("\n") if line]
    if not lines:
        raise ConfigError(f"cannot train {path}: no text was given")
    symbols = list(dict.fromkeys([*SPECIAL, "\n", *user_symbols]))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            user_defined_symbols=symbols,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            character_coverage=1.0,
            max_sentence_length=1 << 20,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ConfigError(f"cannot train {path} with vocab_size {vocab_size} on {len(lines)} lines: {error}") from error
    write_atomic(path, lambda file: file.write(model.getvalue()))


def _require_file(path: str | Path) -> None:
    if not Path(path).is_file():
        raise ConfigError(f"tokenizer file {path} does not exist; check tokenizer.path (recipes make it in stage 1)")
