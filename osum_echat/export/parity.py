"""Is an exported bundle the model it was made of? Every part against the eager code, then whole dialogues through both.

A difference is measured against the largest value of what was expected. float32 parts run the same operations and may differ by rounding
alone; bfloat16 ones may round in other places where the eager model takes other rows together. Greedy answers must be the same ids.

Shape legend: T positions, D width, F mel frames, M mel bins, S samples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest

import numpy as np
import torch
from torch import Tensor

from osum_echat.audio.features import SAMPLE_RATE
from osum_echat.config import RunConfig
from osum_echat.errors import UserError
from osum_echat.export import jit
from osum_echat.export.bundle import Bundle
from osum_echat.export.runner import BundleLlm, BundleModel, bundle_session, bundle_voice
from osum_echat.export.vad import CHUNK, CONTEXT, STATE_WIDTH, vad_file
from osum_echat.generate.reply import Reply
from osum_echat.generate.requests import GREEDY, RequestEncoder
from osum_echat.generate.session import DialogueSession
from osum_echat.generate.voice import Hops
from osum_echat.model.echat import EChat
from osum_echat.tasks.task import TASKS
from osum_echat.token2wav.flow_stream import flush, init_state, push
from osum_echat.token2wav.stream import Token2wav
from osum_echat.token2wav.vocoder import Vocoder
from osum_echat.utterance import Utterance

TOLERANCE = {"float32": 2e-5, "bfloat16": 2e-2}
DIALOGUES = ("asr_p", "s2s_interleaved", "s2s_interleaved_think")
_LONGEST = {"max_new": 40, "max_speech": 80, "max_think": 60}  # of an answer
_MEL_FRAMES = (1, 2, 37, 100, 411)
_PROMPTS, _NUM_STEPS, _SECOND_TURN = (5, 12, 9), 3, 4  # positions of each row, steps of all, positions of the row that goes on
_PUSHES = (4, 18, 1, 25, 18)  # tokens
_PIECES = (2, 1, 9, 36)  # mel frames


@dataclass(frozen=True)
class Check:
    """One comparison: so many numbers or ids, their largest difference, and how much of it is rounding."""

    part: str
    what: str
    num: int
    absolute: float
    relative: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """False also for a difference that is no number."""
        return self.relative <= self.tolerance


def compare(part: str, what: str, got: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float) -> Check:
    """Tensors one by one; another shape counts as an infinite difference."""
    if [x.shape for x in got] != [x.shape for x in wanted]:
        return Check(part, what, 0, float("inf"), float("inf"), tolerance)
    flat, wanted_flat = (torch.cat([x.detach().double().cpu().flatten() for x in tensors]) for tensors in (got, wanted))
    largest = float((flat - wanted_flat).abs().max())
    return Check(part, what, flat.numel(), largest, largest / max(float(wanted_flat.abs().max()), 1e-9), tolerance)


def compare_ids(what: str, got: Sequence[int], wanted: Sequence[int]) -> Check:
    """Ids must be the same; the difference is how many are not."""
    wrong = sum(a != b for a, b in zip_longest(got, wanted))
    return Check("session", what, len(wanted), wrong, wrong / max(len(wanted), 1), 0.0)


def require(checks: Sequence[Check]) -> None:
    """UserError names the parts that are not what was exported."""
    failed = [f"{check.part} ({check.what}: {check.relative:.1e}, at most {check.tolerance:.0e})" for check in checks if not check.passed]
    if failed:
        raise UserError(f"the exported model is not the eager one, no bundle was written: {'; '.join(failed)}")


def made_up_questions() -> list[Utterance]:
    """Recordings to compare answers to where no list is at hand: noise that swells and fades."""
    rng = np.random.default_rng(0)
    questions = []
    for number, seconds in enumerate((0.6, 1.7, 3.1)):
        num = int(seconds * SAMPLE_RATE)
        loudness_S = 0.1 * np.sin(np.arange(num) * (2 * np.pi * (number + 2) / SAMPLE_RATE)) ** 2
        samples_S = (loudness_S * rng.standard_normal(num)).astype(np.float32)
        questions.append(Utterance(f"noise{number}", waveform_S=samples_S))
    return questions


@torch.no_grad()
def check_parts(bundle: Bundle, model: EChat, voice: Token2wav) -> Iterator[Check]:
    """Every part for itself, on random input of several lengths."""
    rng = torch.Generator().manual_seed(0)
    tolerance = TOLERANCE[bundle.info["dtype"]]
    yield _check_encoder(bundle, model, tolerance, rng)
    yield from _check_llm(bundle, model, tolerance, rng)
    yield from _check_sound(bundle, voice, rng)
    yield _check_vad(bundle, rng)


def _check_encoder(bundle: Bundle, model: EChat, tolerance: float, rng: torch.Generator) -> Check:
    weight, num_mels = model.llm.embed.weight, model.cfg.encoder.num_mels
    mels = [torch.randn(frames, num_mels, generator=rng).to(weight.device) for frames in _MEL_FRAMES]
    wanted = [model.adapter(*model.encoder(mel_FM.unsqueeze(0).to(weight), [len(mel_FM)]))[0] for mel_FM in mels]
    return compare("encoder", f"{len(mels)} lengths", [bundle.encoder(mel_FM) for mel_FM in mels], wanted, tolerance)


def _check_llm(bundle: Bundle, model: EChat, tolerance: float, rng: torch.Generator) -> Iterator[Check]:
    """All rows at once through the part, each by itself through the eager model."""
    part, llm, vocab = BundleModel(bundle), BundleLlm(bundle), bundle.info["vocab"]

    def draw(num: int) -> Tensor:
        return torch.randint(vocab["num_input"], (num,), generator=rng).to(model.llm.embed.weight.device)

    capacity = max(_PROMPTS) + _NUM_STEPS + _SECOND_TURN
    rows = [draw(length) for length in _PROMPTS]
    state, states = llm.init_state(len(rows), capacity), [model.llm.init_state(1, capacity) for _ in rows]
    yield compare("llm", "embed_ids", [part.embed_ids(row) for row in rows], [model.embed_ids(row) for row in rows], tolerance)
    hidden = [llm.extend(part.embed_ids(row), state, at) for at, row in enumerate(rows)]
    wanted = [model.llm.extend(model.embed_ids(row), own)[-1:] for row, own in zip(rows, states, strict=True)]
    yield compare("llm", "extend: prompts", hidden, wanted, tolerance)
    hidden, wanted = [], []
    for _ in range(_NUM_STEPS):
        ids_B = draw(len(rows))
        rows = [torch.cat((row, ids_B[at : at + 1])) for at, row in enumerate(rows)]
        hidden.append(llm.step(part.embed_ids(ids_B), state))
        wanted.append(torch.cat([model.llm.step(model.embed_ids(ids_B[at : at + 1]), own) for at, own in enumerate(states)]))
    yield compare("llm", f"step: {len(rows)} rows of different lengths", hidden, wanted, tolerance)
    more_T = draw(_SECOND_TURN)
    whole_TD = model.embed_ids(torch.cat((rows[1], more_T)))
    hidden, wanted = [llm.extend(part.embed_ids(more_T), state, 1)], [model.llm.extend(whole_TD, model.llm.init_state(1, capacity))[-1:]]
    yield compare("llm", "extend: a second turn", hidden, wanted, tolerance)
    yield compare("llm", "text_logits", [part.text_logits(wanted[0])], [model.text_logits(wanted[0])], tolerance)
    yield compare("llm", "speech_logits", [part.speech_logits(wanted[0])], [model.speech_logits(wanted[0])], tolerance)


def _check_sound(bundle: Bundle, voice: Token2wav, rng: torch.Generator) -> Iterator[Check]:
    tolerance = TOLERANCE["float32"]  # in which token2wav always runs
    tokens_T = torch.randint(voice.flow.cfg.codebook_size, (sum(_PUSHES),), generator=rng)
    exported = bundle_voice(bundle)
    mels, wanted = _mels(exported, tokens_T), _mels(voice, tokens_T)
    yield compare("flow", f"{len(_PUSHES)} pushes", mels, wanted, tolerance)
    mel_1FM = torch.cat(wanted)[: sum(_PIECES)].unsqueeze(0)
    samples, wanted = _vocoded(exported.vocoder, mel_1FM), _vocoded(voice.vocoder, mel_1FM)
    yield compare("vocoder", f"{len(_PIECES)} pieces", samples, wanted, tolerance)


def _mels(voice: Token2wav, tokens_T: Tensor) -> list[Tensor]:
    state, mels = init_state(voice.flow, voice.voice, torch.Generator().manual_seed(1), voice.sampling), []
    for piece_T in tokens_T.split(_PUSHES):
        mel_FM, state = push(voice.flow, piece_T, state)
        mels.append(mel_FM)
    return [*mels, flush(voice.flow, state)]


def _vocoded(vocoder: Vocoder, mel_1FM: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    state, samples = vocoder.init_state([generator]), []
    for begin, end in pairwise(np.cumsum((0, *_PIECES)).tolist()):
        samples_1S, state = vocoder.push(mel_1FM[:, begin:end], state)
        samples.append(samples_1S)
    return [*samples, vocoder.flush(state)]


def _check_vad(bundle: Bundle, rng: torch.Generator) -> Check:
    device = bundle.info["device"]
    stateful = jit.load(vad_file(), device)
    context, state = torch.zeros(1, CONTEXT, device=device), torch.zeros(2, 1, STATE_WIDTH, device=device)
    got, wanted = [], []
    for chunk in range(20):
        samples_1S = (0.02 * chunk * torch.randn(1, CHUNK, generator=rng)).to(device)
        wanted.append(stateful(samples_1S, SAMPLE_RATE)[0])
        speech, context, state = bundle.vad(samples_1S, context, state)
        got.append(speech)
    return compare("vad", "20 chunks", got, wanted, TOLERANCE["float32"])


def check_dialogues(bundle: Bundle, config: RunConfig, model: EChat, voice: Token2wav, questions: Sequence[Utterance]) -> Iterator[Check]:
    """Greedy answers of the bundle, and how they sound, against those of the eager session: one dialogue for each of DIALOGUES."""
    hops = Hops(voice.sampling.first_hop_tokens, voice.sampling.hop_tokens)
    for name in DIALOGUES:
        encoder, own = RequestEncoder(config, TASKS[name]), RequestEncoder(bundle.config, TASKS[name])
        plan, own_plan = (one.plan(GREEDY, GREEDY, **_LONGEST) for one in (encoder, own))
        eager = DialogueSession(model, encoder, plan, synthesizer=voice, hops=hops)
        exported = bundle_session(bundle, own, own_plan)
        ids: tuple[list[int], list[int]] = [], []
        sound: tuple[list[Tensor], list[Tensor]] = [], []
        for question in questions:
            for side, session in enumerate((exported, eager)):
                reply = Reply(session.reply(question))
                ids[side].extend(session.ids)
                sound[side].append(torch.from_numpy(reply.samples_S))
        yield compare_ids(f"{name}: ids of {len(questions)} turns", *ids)
        if TASKS[name].speaks:
            yield compare("session", f"{name}: samples", *sound, TOLERANCE["float32"])
