"""RunConfig to Trainer: model, weights to start from, data, objective; one builder per noun."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import nn

from osum_echat.config import AnyRun, FlowRun, RunConfig, SpeechTokenizerRun, VocoderRun, load_run
from osum_echat.data.pipeline import Loader, make_loader
from osum_echat.data.steps import Encoder, SequenceEncoder, TranscriptEncoder
from osum_echat.errors import CheckpointError, ConfigError, DataError
from osum_echat.model.build import build_model, parameter_report, set_trainable
from osum_echat.token2wav.flow import Flow
from osum_echat.token2wav.flow_training import FlowEncoder, largest_flow_batch
from osum_echat.token2wav.quantizer import VectorQuantizer
from osum_echat.token2wav.speech_tokenizer import SpeechTokenizer, build_speech_tokenizer
from osum_echat.token2wav.stream import Token2wav
from osum_echat.token2wav.vocoder import Vocoder
from osum_echat.token2wav.vocoder_training import VocoderEncoder, VocoderTraining, largest_vocoder_batch
from osum_echat.train.checkpoint import RunDir, load_weights
from osum_echat.train.engine import Engine
from osum_echat.train.objective import EChatObjective, Objective, SpeechTokenizerObjective, TrainBatch
from osum_echat.train.objective_token2wav import FlowObjective, VocoderObjective
from osum_echat.train.preflight import worst_case_batch
from osum_echat.train.trainer import LoaderFactory, Trainer

_VECTORS_PER_CODE = 40  # that k-means sees


class Arch(NamedTuple):
    """What differs between the models that can be trained: builders, each from the run's configuration."""

    model: Callable[[Any], nn.Module]
    encoder: Callable[[Any], Encoder]
    objective: Callable[[Any], Objective]
    largest_batch: Callable[[Any], TrainBatch]


def _sequence_encoder(cfg: RunConfig) -> SequenceEncoder:
    speech, encoder, llm = cfg.model.speech, cfg.model.encoder, cfg.model.llm
    return SequenceEncoder(cfg.tokenizer, cfg.prompts, speech.codebook_size, encoder.num_mels, llm.vocab_size, cfg.interleave, cfg.think)


ARCHS: dict[str, Arch] = {
    "echat": Arch(
        model=lambda cfg: build_model(cfg.model),
        encoder=_sequence_encoder,
        objective=lambda cfg: EChatObjective(cfg.model.ctc.weight if cfg.model.ctc else 0.0, cfg.think.distill),
        largest_batch=worst_case_batch,
    ),
    "speech_tokenizer": Arch(
        model=lambda cfg: build_speech_tokenizer(cfg.model),
        encoder=lambda cfg: TranscriptEncoder(cfg.model.encoder.num_mels),
        objective=lambda cfg: SpeechTokenizerObjective(),
        largest_batch=worst_case_batch,
    ),
    "flow": Arch(
        model=lambda cfg: Flow(cfg.model),
        encoder=lambda cfg: FlowEncoder(cfg.model, cfg.mel),
        objective=lambda cfg: FlowObjective(cfg.model.prior_weight),
        largest_batch=largest_flow_batch,
    ),
    "vocoder": Arch(
        model=VocoderTraining,
        encoder=lambda cfg: VocoderEncoder(cfg.mel, cfg.segment_frames),
        objective=lambda cfg: VocoderObjective(cfg.loss.adversarial is not None),
        largest_batch=largest_vocoder_batch,
    ),
}


def make_loaders(cfg: AnyRun, engine: Engine) -> LoaderFactory:
    """Loaders of the run's lists for this rank."""
    encoder = ARCHS[cfg.model.arch].encoder(cfg)

    def make(split: str, epoch: int, state: dict[str, Any] | None) -> Loader:
        is_train = split == "train"
        return make_loader(
            cfg.data.train if is_train else cfg.data.dev, cfg.data, encoder, max_tokens=cfg.train.max_tokens,
            max_batch_seconds=cfg.train.max_batch_seconds, seed=cfg.seed, epoch=epoch, rank=engine.rank, world=engine.world,
            train=is_train, state=state,
        )  # fmt: skip

    return make


def make_model(cfg: AnyRun, init: str | None, console: Console) -> nn.Module:
    """The model with random or `init` weights and its trainable part; the same on every rank."""
    torch.manual_seed(cfg.seed)
    model = ARCHS[cfg.model.arch].model(cfg)
    set_trainable(model, cfg.train.trainable)
    if init:
        report = load_weights(model, RunDir(init).path, cfg.train.init_allow_missing)
        console.print(f"{init}: {report}", style="yellow" if report.unexpected else None, markup=False, highlight=False, soft_wrap=True)
    return model


def load_speech_tokenizer(config: str | Path, checkpoint: str | Path, device: str = "cpu") -> SpeechTokenizer:
    """A trained tokenizer, ready to encode, from the `train.yaml` and the weights of its run."""
    cfg = load_run(config)
    if not isinstance(cfg, SpeechTokenizerRun):
        raise ConfigError(f"{config}: model.arch is {cfg.model.arch}, expected speech_tokenizer: give the train.yaml of its training")
    model = build_speech_tokenizer(cfg.model)
    load_weights(model, Path(checkpoint))
    return model.to(device).eval()


def load_token2wav(flow_dir: str | Path, vocoder_dir: str | Path, device: str = "cpu") -> Token2wav:
    """Flow and vocoder of two finished runs (`train.yaml` and `final.pt` of each), ready to speak.

    Raises:
        ConfigError: another model in one of the directories, or a vocoder of another mel; CheckpointError: no such weights.
    """
    flow_cfg, vocoder_cfg = load_run(Path(flow_dir) / "train.yaml"), load_run(Path(vocoder_dir) / "train.yaml")
    if not isinstance(flow_cfg, FlowRun) or not isinstance(vocoder_cfg, VocoderRun):
        archs = flow_cfg.model.arch, vocoder_cfg.model.arch
        raise ConfigError(f"expected a flow in {flow_dir} and a vocoder in {vocoder_dir}, got model.arch {archs[0]} and {archs[1]}")
    if flow_cfg.mel != vocoder_cfg.mel:
        raise ConfigError(f"the vocoder in {vocoder_dir} reads other mel than the flow in {flow_dir} gives: their sections mel differ")
    flow, vocoder = Flow(flow_cfg.model), Vocoder(vocoder_cfg.model, vocoder_cfg.mel)
    load_weights(flow, Path(flow_dir) / "final.pt")
    load_weights(vocoder, Path(vocoder_dir) / "final.pt", part="vocoder.")
    vocoder.fold_weight_norm()
    return Token2wav(flow.to(device).eval(), vocoder.to(device).eval())


def check_empty(run_dir: RunDir) -> None:
    """A run that does not resume must not write over the checkpoints of another."""
    if run_dir.steps():
        raise CheckpointError(
            f"{run_dir.path} already holds step_{run_dir.steps()[-1]}.pt. Go on from it with --resume auto, or choose another --dir."
        )


def start_codebook(model: nn.Module, cfg: AnyRun, console: Console) -> None:
    """Puts the codebook of a speech tokenizer that has not been started yet into what its encoder makes of the training data.

    Every rank reads the same data and comes to the same codebook (the engine gives all that of the first in any case).
    """
    if not isinstance(model, SpeechTokenizer) or not isinstance(model.quantizer, VectorQuantizer) or model.quantizer.is_started:
        return
    latents: list[torch.Tensor] = []
    wanted, found = _VECTORS_PER_CODE * model.codebook_size, 0
    model.eval()
    with torch.inference_mode():
        for batch in make_loaders(cfg, Engine(torch.device("cpu")))("train", 0, None):
            latents.append(model.latents(batch.mel_BFM, batch.mel_lens_B.tolist())[0])
            found += len(latents[-1])
            if found >= wanted:
                break
    if found < model.codebook_size:
        message = f"the training lists give {found} tokens, a codebook of {model.codebook_size} needs as many at least"
        raise DataError(message, "too_little_data")
    console.print(f"codebook: {model.codebook_size} clusters of {found} tokens of the training data", markup=False, highlight=False)
    model.quantizer.start(torch.cat(latents), cfg.seed)


def assemble(cfg: AnyRun, run_dir: RunDir, engine: Engine, console: Console, resume: bool) -> Trainer:
    """A trainer at the start of the run, or at its last checkpoint."""
    step = run_dir.resumable() if resume else None
    model = make_model(cfg, cfg.train.init if step is None else None, console)
    if step is None:
        start_codebook(model, cfg, console)
    console.print(parameter_report(model), markup=False, highlight=False)
    objective = ARCHS[cfg.model.arch].objective(cfg)
    trainer = Trainer(model, cfg, make_loaders(cfg, engine), engine, run_dir, objective, console)
    if step is not None:
        trainer.resume()
        console.print(f"resumed from {run_dir.weights(step)}", markup=False, highlight=False, soft_wrap=True)
    return trainer


def describe_plan(cfg: AnyRun, engine: Engine) -> str:
    """What is going to happen, in a few lines."""
    train, world = cfg.train, engine.world
    ends = [f"{n} {what}" for n, what in ((train.max_epochs, "epochs"), (train.max_steps, "steps")) if n]
    lists = ", ".join(f"{source.list} ({source.kind}, weight {source.weight:g})" for source in cfg.data.train)
    muon = train.optim.muon
    rates = f"lr {train.optim.lr:g}"
    if muon:
        rates += f" (Muon, {', '.join(muon.prefixes)}: {train.optim.lr * muon.lr_scale:g})"
    lines = [
        f"data: {lists}; dev: {', '.join(source.list for source in cfg.data.dev) or 'none'}",
        f"step: {world} process{'es' if world > 1 else ''} x {train.accum_steps} micro-batches of at most {train.max_tokens} positions",
        f"run: {' or '.join(ends)}; {rates} {train.schedule.kind}, {train.dtype} on {engine.device}, clip {train.clip:g}",
    ]
    return "\n".join(lines)
