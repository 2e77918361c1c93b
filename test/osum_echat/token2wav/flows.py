"""Tiny flows with random weights, of both variants, and inputs for them."""

import torch

from osum_echat.config_token2wav import EstimatorConfig, FlowConfig, FlowSamplingConfig, TokenEncoderConfig
from osum_echat.token2wav.flow import Flow, FlowBatch, Voice

SAMPLING = FlowSamplingConfig(num_steps=3, guidance=0.7, first_hop_tokens=8, hop_tokens=10)


def tiny_config(causal=True, **changes):
    values = {
        "causal": causal,
        "codebook_size": 50,
        "num_mels": 8,
        "speaker_width": 6,
        "left_tokens": 12,
        "encoder": TokenEncoderConfig(width=16, num_layers=2, num_heads=2, ffn_width=24),
        "estimator": EstimatorConfig(channels=[16] if causal else [16, 24], num_blocks=1, num_mid_blocks=1, num_heads=2, head_dim=8),
        "sampling": SAMPLING,
    }
    if not causal:
        values |= {"sample_rate": 22050, "hop": 256}
    return FlowConfig(**{**values, **changes})


def tiny_flow(causal=True, **changes):
    """Weights far enough from zero that every part of the model shows in the output."""
    torch.manual_seed(0)
    flow = Flow(tiny_config(causal, **changes)).eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(1.5)
        if flow.cfg.condition_std is not None:  # which starts with an estimator that says nothing
            flow.estimator.final_proj.weight.normal_(std=0.3)
    return flow


def tokens(length, seed=0):
    return torch.randint(50, (length,), generator=torch.Generator().manual_seed(seed))


def voice(flow, prompt_tokens=0, seed=0):
    draw = torch.Generator().manual_seed(100 + seed)
    speaker = torch.randn(6, generator=draw)
    if not prompt_tokens:
        return Voice(speaker)
    frames = int(prompt_tokens * flow.cfg.frames_per_token)
    return Voice(speaker, tokens(prompt_tokens, seed + 7), torch.randn(frames, 8, generator=draw) - 5.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def training_batch(flow, lens, seed=0):
    draw = torch.Generator().manual_seed(seed)
    frames = torch.tensor([int(n * flow.cfg.frames_per_token) for n in lens])
    return FlowBatch(
        torch.randint(50, (len(lens), max(lens)), generator=draw),
        torch.tensor(lens),
        torch.randn(len(lens), int(frames.max()), 8, generator=draw) * 2 - 5,
        frames,
        torch.randn(len(lens), 6, generator=draw),
    )
