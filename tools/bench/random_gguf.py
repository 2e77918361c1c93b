"""A GGUF file of a Qwen2 decoder with random weights and no vocabulary, for llama.cpp as a peer of bench_decode.py.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3. Blocks of Q4_0 and Q8_0 are 32 weights with a half-precision
scale in front.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from osum_echat.config import LlmConfig

_ALIGNMENT = 32
_UINT32, _FLOAT32, _STRING = 4, 6, 8
_F32 = 0
TYPES = {"F16": 1, "Q8_0": 8, "Q4_0": 2}  # of weights, as ggml numbers them
_BLOCK_BYTES = {"Q8_0": 32, "Q4_0": 16}  # of a block without its scale
_DEVIATION = {"Q8_0": 74.0, "Q4_0": 4.6}  # of uniform levels


def write_gguf(path: Path, cfg: LlmConfig, kind: str, context: int) -> None:
    """Writes the model; `kind` is a key of TYPES, norms and biases are float."""
    shapes = list(_shapes(cfg))
    with path.open("wb") as file:
        metadata = list(_metadata(cfg, context))
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(metadata)))
        for key, kind_id, value in metadata:
            file.write(_string(key) + struct.pack("<I", kind_id) + value)
        offset = 0
        for name, shape in shapes:
            type_id = TYPES[kind] if len(shape) == 2 else _F32
            file.write(_string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape)))
            file.write(struct.pack("<IQ", type_id, offset))
            offset += _padded(_num_bytes(shape, kind))
        file.write(bytes(-file.tell() % _ALIGNMENT))
        generator = np.random.default_rng(0)
        for name, shape in shapes:
            data = _data(generator, name, shape, kind)
            assert len(data) == _num_bytes(shape, kind)
            file.write(data + bytes(-len(data) % _ALIGNMENT))


def _shapes(cfg: LlmConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(outputs, inputs) of weights, (size,) of norms and biases; the head is the embedding."""
    query, kv = cfg.num_heads * cfg.head_dim, cfg.num_kv_heads * cfg.head_dim
    yield "token_embd.weight", (cfg.vocab_size, cfg.width)
    yield "output_norm.weight", (cfg.width,)
    for layer in range(cfg.num_layers):
        at = f"blk.{layer}."
        yield at + "attn_norm.weight", (cfg.width,)
        yield at + "ffn_norm.weight", (cfg.width,)
        for name, width in (("q", query), ("k", kv), ("v", kv)):
            yield f"{at}attn_{name}.weight", (width, cfg.width)
            yield f"{at}attn_{name}.bias", (width,)
        yield at + "attn_output.weight", (cfg.width, query)
        yield at + "ffn_gate.weight", (cfg.ffn_width, cfg.width)
        yield at + "ffn_up.weight", (cfg.ffn_width, cfg.width)
        yield at + "ffn_down.weight", (cfg.width, cfg.ffn_width)


def _metadata(cfg: LlmConfig, context: int) -> Iterator[tuple[str, int, bytes]]:
    yield "general.architecture", _STRING, _string("qwen2")
    yield "tokenizer.ggml.model", _STRING, _string("no_vocab")
    numbers = {
        "vocab_size": cfg.vocab_size,
        "context_length": context,
        "block_count": cfg.num_layers,
        "embedding_length": cfg.width,
        "feed_forward_length": cfg.ffn_width,
        "attention.head_count": cfg.num_heads,
        "attention.head_count_kv": cfg.num_kv_heads,
    }
    for key, number in numbers.items():
        yield f"qwen2.{key}", _UINT32, struct.pack("<I", number)
    yield "qwen2.attention.layer_norm_rms_epsilon", _FLOAT32, struct.pack("<f", cfg.norm_eps)
    yield "qwen2.rope.freq_base", _FLOAT32, struct.pack("<f", cfg.rope_theta)


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _padded(size: int) -> int:
    return size + -size % _ALIGNMENT


def _num_bytes(shape: tuple[int, ...], kind: str) -> int:
    size = int(np.prod(shape))
    if len(shape) == 1:
        return 4 * size
    return 2 * size if kind == "F16" else size // 32 * (2 + _BLOCK_BYTES[kind])


def _data(generator: np.random.Generator, name: str, shape: tuple[int, ...], kind: str) -> bytes:
    size, deviation = int(np.prod(shape)), 0.02
    if len(shape) == 1:
        return np.full(size, 0 if name.endswith("bias") else 1, "<f4").tobytes()
    if kind == "F16":
        return (generator.standard_normal(size, np.float32) * deviation).astype("<f2").tobytes()
    blocks = generator.integers(0, 256, (size // 32, 2 + _BLOCK_BYTES[kind]), np.uint8)
    blocks[:, :2] = np.frombuffer(np.array(deviation / _DEVIATION[kind], "<f2").tobytes(), np.uint8)
    return blocks.tobytes()
