"""A tiny random model with its tokenizer and configuration, and a list of noise to decode."""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from osum_echat.audio.io import write_wav
from osum_echat.config import DataConfig, FlowRun, RunConfig, SourceConfig, TrainConfig, VocoderRun, save_config
from osum_echat.config_token2wav import EstimatorConfig, FlowConfig, MelConfig, TokenEncoderConfig, VocoderConfig
from osum_echat.model.build import build_model
from osum_echat.model.echat import EChat
from osum_echat.text.prompts import load_prompts
from osum_echat.text.tags import ALL_TAGS
from osum_echat.text.tokenizer import train_sentencepiece
from osum_echat.token2wav.flow import Flow
from osum_echat.token2wav.vocoder_training import VocoderTraining

SECONDS = (0.5, 1.1, 0.3, 0.8, 0.4)


@pytest.fixture(scope="session")
def run_config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    path = tmp_path_factory.mktemp("tokenizer") / "text.model"
    prompts = load_prompts("mini")
    train_sentencepiece([*prompts.texts(), "open the door", "the light is on"] * 3, path, 420, [*ALL_TAGS, *prompts.symbols()])
    small = {"num_layers": 1, "num_heads": 2, "ffn_width": 32}
    return RunConfig.model_validate(
        {
            "model": {
                "encoder": {**small, "width": 16},
                "adapter": {**small, "dropout": 0.0},
                "llm": {**small, "kind": "qwen2", "vocab_size": 440, "width": 16, "num_layers": 2, "num_kv_heads": 1},
                "speech": {"codebook_size": 8},
            },
            "tokenizer": {"kind": "sentencepiece", "path": str(path)},
            "prompts": "mini",
            "data": {"train": [{"list": "unused"}]},
            "train": {"max_steps": 1},
        }
    )


@pytest.fixture(scope="session")
def model(run_config: RunConfig) -> EChat:
    torch.manual_seed(0)
    model = build_model(run_config.model).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)  # fresh weights answer every prompt alike; larger ones tell them apart
    return model


@pytest.fixture(scope="session")
def noise_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    lines = []
    for at, seconds in enumerate(SECONDS):
        write_wav(folder / f"u{at}.wav", rng.normal(0, 0.1 * (at + 1), int(16000 * seconds)).astype(np.float32).clip(-1, 1))
        lines.append(
            json.dumps({"key": f"u{at}", "wav": f"u{at}.wav", "txt": "open the door", "gender": "male", "age": 30, "speaker": f"s{at % 2}"})
        )
    lines.insert(2, json.dumps({"key": "gone", "wav": "gone.wav", "txt": "the light", "gender": "female"}))
    (folder / "data.list").write_text("\n".join([*lines, "{broken"]) + "\n")
    return folder / "data.list"


@pytest.fixture(scope="session")
def run_dir(run_config: RunConfig, model: EChat, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_config(run_config, folder / "train.yaml")
    torch.save(model.state_dict(), folder / "final.pt")
    return folder


@pytest.fixture(scope="session")
def token2wav_runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Directories `flow` and `vocoder` with random weights, for a codebook of the given size."""

    def write_run(folder: Path, cfg: FlowRun | VocoderRun, model: torch.nn.Module) -> None:
        folder.mkdir()
        save_config(cfg, folder / "train.yaml")
        torch.save(model.state_dict(), folder / "final.pt")

    @lru_cache
    def make(codebook_size: int) -> Path:
        folder, mel = tmp_path_factory.mktemp("token2wav"), MelConfig(num_mels=8)
        common = {"mel": mel, "data": DataConfig(train=[SourceConfig(list="none")]), "train": TrainConfig(max_steps=1)}
        encoder = TokenEncoderConfig(width=16, num_layers=1, num_heads=2, ffn_width=16)
        estimator = EstimatorConfig(channels=[16], num_blocks=1, num_mid_blocks=0, num_heads=2, head_dim=8)
        flow = FlowConfig(codebook_size=codebook_size, num_mels=8, speaker_width=4, encoder=encoder, estimator=estimator)
        vocoder = VocoderConfig(
            causal=True, channels=16, upsample_rates=[8, 5], upsample_kernels=[16, 9], resblock_kernels=[3], resblock_dilations=[1],
            source_kernels=[3, 3], istft_n_fft=48, istft_hop=12, f0_channels=8, num_harmonics=2,
        )  # fmt: skip
        torch.manual_seed(0)
        write_run(folder / "flow", FlowRun(model=flow, **common), Flow(flow))
        cfg = VocoderRun(model=vocoder, **common)
        write_run(folder / "vocoder", cfg, VocoderTraining(cfg))
        return folder

    return make
