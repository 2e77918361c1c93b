"""ModelConfig to model: the table of architectures, initialisation, presets, trainable groups, parameter report.

Left out: loading weights (``train/checkpoint.py``; foreign weights: ``model/weights.py``).
"""

from collections.abc import Iterable

import torch
from torch import nn

from osum_echat.config import AdapterConfig, EncoderConfig, LlmConfig, ModelConfig, SpeechConfig
from osum_echat.errors import ConfigError
from osum_echat.model.echat import EChat
from osum_echat.model.encoder import EncoderLayer, SpeechEncoder
from osum_echat.model.layers import LoraLinear
from osum_echat.model.llm import DecoderLayer

ARCHITECTURES = {"echat": EChat}
_GAIN = 0.64
_FRONT_GAIN = 2.0  # of the encoder's convolutions: log-mel is small (standard deviation 0.4), with less it drowns in the positions
LORA_GROUP = "lora"  # names every LoRA parameter in ``set_trainable``

_WHISPER_MEDIUM = EncoderConfig(num_mels=80, width=1024, num_layers=24, num_heads=16, ffn_width=4096)
_OSUM_ADAPTER = AdapterConfig(num_layers=4, num_heads=4, ffn_width=2560)
_QWEN25_3B = LlmConfig(
    kind="qwen2", vocab_size=151936, width=2048, num_layers=36, num_heads=16, num_kv_heads=2, head_dim=128, ffn_width=11008
)
_QWEN2_7B = LlmConfig(
    kind="qwen2", vocab_size=152064, width=3584, num_layers=28, num_heads=28, num_kv_heads=4, head_dim=128, ffn_width=18944,
    tie_embeddings=False,
)  # fmt: skip

# The published full-size models: Whisper medium with Qwen2.5-3B-Instruct (OSUM-EChat) and with Qwen2-7B (OSUM).
PRESETS: dict[str, ModelConfig] = {
    "osum_echat_3b": ModelConfig(encoder=_WHISPER_MEDIUM, adapter=_OSUM_ADAPTER, llm=_QWEN25_3B, speech=SpeechConfig(codebook_size=4096)),
    "osum_7b": ModelConfig(encoder=_WHISPER_MEDIUM, adapter=_OSUM_ADAPTER, llm=_QWEN2_7B, speech=SpeechConfig(codebook_size=4096)),
}


def build_model(cfg: ModelConfig, device: torch.device | str = "cpu") -> EChat:
    """A freshly initialised model; with ``device="meta"`` only its shapes, at no cost."""
    with torch.device("meta"):
        model = ARCHITECTURES[cfg.arch](cfg)
    if torch.device(device).type == "meta":
        return model
    model = model.to_empty(device=device)
    init_weights(model)
    return model


@torch.no_grad()
def init_weights(model: nn.Module) -> None:
    """Initialise every parameter.

    Matrices, convolutions, embeddings (speech rows included) and LoRA A: normal with std 0.64 / sqrt(inputs), which is the usual 0.02 at
    width 1024 and keeps narrow models trained from scratch out of the near-zero regime; the encoder's two convolutions 2 / sqrt(inputs),
    so that what they hear is as large as the positions added to it. The two projections of each block that write into the residual
    stream are divided by sqrt(2 * layers), so its variance does not grow with depth. Norms: 1 and 0. Biases: 0. LoRA B: 0, so the first
    step starts from the base model.
    """
    encoders = [module for module in model.modules() if isinstance(module, SpeechEncoder)]
    fronts = [conv for encoder in encoders for conv in (encoder.conv1, encoder.conv2)]
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=_GAIN * module.embedding_dim**-0.5)
        elif isinstance(module, nn.Linear | nn.Conv1d):
            gain = _FRONT_GAIN if module in fronts else _GAIN
            nn.init.normal_(module.weight, std=gain * module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif "weight" in dict(module.named_parameters(recurse=False)):  # norms
            nn.init.ones_(module.weight)  # type: ignore[arg-type]
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if isinstance(module, LoraLinear):
            nn.init.normal_(module.lora_a, std=_GAIN * module.in_features**-0.5)
            nn.init.zeros_(module.lora_b)
    for stack in (module for module in model.modules() if isinstance(module, nn.ModuleList)):
        for layer in stack:
            if isinstance(layer, EncoderLayer | DecoderLayer):
                layer.o_proj.weight.mul_((2 * len(stack)) ** -0.5)
                layer.down_proj.weight.mul_((2 * len(stack)) ** -0.5)


def set_trainable(model: nn.Module, prefixes: Iterable[str]) -> list[str]:
    """Train exactly the parameters under the given name prefixes; returns their names.

    A prefix ends at a dot of the name (``llm.layers.1`` does not match ``llm.layers.10``); ``""`` is everything; ``lora`` every LoRA
    matrix.
    """
    prefixes = list(prefixes)
    named = dict(model.named_parameters())
    for prefix in prefixes:
        if not any(matches_prefix(name, prefix) for name in named):
            valid = [
                *(name for name, _ in model.named_children()),
                *([LORA_GROUP] if any(matches_prefix(n, LORA_GROUP) for n in named) else []),
            ]
            raise ConfigError(
                f'train.trainable: no parameter is named "{prefix}..."; valid prefixes are "" (everything), {", ".join(valid)}'
                ' or a longer name under one of them such as "llm.layers.0"'
            )
    chosen = [name for name in named if any(matches_prefix(name, prefix) for prefix in prefixes)]
    if not chosen:
        raise ConfigError('train.trainable is empty: nothing would be trained; write [""] to train everything')
    for name, parameter in named.items():
        parameter.requires_grad_(name in set(chosen))
    return chosen


def matches_prefix(name: str, prefix: str) -> bool:
    """Whether a parameter belongs to a prefix as :func:`set_trainable` understands it."""
    if prefix == LORA_GROUP:
        return name.rsplit(".", 1)[-1].startswith("lora_")
    return prefix == "" or name == prefix or name.startswith(prefix + ".")


def parameter_report(model: nn.Module) -> str:
    """A table: part, parameters, trainable parameters."""
    rows = []
    for name, part in model.named_children():
        sizes = [(p.numel(), p.requires_grad) for p in part.parameters()]
        rows.append((name, sum(n for n, _ in sizes), sum(n for n, trainable in sizes if trainable)))
    rows.append(("total", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    lines = [f"{'part':<12}{'parameters':>16}{'trainable':>16}"]
    lines += [f"{name:<12}{count:>16,}{trainable:>16,}" for name, count, trainable in rows]
    return "\n".join(lines)
