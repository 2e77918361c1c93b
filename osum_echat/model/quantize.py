"""Weight-only int4, int8 and bf16 for decoding: packed weights, the linear that runs on them, and their exact meaning in plain torch.

Decoding one position reads every weight once, so bytes are time. A group of inputs of one output shares a scale; activations stay bf16 (or
float), sums are float. int4 holds -8 … 7 and its scale is fitted to the least squared error, int8 holds -127 … 127. The layout is that of
`runtime/kernels/panel.h`: panels of 16 outputs, each a stream of 32-bit words of 8 (int4), 4 (int8) or 2 (bf16) inputs.

Shape legend: M rows of activations, N outputs, K inputs, P panels, G groups of a row, W words of a row.

Left out: gradients, quantised activations, zero points (a fitted scale of either sign gives most of their gain and costs no bytes), GPUs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osum_echat.errors import UserError
from osum_echat.kernels import load_kernels
from osum_echat.model.echat import EChat
from osum_echat.model.layers import LoraLinear, RmsNorm
from osum_echat.model.llm import DecoderLayer, KVState, Llm

Kind = Literal["int4", "int8", "bf16"]

PANEL = 16  # outputs
GROUP_UNIT = 32  # groups are multiples of it
MAX_DECODE_ROWS = 8  # above it, weights are unpacked for a plain matrix product
_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # of a layer, as decode_step.h orders them
_BLOCK_ELEMENTS = 2 << 20  # of a weight that are unpacked, or packed, at a time
_INT4_TRIALS = (1.0, 0.9, 0.8, 8 / 7)  # of the scale that maps the largest weight to -8


@dataclass(frozen=True)
class Quantization:
    """What weights become. `group` is the number of inputs that share a scale, 0 for a whole row; bf16 has none."""

    kind: Kind = "int4"
    group: int = 32


@dataclass(frozen=True)
class Packed:
    """A packed (N, K) weight: int4 is uint8 (P, W, 16, 4), int8 is int8 (P, W, 16, 4), bf16 is bfloat16 (P, W, 16, 2).

    `scale_PG16` is bfloat16, and empty for bf16.
    """

    weight: Tensor
    scale_PG16: Tensor
    num_outputs: int


def pack(weight_NK: Tensor, quant: Quantization) -> Packed:
    """Quantise and lay out a weight.

    Raises:
        UserError: K does not divide into groups, or the group is no multiple of 32.
    """
    num_outputs, num_inputs = weight_NK.shape
    group = quant.group or num_inputs
    if num_inputs % GROUP_UNIT or group % GROUP_UNIT or num_inputs % group:
        raise UserError(
            f"{num_inputs} inputs in groups of {group}: both must be multiples of {GROUP_UNIT}, and the group must divide the inputs"
        )
    with torch.no_grad():
        parts = [_pack_block(block, quant.kind, group) for block in weight_NK.detach().split(_block_rows(num_inputs))]
    return Packed(torch.cat([weight for weight, _ in parts]), torch.cat([scale for _, scale in parts]), num_outputs)


def unpack(packed: Packed) -> Tensor:
    """The (N, K) float weight that a packed one stands for; what the kernels are tested against."""
    weight = packed.weight
    if weight.dtype == torch.uint8:
        weight = torch.cat((weight & 15, weight >> 4), -1).to(torch.int8) - 8
    values_P16K = weight.float().transpose(1, 2).flatten(2)
    if packed.scale_PG16.numel():
        groups = packed.scale_PG16.shape[1]
        values_P16K = (values_P16K.unflatten(2, (groups, -1)) * packed.scale_PG16.float().transpose(1, 2).unsqueeze(-1)).flatten(2)
    return values_P16K.flatten(0, 1)[: packed.num_outputs]


def _weight_of(linear: nn.Linear) -> Tensor:
    """(N, K), with an update of low rank merged into it."""
    return (linear.merged_weight() if isinstance(linear, LoraLinear) else linear.weight).detach()


def _block_rows(num_inputs: int) -> int:
    """Whole panels of a weight that are worked on at a time."""
    return max(1, _BLOCK_ELEMENTS // num_inputs // PANEL) * PANEL


def _pack_block(weight_NK: Tensor, kind: Kind, group: int) -> tuple[Tensor, Tensor]:
    missing = -weight_NK.shape[0] % PANEL
    weight_P16K = F.pad(weight_NK.float(), (0, 0, 0, missing)).unflatten(0, (-1, PANEL))
    if kind == "bf16":
        none = torch.empty((weight_P16K.shape[0], 0, PANEL), dtype=torch.bfloat16)
        return _words(weight_P16K.bfloat16(), 2), none
    weight_P16Gg = weight_P16K.unflatten(2, (-1, group))
    levels, scale_P16G = _fit_int4(weight_P16Gg) if kind == "int4" else _fit_int8(weight_P16Gg)
    levels_P16K, scale_PG16 = levels.flatten(2), scale_P16G.bfloat16().transpose(1, 2).contiguous()
    if kind == "int8":
        return _words(levels_P16K.to(torch.int8), 4), scale_PG16
    words = _words((levels_P16K + 8).to(torch.uint8), 8)
    return words[..., :4] | words[..., 4:] << 4, scale_PG16


def _words(levels_P16K: Tensor, inputs: int) -> Tensor:
    """(P, W, 16, inputs)"""
    return levels_P16K.unflatten(2, (-1, inputs)).transpose(1, 2).contiguous()


def _fit_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    scale = _storable(weight.abs().amax(-1) / 127)
    return (weight / scale.unsqueeze(-1)).round_().clamp_(-127, 127), scale


def _fit_int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Of a few scales the one with the least squared error, each first moved to the best one for the levels it gives."""
    extreme = weight.gather(-1, weight.abs().argmax(-1, keepdim=True)).squeeze(-1)
    best_levels, best_scale, best_error = weight, extreme, torch.full_like(extreme, torch.inf)
    for trial in _INT4_TRIALS:
        scale = _storable(extreme / -8 * trial)
        levels = (weight / scale.unsqueeze(-1)).round_().clamp_(-8, 7)
        scale = _storable((levels * weight).sum(-1) / levels.square().sum(-1).clamp_min(1))
        levels = (weight / scale.unsqueeze(-1)).round_().clamp_(-8, 7)
        error = (levels * scale.unsqueeze(-1) - weight).square_().sum(-1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale = torch.where(better, scale, best_scale)
        best_levels = torch.where(better.unsqueeze(-1), levels, best_levels)
    return best_levels, best_scale


def _storable(scale: Tensor) -> Tensor:
    """As bf16 keeps it, so that levels are rounded with the scale they will be read with; 1 for groups of zeros."""
    scale = scale.bfloat16().float()
    return torch.where(scale == 0, torch.ones_like(scale), scale)


class QuantLinear(nn.Module):
    """A linear layer on packed weights, without gradients.

    Up to `MAX_DECODE_ROWS` rows run on the packed weight. More rows, as in a prefill, unpack it block by block for plain matrix products:
    there arithmetic is what takes time, and the blocks stay in the cache.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, packed: Packed, bias_N: Tensor | None) -> None:
        super().__init__()
        load_kernels()
        self.out_features = packed.num_outputs
        self.max_decode_rows, self.block_elements, self.panel = MAX_DECODE_ROWS, _BLOCK_ELEMENTS, PANEL  # TorchScript reads no globals
        self.register_buffer("weight", packed.weight)
        self.register_buffer("scale", packed.scale_PG16)
        self.register_buffer("bias", None if bias_N is None else bias_N.detach().float().contiguous())

    @staticmethod
    def of(linear: nn.Linear, quant: Quantization) -> "QuantLinear":
        """The packed form of a linear layer; an update of low rank is merged into it."""
        return QuantLinear(pack(_weight_of(linear), quant), linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, K) float or bf16 to (…, N) of the same dtype."""
        num_inputs, bias = x.shape[-1], self.bias
        if x.numel() <= self.max_decode_rows * num_inputs:
            return torch.ops.osum.linear(x, self.weight, self.scale, bias, self.out_features)
        panels = max(1, self.block_elements // num_inputs // self.panel)
        parts = []
        for first in range(0, self.weight.shape[0], panels):
            weight, scale = self.weight[first : first + panels], self.scale[first : first + panels]
            parts.append(torch.matmul(x, torch.ops.osum.unpack(weight, scale, x.dtype)))
        y = torch.cat(parts, -1)[..., : self.out_features]
        return y if bias is None else y + bias.to(y.dtype)

    def extra_repr(self) -> str:
        return f"out_features={self.out_features}, weight={self.weight.dtype} {tuple(self.weight.shape)}"


def relative_error(linear: nn.Linear, quantized: QuantLinear) -> float:
    """Expected size of the output's error over that of the output, for inputs without preferred directions."""
    weight_NK = _weight_of(linear)
    rows, wrong, right = _block_rows(weight_NK.shape[1]), 0.0, 0.0
    for first in range(0, len(weight_NK), rows):
        block_NK = weight_NK[first : first + rows].float()
        panels = slice(first // PANEL, (first + rows) // PANEL)
        unpacked_NK = unpack(Packed(quantized.weight[panels], quantized.scale[panels], len(block_NK)))
        wrong += (unpacked_NK - block_NK).square().sum().item()
        right += block_NK.square().sum().item()
    return (wrong / right) ** 0.5 if right > 0 else 0.0


class QuantLlm(Llm):
    """A decoder on packed weights: prefill and extend as before, a step in one call of the kernels.

    Takes over the embedding and the norms of `llm` (norms become float) and leaves its linears behind. The text head is packed also where
    it shared the embedding, which stays as it was for looking ids up.
    """

    def __init__(self, llm: Llm, quant: Quantization, report: Callable[[str, nn.Linear, QuantLinear], None]) -> None:
        nn.Module.__init__(self)
        self.cfg, self.embed, self.layers, self.norm = llm.cfg, llm.embed, llm.layers, llm.norm
        self.lm_head = None
        for at, layer in enumerate(self.layers):
            for name in _LINEARS:
                linear = getattr(layer, name)
                packed = QuantLinear.of(linear, quant)
                report(f"layers.{at}.{name}", linear, packed)
                setattr(layer, name, packed)
        head = nn.Linear(self.cfg.width, self.cfg.vocab_size, bias=False, device="meta")
        head.weight = nn.Parameter(llm.head_weight_VD.detach())
        self.head = QuantLinear.of(head, quant)
        report("head", head, self.head)
        for module in self.modules():
            if isinstance(module, RmsNorm):
                module.float()
        self._tensors = self._collect()

    @property
    def head_weight_VD(self) -> Tensor:
        raise UserError("a quantised model is for decoding: its head has no weight to train with")

    def logits(self, h_TD: Tensor) -> Tensor:
        return self.head(h_TD)

    def step(self, x_BD: Tensor, state: KVState) -> Tensor:
        state.check_room()
        hidden_BD = torch.ops.osum.decode_step(
            x_BD, self._tensors, state.keys, state.values, state.lens_B, self.cfg.rope_theta, self.cfg.norm_eps
        )
        state.advance()
        return hidden_BD

    def _collect(self) -> list[Tensor]:
        """What `decode_step` reads, in the order of decode_step.h."""
        none = torch.empty(0)
        tensors = []
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            for norm in (layer.attn_norm, layer.q_norm, layer.k_norm, layer.ffn_norm):
                tensors.append(none if norm is None else norm.weight.detach())
            for name in _LINEARS:
                linear = getattr(layer, name)
                tensors += [linear.weight, linear.scale, none if linear.bias is None else linear.bias]
        return [*tensors, self.norm.weight.detach()]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantLlm":
        super()._apply(fn, recurse)
        self._tensors = self._collect()
        return self


def quantize(model: EChat, quant: Quantization) -> dict[str, float]:
    """Packs the decoder's linears, the text head and the speech head of a model in place, for decoding on the CPU.

    Returns:
        The relative error of every linear's output by name (see :func:`relative_error`).

    Raises:
        UserError: the kernels are not built, or a width does not divide into groups.
    """
    load_kernels()
    errors: dict[str, float] = {}

    def report(name: str, linear: nn.Linear, packed: QuantLinear) -> None:
        errors[name] = relative_error(linear, packed)

    model.llm = QuantLlm(model.llm, quant, report)
    head = QuantLinear.of(model.speech.head, quant)
    report("speech.head", model.speech.head, head)
    model.speech.register_module("head", head)
    return errors
