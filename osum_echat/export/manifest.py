"""What stands in ``bundle.json`` beside versions and hashes, and the small files of a bundle: tokenizer, prompts, mel filters.

Constants come from where eager code has them; nothing is written by hand. The meaning of every field: docs/export.md.
"""

from pathlib import Path
from typing import Any

import torch

from osum_echat.audio.features import HOP, MIN_SAMPLES, N_FFT, SAMPLE_RATE, LogMel
from osum_echat.config import RunConfig, dump_config
from osum_echat.export.layout import describe_choice, describe_tasks, describe_vocab
from osum_echat.export.vad import CHUNK, CONTEXT, STATE_WIDTH
from osum_echat.generate.requests import RequestEncoder
from osum_echat.tasks.task import TASKS
from osum_echat.text.prompts import load_prompts, prompts_file
from osum_echat.token2wav.stream import Token2wav

_WINDOW, _FILTERS, _PROMPTS = "mel_window.f32", "mel_filters.f32", "prompts.yaml"


def describe(config: RunConfig, voice: Token2wav, dtype: str, device: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """(fields of ``bundle.json``, contents of files by their name)."""
    encoder = RequestEncoder(config, next(iter(TASKS.values())))
    tokenizer_file, prompts = Path(config.tokenizer.path), load_prompts(config.prompts)
    tokenizer_name = f"tokenizer{tokenizer_file.suffix}"
    log_mel = LogMel(config.features.num_mels)
    info = {
        "device": device,
        "dtype": dtype,
        "vocab": describe_vocab(encoder.vocab),
        "tokenizer": {
            "kind": config.tokenizer.kind,
            "file": tokenizer_name,
            "vocab_size": encoder.tokenizer.vocab_size,
            "eos": encoder.tokenizer.eos_id,
            "pad": encoder.tokenizer.pad_id,
        },
        "prompts": {"file": _PROMPTS, "name": prompts.name, "version": prompts.version, "sha256": prompts.sha256},
        "features": {
            "sample_rate": SAMPLE_RATE,
            "n_fft": N_FFT,
            "hop": HOP,
            "num_mels": config.features.num_mels,
            "min_samples": MIN_SAMPLES,
            "window": {"file": _WINDOW, "shape": list(log_mel.window.shape)},
            "filters": {"file": _FILTERS, "shape": list(log_mel.filters_KM.shape)},
        },
        "llm": {name: getattr(config.model.llm, name) for name in ("width", "num_layers", "num_kv_heads", "head_dim", "vocab_size")},
        "limits": {"min_seconds": config.data.filter.min_seconds, "max_context": config.data.filter.max_sequence},
        **describe_choice(config, encoder),
        "tasks": describe_tasks(config, encoder.tokenizer, encoder.vocab),
        "token2wav": _token2wav(voice),
        "vad": {"sample_rate": SAMPLE_RATE, "chunk": CHUNK, "context": CONTEXT, "state_width": STATE_WIDTH},
        "config": dump_config(config),
    }
    files = {
        tokenizer_name: tokenizer_file.read_bytes(),
        _PROMPTS: prompts_file(config.prompts).read_bytes(),
        _WINDOW: _raw(log_mel.window),
        _FILTERS: _raw(log_mel.filters_KM),
    }
    return info, files


def _token2wav(voice: Token2wav) -> dict[str, Any]:
    cfg, source, sampling = voice.flow.cfg, voice.vocoder.m_source, voice.sampling
    return {
        "sample_rate": voice.sample_rate,
        "hop": voice.vocoder.hop,
        "num_mels": cfg.num_mels,
        "frames_per_token": int(cfg.frames_per_token),
        "token_rate_hz": cfg.token_rate_hz,
        "lookahead_tokens": cfg.lookahead_tokens,
        "first_hop_tokens": sampling.first_hop_tokens,
        "hop_tokens": sampling.hop_tokens,
        "num_sines": source.num_sines,
        "sampling": sampling.model_dump(),
        "flow": cfg.model_dump(mode="json"),
    }


def _raw(tensor: torch.Tensor) -> bytes:
    """Little-endian float32, row by row."""
    return tensor.contiguous().numpy().astype("<f4").tobytes()
