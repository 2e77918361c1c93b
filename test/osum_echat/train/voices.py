"""Recordings of a gliding voice, lists of them, and runs of a tiny flow and vocoder over them."""

import json

import numpy as np
import yaml

from osum_echat.audio.io import write_wav

MEL = {"sample_rate": 6000, "num_mels": 20, "n_fft": 240, "hop": 60, "high_hz": 2500.0}
FLOW = {
    "arch": "flow",
    "codebook_size": 12,
    "sample_rate": 6000,
    "hop": 60,
    "num_mels": 20,
    "speaker_width": 4,
    "left_tokens": 12,
    "prior_weight": 0.5,
    "encoder": {"width": 16, "num_layers": 1, "num_heads": 2, "ffn_width": 24, "dropout": 0.0},
    "estimator": {"channels": [16], "num_blocks": 1, "num_mid_blocks": 1, "num_heads": 2, "head_dim": 8},
    "sampling": {"num_steps": 3, "first_hop_tokens": 8, "hop_tokens": 10},
}
VOCODER = {
    "arch": "vocoder",
    "causal": True,
    "channels": 16,
    "upsample_rates": [5, 3],
    "upsample_kernels": [11, 7],
    "resblock_kernels": [3],
    "resblock_dilations": [1, 3],
    "source_kernels": [3, 3],
    "num_harmonics": 5,
    "f0_channels": 16,
}
ADVERSARIAL = {"periods": [2, 3], "num_scales": 1, "channels": 128}
TRAIN = {
    "max_steps": 8, "accum_steps": 1, "optim": {"lr": 3e-3}, "schedule": {"kind": "constant"}, "clip": 100.0, "save_every": 4,
    "eval_every": 4, "log_every": 4, "log_keys": True,
}  # fmt: skip


def voice(seconds, hz, rate=MEL["sample_rate"]):
    """A gliding voice over the noise of a room."""
    time_S = np.arange(int(seconds * rate)) / rate
    hz_S = hz * 2 ** (0.2 * np.sin(2 * np.pi * 1.3 * time_S))
    phase_S = 2 * np.pi * np.cumsum(hz_S) / rate
    samples_S = sum(np.exp(-h / 3) * np.sin(h * phase_S) for h in range(1, 9)) * 0.3
    return (samples_S + 0.003 * np.random.default_rng(0).standard_normal(len(samples_S))).astype(np.float32)


def make_rows(folder, num):
    """Rows of 0.6 to 1.6 s; tokens count up from a start that depends on the pitch."""
    rows = []
    for index in range(num):
        seconds, pitch = 0.6 + 0.04 * (index * 7 % 26), index % 4
        write_wav(folder / f"v{index}.wav", voice(seconds, 110 + 30 * pitch), MEL["sample_rate"])
        tokens = [(3 * pitch + place) % 12 for place in range(round(seconds * 25))]
        row = {"key": f"v{index}", "answer_wav": str(folder / f"v{index}.wav"), "txt": "a", "speech_token": tokens}
        rows.append({**row, "task": "s2s" if index % 3 == 0 else "tts"})
    return rows


def write_list(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_runs(folder):
    """flow.yaml and vocoder.yaml in ``folder``, with their lists."""
    rows = make_rows(folder, 16)
    train, dev = write_list(folder / "train.list", rows[:12]), write_list(folder / "dev.list", rows[12:])
    data = {"train": [{"list": str(train)}], "dev": [{"list": str(dev)}], "num_workers": 0, "window": 6}
    flow = {"mel": MEL, "model": FLOW, "data": data, "train": {**TRAIN, "max_tokens": 90}}
    loss = {"stft_sizes": [64, 128], "mel_weight": 5.0}
    vocoder = {"mel": MEL, "model": VOCODER, "segment_frames": 40, "loss": loss, "data": data, "train": {**TRAIN, "max_tokens": 120}}
    for name, values in (("flow", flow), ("vocoder", vocoder)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder
