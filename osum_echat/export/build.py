"""From eager models to a bundle: export the parts, write them, load them again, compare, and only then give the folder its name."""

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

from osum_echat.config import RunConfig
from osum_echat.export import jit
from osum_echat.export.bundle import Bundle, write
from osum_echat.export.language import export_encoder, export_llm
from osum_echat.export.manifest import describe
from osum_echat.export.parity import Check, check_dialogues, check_parts, require
from osum_echat.export.sound import check_causal, export_flow, export_vocoder
from osum_echat.export.vad import export_vad, vad_file
from osum_echat.model.echat import EChat
from osum_echat.token2wav.stream import Token2wav
from osum_echat.utterance import Utterance


def export_bundle(
    out: Path,
    config: RunConfig,
    model: EChat,
    voice: Token2wav,
    questions: Sequence[Utterance],
    show: Callable[[Check], None] = lambda check: None,
) -> None:
    """Write the bundle of a model (``language.ready_model``) and its voice.

    Args:
        questions: recordings that the bundle and the eager model have to answer alike.
        show: called with every comparison.

    Raises:
        UserError: the bundle differs from the eager model, the voice cannot stream, ``out`` holds something else, Python is too new.
    """
    check_causal(voice)
    stateful_vad = jit.load(vad_file())
    weight = model.llm.embed.weight
    info, files = describe(config, voice, str(weight.dtype).removeprefix("torch."), str(weight.device))
    parts = {
        "encoder": export_encoder(model),
        "llm": export_llm(model),
        "flow": export_flow(voice),
        "vocoder": export_vocoder(voice.vocoder),
        "vad": export_vad(stateful_vad),
    }

    def check(bundle: Bundle) -> None:
        checks = []
        with jit.as_written():
            for one in chain(check_parts(bundle, model, voice), check_dialogues(bundle, config, model, voice, questions)):
                show(one)
                checks.append(one)
        require(checks)

    write(out, parts, files, info, check)
