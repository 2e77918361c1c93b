"""The exported ear for silence: silero VAD (https://github.com/snakers4/silero-vad, MIT) at 16 kHz, with its state handed in and out.

The package ships a TorchScript file that keeps its state inside; the network within it does not, and that is what ``vad.pt`` holds.

Shape legend: B streams, S samples of a chunk, C samples of context, H width of the state.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule

from osum_echat.errors import UserError
from osum_echat.export import jit

CHUNK = 512
CONTEXT = 64
STATE_WIDTH = 128


class VadPart(nn.Module):
    """The method of ``vad.pt``; a stream starts with zeros."""

    def __init__(self, network: ScriptModule, context: int) -> None:
        super().__init__()
        self.network, self.context = network, context

    def forward(self, samples_BS: Tensor, context_BC: Tensor, state_2BH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(probability of speech (B,), next context, next state) of the next 512 samples."""
        x_BS = torch.cat((context_BC, samples_BS), 1)
        speech_B1, state_2BH = self.network(x_BS, state_2BH)
        return speech_B1[:, 0], x_BS[:, -self.context :], state_2BH


def vad_file() -> Path:
    """Where the package silero-vad keeps its TorchScript file; UserError when it is not installed."""
    spec = importlib.util.find_spec("silero_vad")
    places = spec.submodule_search_locations if spec else None
    path = Path(places[0]) / "data" / "silero_vad.jit" if places else None
    if path is None or not path.is_file():
        raise UserError("the package silero-vad is not installed, whose network the bundle holds: pip install silero-vad")
    return path


def export_vad(stateful: ScriptModule) -> ScriptModule:
    """:class:`VadPart` out of the package's module (loaded from :func:`vad_file`)."""
    network: Any = stateful._model
    return jit.script(VadPart(network, CONTEXT))
