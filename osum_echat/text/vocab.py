"""The joint id space of text and speech: the only place in the project where ids are computed.

    [0, text_size)                      text, as the tokenizer numbers it; `text_size` is the number of rows of the LLM's
                                        embedding (`model.llm.vocab_size`), which may exceed the tokenizer's own size
    [text_size, text_size + codebook)   speech codes
    boundary                            begin and end of speech the model says; the last id that can be predicted
    audio_begin, audio_end              wrap the user's audio; input only, they have an embedding and no output row
    audio_slot                          not an id of any table: marks a position that an adapter frame will fill

So the output layer has `num_output` rows and the input tables `num_input`. Every function takes an int, a numpy array or a torch tensor.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

IGNORE = -100  # label of a position nothing is learned from; what torch's losses ignore by default
NUM_BYTES = 256  # classes of the CTC branch: UTF-8 bytes, whatever the tokenizer; its blank comes behind them

Ids = TypeVar("Ids", int, np.ndarray, torch.Tensor)


@dataclass(frozen=True)
class JointVocab:
    """Where text ids, speech codes and the marks around audio lie."""

    text_size: int
    codebook_size: int = 4096

    def __post_init__(self) -> None:
        if self.text_size <= 0 or self.codebook_size <= 0:
            raise ValueError(f"JointVocab needs positive sizes, got text_size={self.text_size}, codebook_size={self.codebook_size}")

    @property
    def boundary(self) -> int:
        """Begin and end of speech the model says."""
        return self.text_size + self.codebook_size

    @property
    def num_output(self) -> int:
        """Ids that can be predicted: text, codes, boundary."""
        return self.boundary + 1

    @property
    def audio_begin(self) -> int:
        """Precedes the user's audio."""
        return self.num_output

    @property
    def audio_end(self) -> int:
        """Follows the user's audio."""
        return self.num_output + 1

    @property
    def num_input(self) -> int:
        """Ids that have an embedding: all of `num_output` and the two marks around audio."""
        return self.num_output + 2

    @property
    def num_speech_input(self) -> int:
        """Rows of the speech embedding: codes, boundary, and the two marks around audio."""
        return self.num_input - self.text_size

    @property
    def num_speech_output(self) -> int:
        """Rows of the speech head: codes and boundary."""
        return self.num_output - self.text_size

    @property
    def audio_slot(self) -> int:
        """Sentinel of a position that an adapter frame fills; beyond every table on purpose."""
        return self.num_input

    def is_text(self, ids: Ids) -> Ids:
        """True where the id is text."""
        return (ids >= 0) & (ids < self.text_size)  # type: ignore[return-value]

    def is_speech(self, ids: Ids) -> Ids:
        """True where the id is a speech code or the boundary."""
        return (ids >= self.text_size) & (ids < self.num_output)  # type: ignore[return-value]

    def is_slot(self, ids: Ids) -> Ids:
        """True where an adapter frame belongs."""
        return ids == self.audio_slot  # type: ignore[return-value]

    def code_to_id(self, codes: Ids) -> Ids:
        """Speech codes (or rows of the speech tables) to joint ids."""
        return codes + self.text_size

    def id_to_code(self, ids: Ids) -> Ids:
        """Joint ids of speech to codes, which are also the rows of the speech embedding and of the speech head."""
        return ids - self.text_size
