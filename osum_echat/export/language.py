"""The exported ears and language model: ``encoder.pt`` (log-mel to LLM embeddings) and ``llm.pt`` (one set of weights, several methods).

Keys and values belong to the caller: one tensor (R, K, C, H) a layer for R rows of at most C positions, written in place. A step takes the
first B of the rows, so a request joins as row B, and leaves by the last row being copied onto its own; nobody else notices.

Shape legend: F mel frames, M mel bins, A adapter frames, D width, T positions, R rows of the state, B rows of a step, K key/value heads,
C capacity, N query heads, H head dim.

Left out: sampling, rules, schedules (all of that is outside, in generate/ and in C++).
"""

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule

from osum_echat.export import jit
from osum_echat.model.adapter import Adapter
from osum_echat.model.echat import EChat
from osum_echat.model.encoder import SpeechEncoder
from osum_echat.model.layers import LoraLinear, rotary_angles
from osum_echat.model.llm import Llm, attend_many, attend_one
from osum_echat.model.speech_head import table_rows


def ready_model(model: EChat, dtype: torch.dtype) -> EChat:
    """The model as it will run, changed in place: low-rank updates merged, weights in ``dtype``, no gradients.

    This is where quantisation comes in: whatever takes the place of a linear layer of ``model.llm`` here is what is traced, and what the
    exported parts are compared with. Such a layer chooses by the number of rows inside its operator or in a ``script_if_tracing`` function.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLinear):
                setattr(parent, name, _merged(child))
    return model.to(dtype).requires_grad_(False).eval()


def _merged(lora: LoraLinear) -> nn.Linear:
    plain = nn.Linear(lora.in_features, lora.out_features, lora.bias is not None, device=lora.weight.device)
    plain.weight, plain.bias = nn.Parameter(lora.merged_weight().detach()), lora.bias
    return plain


class _Ears(nn.Module):
    def __init__(self, encoder: SpeechEncoder, adapter: Adapter) -> None:
        super().__init__()
        self.encoder, self.adapter = encoder, adapter

    def forward(self, mel_FM: Tensor) -> Tensor:
        return self.adapter.encode_one(self.encoder.encode_one(mel_FM.to(self.adapter.embed.weight.dtype)))


def export_encoder(model: EChat) -> ScriptModule:
    """``forward(mel_FM float32) -> audio_AD`` of one utterance of any length."""
    weight = model.adapter.embed.weight
    return jit.trace(_Ears(model.encoder, model.adapter), forward=(torch.zeros(37, model.cfg.encoder.num_mels, device=weight.device),))


class LanguageModel(nn.Module):
    """The driver of the traced layers; its exported methods are those of ``llm.pt``."""

    def __init__(self, model: EChat) -> None:
        super().__init__()
        cfg, llm = model.cfg.llm, model.llm
        self.head_dim, self.rope_theta = cfg.head_dim, cfg.rope_theta
        self.num_text, self.num_speech = cfg.vocab_size, model.speech.embed.num_embeddings
        self.embed, self.speech_embed = llm.embed, model.speech.embed
        x_TD = llm.embed.weight[:3]
        angles = rotary_angles(torch.arange(3, device=x_TD.device), cfg.head_dim, cfg.rope_theta, x_TD.dtype)
        y_TNH = x_TD.new_zeros(3, cfg.num_heads, cfg.head_dim)
        self.layers = nn.ModuleList(jit.trace(layer, project=(x_TD, angles), finish=(x_TD, y_TNH)) for layer in llm.layers)
        self.norm = jit.trace(llm.norm, forward=(x_TD,))
        self.text_head, self.speech_head = text_head(llm), model.speech.head

    @torch.jit.export
    def embed_ids(self, ids_T: Tensor) -> Tensor:
        """(T, D) of joint ids; the rows of audio slots mean nothing and are to be overwritten with adapter frames."""
        is_text_T, text_T, speech_T = table_rows(ids_T, self.num_text, self.num_speech)
        return torch.where(is_text_T.unsqueeze(-1), self.embed(text_T), self.speech_embed(speech_T))

    @torch.jit.export
    def extend(self, x_TD: Tensor, row: int, past: int, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        """Append T positions behind the ``past`` ones of a row (a prompt: behind none); the hidden state of the last, (1, D)."""
        longest = past + x_TD.shape[0]
        if longest > keys[0].shape[2]:
            raise ValueError("extend: more positions than the capacity of the state")
        positions_T = torch.arange(past, longest, device=x_TD.device)
        angles = rotary_angles(positions_T, self.head_dim, self.rope_theta, x_TD.dtype)
        mask_TC = torch.arange(longest, device=x_TD.device) <= positions_T.unsqueeze(1)
        for index, layer in enumerate(self.layers):
            q_TNH, k_TKH, v_TKH = layer.project(x_TD, angles)  # type: ignore[operator]
            y_TNH = attend_many(q_TNH, k_TKH, v_TKH, keys[index][row], values[index][row], past, mask_TC)
            x_TD = layer.finish(x_TD, y_TNH)  # type: ignore[operator]
        return self.norm(x_TD[-1:])

    @torch.jit.export
    def step(self, x_BD: Tensor, lens: list[int], keys: list[Tensor], values: list[Tensor]) -> Tensor:
        """Append one position to each of the first B rows, which hold ``lens`` positions; hidden states (B, D)."""
        batch, longest = len(lens), max(lens) + 1
        if longest > keys[0].shape[2] or batch != x_BD.shape[0]:
            raise ValueError("step: a row is full, or there are not as many lengths as rows")
        lens_B = torch.tensor(lens, device=x_BD.device)
        angles = rotary_angles(lens_B, self.head_dim, self.rope_theta, x_BD.dtype)
        mask: Tensor | None = None
        if min(lens) + 1 != longest:
            mask = (torch.arange(longest, device=x_BD.device) <= lens_B.unsqueeze(1))[:, None, None, :]
        for index, layer in enumerate(self.layers):
            q_BNH, k_BKH, v_BKH = layer.project(x_BD, angles)  # type: ignore[operator]
            y_BNH = attend_one(q_BNH, k_BKH, v_BKH, keys[index][:batch], values[index][:batch], lens_B, longest, mask)
            x_BD = layer.finish(x_BD, y_BNH)  # type: ignore[operator]
        return self.norm(x_BD)

    @torch.jit.export
    def text_logits(self, h_BD: Tensor) -> Tensor:
        """(B, text vocabulary) float32."""
        return self.text_head(h_BD).float()

    @torch.jit.export
    def speech_logits(self, h_BD: Tensor) -> Tensor:
        """(B, codes + 1) float32."""
        return self.speech_head(h_BD).float()


def text_head(llm: Llm) -> nn.Module:
    """The output layer as a module; a tied one shares the embedding's weight, which is then stored once."""
    if llm.lm_head is not None:
        return llm.lm_head
    head = nn.Linear(llm.cfg.width, llm.cfg.vocab_size, bias=False, device="meta")
    head.weight = llm.embed.weight
    return head


def export_llm(model: EChat) -> ScriptModule:
    """The methods of :class:`LanguageModel`."""
    return jit.script(LanguageModel(model))
