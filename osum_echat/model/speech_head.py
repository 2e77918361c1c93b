"""Speech side of the joint id space: input embedding of codes, boundary and user-audio wrappers; output head over codes and boundary.

Rows of the embedding, in order: ``codebook_size`` codes, the boundary, audio_begin, audio_end (see ``text/vocab.py``). The last two are
input only and have no row in the head.

Shape legend: T positions, D width, C codes + 1.
"""

from torch import Tensor, nn

from osum_echat.config import SpeechConfig

NUM_INPUT_ONLY = 2  # audio_begin, audio_end


def table_rows(ids_T: Tensor, num_text: int, num_speech: int) -> tuple[Tensor, Tensor, Tensor]:
    """(is text, row of the text table, row of the speech table) of joint ids; of the table an id is not from, some row. Scripts."""
    return ids_T < num_text, ids_T.clamp(0, num_text - 1), (ids_T - num_text).clamp(0, num_speech - 1)


class SpeechHead(nn.Module):
    """Embedding (codes + 3, D) and head (D -> codes + 1, with bias)."""

    def __init__(self, cfg: SpeechConfig, width: int) -> None:
        super().__init__()
        self.num_output = cfg.codebook_size + 1
        self.embed = nn.Embedding(self.num_output + NUM_INPUT_ONLY, width)
        self.head = nn.Linear(width, self.num_output)

    def forward(self, h_TD: Tensor) -> Tensor:
        return self.head(h_TD)
