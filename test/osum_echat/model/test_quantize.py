"""Packed weights: layout there and back, every path of the kernels against plain torch, a quantised model against the one it came from."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import osum_echat.kernels as kernels
from osum_echat.config import AdapterConfig, EncoderConfig, LlmConfig, LoraConfig, ModelConfig
from osum_echat.errors import UserError
from osum_echat.model import quantize as q
from osum_echat.model.echat import EChat
from osum_echat.model.packing import Packing

KINDS = [
    q.Quantization("int4", 32),
    q.Quantization("int4", 128),
    q.Quantization("int8", 32),
    q.Quantization("int8", 0),
    q.Quantization("bf16"),
]
# Relative error that rounding to the levels may add to the output of a layer with normal weights; half of it would be a mistake too.
ERRORS = {"int4": (0.06, 0.11), "int8": (0.004, 0.012), "bf16": (0.001, 0.002)}


@pytest.fixture(scope="session", autouse=True)
def library(runtime_build: Path) -> None:
    """The operators, of this checkout."""
    assert kernels.library_path().parent == runtime_build, f"OSUM_KERNELS names {kernels.library_path()}"
    kernels.load_kernels()


@pytest.fixture(params=["avx512bf16", "avx512vnni", "avx512", "avx2", "portable"])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """One instruction set after the other; those the machine lacks are skipped by name."""
    if request.param not in torch.ops.osum.kernel_names():
        pytest.skip(f"this machine has no {request.param}")
    yield torch.ops.osum.use_kernels(request.param)
    torch.ops.osum.use_kernels("")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def weight_of(rows: int, inputs: int) -> Tensor:
    return torch.randn(rows, inputs) * torch.rand(rows, 1)


@pytest.mark.parametrize("quant", KINDS, ids=str)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 128), (45, 384), (64, 128)])
def test_packing_keeps_the_weight_up_to_its_levels(quant: q.Quantization, outputs: int, inputs: int) -> None:
    weight_NK = weight_of(outputs, inputs)
    unpacked_NK = q.unpack(q.pack(weight_NK, quant))
    assert unpacked_NK.shape == weight_NK.shape
    low, high = ERRORS[quant.kind]
    assert low < (unpacked_NK - weight_NK).norm() / weight_NK.norm() < high
    again_NK = q.unpack(q.pack(unpacked_NK, q.Quantization("bf16")))
    assert torch.equal(again_NK, unpacked_NK.bfloat16().float())


def test_weights_that_are_levels_are_kept_exactly_and_in_place() -> None:
    """Every input of every output has a number of its own, so that no two can be exchanged unseen."""
    levels_NK = torch.stack([torch.arange(64).add(row).remainder(16).sub(8) for row in range(20)]).float()
    assert torch.equal(q.unpack(q.pack(levels_NK * 0.5, q.Quantization("int4", 64))), levels_NK * 0.5)
    wide_NK = torch.stack([torch.arange(0, 256, 2).add(row).remainder(255).sub(127) for row in range(20)]).float()
    wide_NK[:, 0] = 127
    assert torch.equal(q.unpack(q.pack(wide_NK * 0.25, q.Quantization("int8", 0))), wide_NK * 0.25)


def test_groups_of_zeros_stay_zero() -> None:
    for quant in KINDS:
        assert not q.unpack(q.pack(torch.zeros(3, 128), quant)).any()


@pytest.mark.parametrize("quant", KINDS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 128), (45, 384), (2003, 128)])
def test_every_path_equals_the_product_with_the_unpacked_weight(
    path: str, quant: q.Quantization, dtype: torch.dtype, outputs: int, inputs: int
) -> None:
    packed, bias_N = q.pack(weight_of(outputs, inputs), quant), torch.randn(outputs)
    unpacked_NK = q.unpack(packed).double()
    for rows in (*range(1, 9), 13):
        x_MK = torch.randn(rows, inputs).to(dtype)
        expected = torch.addmm(bias_N.double(), x_MK.double(), unpacked_NK.T)
        got = torch.ops.osum.linear(x_MK, packed.weight, packed.scale_PG16, bias_N, outputs)
        assert got.dtype == dtype and got.shape == (rows, outputs)
        # Sums in float keep 1e-6 of what is summed; fixed point is off by half a step of its block at most. A bf16 result is rounded once.
        allowed = torch.addmm(bias_N.double().abs(), x_MK.double().abs(), unpacked_NK.T.abs()) * 1e-6
        if quant.kind != "bf16" and path != "portable":
            half_steps_MK = x_MK.double().abs().unflatten(1, (-1, 32)).amax(-1).repeat_interleave(32, 1) / (2 * 127 * 254)
            allowed += half_steps_MK @ unpacked_NK.T.abs()
        if dtype == torch.bfloat16:
            allowed += expected.abs() * 2**-8
        assert ((got.double() - expected).abs() <= allowed).all(), f"{path}, {rows} rows"


@pytest.mark.parametrize("quant", KINDS, ids=str)
def test_the_kernels_unpack_what_plain_torch_does(path: str, quant: q.Quantization) -> None:
    packed = q.pack(weight_of(40, 384), quant)
    for dtype in (torch.float32, torch.bfloat16):
        got_KN = torch.ops.osum.unpack(packed.weight, packed.scale_PG16, dtype)
        assert torch.equal(got_KN.T[:40], q.unpack(packed).to(dtype))


@pytest.mark.parametrize("kind", ["int4", "int8"])
def test_activations_of_any_size_keep_their_precision(path: str, kind: q.Kind) -> None:
    """Blocks of tiny, zero and huge activations: each block's share of the result is as good as if it were alone."""
    packed = q.pack(weight_of(16, 128), q.Quantization(kind, 32))
    x_MK = torch.randn(1, 4, 32) * torch.tensor([1e-20, 0.0, 1.0, 1e20])[:, None]
    for block in range(4):
        alone_MK = torch.zeros_like(x_MK)
        alone_MK[:, block] = x_MK[:, block]
        expected = alone_MK.flatten(1).double() @ q.unpack(packed).double().T
        got = torch.ops.osum.linear(alone_MK.flatten(1), packed.weight, packed.scale_PG16, None, 16)
        assert (got - expected).abs().max() <= 6e-5 * expected.abs().max()
    x_MK[0, 2, 5] = torch.nan
    assert torch.ops.osum.linear(x_MK.flatten(1), packed.weight, packed.scale_PG16, None, 16).isnan().all()


def test_a_linear_layer_gives_the_same_for_few_rows_and_for_many() -> None:
    linear = nn.Linear(128, 3001)
    quantized = q.QuantLinear.of(linear, q.Quantization("int8", 32))
    x_MK = torch.randn(20, 128)
    with torch.no_grad():
        many, few = quantized(x_MK), torch.cat([quantized(x_MK[:8]), quantized(x_MK[8:9]), quantized(x_MK[9:].unsqueeze(1))[:, 0]])
        assert (many - few).norm() / many.norm() < 3e-5
        assert (many - linear(x_MK)).norm() / linear(x_MK).norm() < 0.012
    assert q.relative_error(linear, quantized) < 0.012


def test_the_layer_scripts_and_exports() -> None:
    quantized = q.QuantLinear.of(nn.Linear(64, 30), q.Quantization())
    scripted = torch.jit.script(quantized)
    x = torch.randn(2, 3, 64)
    for rows in (x, torch.randn(9, 64)):
        assert torch.equal(scripted(rows), quantized(rows))
    for rows in (x, torch.randn(9, 64)):
        exported = torch.export.export(quantized, (rows,)).module()
        assert torch.equal(exported(rows), quantized(rows))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a | {"x": torch.randn(1, 32)}, "does not end in the weight's 64 inputs"),
        (lambda a: a | {"x": torch.randn(1, 64).double()}, "x must be float or bfloat16, got Double"),
        (lambda a: a | {"out_features": 33}, "33 outputs take 3 panels, the weight has 2"),
        (lambda a: a | {"weight": a["weight"].int()}, "uint8 \\(int4\\), int8 or bfloat16, got Int"),
        (lambda a: a | {"weight": a["weight"].transpose(0, 1)}, "contiguous"),
        (lambda a: a | {"scale": a["scale"].float()}, "scale must be bfloat16"),
        (lambda a: a | {"scale": torch.ones(2, 4, 16).bfloat16()}, "64 inputs do not divide into 4 groups of a multiple of 32"),
        (lambda a: a | {"bias": torch.zeros(31)}, "bias must be float \\(30\\)"),
        (lambda a: a | {"x": torch.randn(1, 64, requires_grad=True)}, "has no gradient: it is for decoding"),
    ],
)
def test_what_does_not_fit_is_refused(change, words: str) -> None:
    packed = q.pack(weight_of(30, 64), q.Quantization())
    arguments = {"x": torch.randn(1, 64), "weight": packed.weight, "scale": packed.scale_PG16, "bias": None, "out_features": 30}
    torch.ops.osum.linear(**arguments)
    with pytest.raises(RuntimeError, match=words):
        torch.ops.osum.linear(**change(arguments))


def test_groups_that_do_not_divide_are_refused() -> None:
    for inputs, group in ((48, 32), (96, 64), (64, 16)):
        with pytest.raises(UserError, match=f"{inputs} inputs in groups of {group}"):
            q.pack(torch.randn(4, inputs), q.Quantization("int4", group))
    with pytest.raises(RuntimeError, match=r'no kernels "abacus"; it has .*portable'):
        torch.ops.osum.use_kernels("abacus")


def test_a_missing_library_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernels.load_kernels.cache_clear()
    monkeypatch.setenv("OSUM_KERNELS", str(tmp_path / "none.so"))
    with pytest.raises(UserError, match=r"none\.so: no kernels; build them with `make runtime`"):
        q.QuantLinear.of(nn.Linear(32, 8), q.Quantization())
    (tmp_path / "none.so").write_bytes(b"not a library")
    with pytest.raises(UserError, match="cannot be loaded"):
        kernels.load_kernels()


def make_model(kind: str, lora: bool = False, tie: bool = True) -> EChat:
    small = {"num_layers": 1, "num_heads": 2, "ffn_width": 32}
    llm = LlmConfig(kind=kind, vocab_size=517, width=128, num_layers=3, num_heads=8, num_kv_heads=2, ffn_width=192, tie_embeddings=tie)
    adapters = LoraConfig(rank=4, alpha=8, targets=["q_proj", "down_proj"]) if lora else None
    model = EChat(ModelConfig(encoder=EncoderConfig(width=32, **small), adapter=AdapterConfig(**small), llm=llm, lora=adapters)).eval()
    for name, parameter in model.named_parameters():  # norms and updates of low rank must not be without effect
        if "norm" in name or "lora" in name or "bias" in name:
            nn.init.uniform_(parameter, 0.5, 1.5) if "norm" in name else nn.init.normal_(parameter, std=0.1)
    return model


@torch.inference_mode()
def run(model: EChat, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states of a prefill of rows of unlike length and of five steps; text and speech logits of the last."""
    generator = torch.Generator().manual_seed(1)
    packing = Packing.from_lens(tuple(3 + 2 * row for row in range(rows)))
    ids_T = torch.randint(517, (packing.total,), generator=generator)
    state = model.llm.init_state(rows, max(packing.lens) + 5)
    positions_T = torch.cat([torch.arange(length) for length in packing.lens])
    hidden = [model.llm.prefill(model.embed_ids(ids_T), positions_T, packing, state)]
    for _ in range(5):
        hidden.append(model.llm.step(model.embed_ids(torch.randint(517, (rows,), generator=generator)), state))
    with pytest.raises(ValueError, match="the state is full"):
        model.llm.step(hidden[-1], state)
    return torch.cat(hidden), model.text_logits(hidden[-1]), model.speech_logits(hidden[-1])


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
@pytest.mark.parametrize("rows", [1, 2, 11])
def test_steps_of_the_kernels_equal_those_of_the_model_with_the_unpacked_weights(path: str, kind: str, rows: int) -> None:
    """Float activations: what differs is the order of sums. The peer is the float model that holds the very same weights."""
    model = make_model(kind, lora=True, tie=rows != 2)
    peer = make_model(kind, tie=False)
    quantized = make_model(kind, lora=True, tie=rows != 2)
    quantized.load_state_dict(model.state_dict())
    q.quantize(quantized, q.Quantization("int4", 32))
    weights = {}
    for name, module in quantized.named_modules():
        if isinstance(module, q.QuantLinear):
            weights[f"{name.replace('llm.head', 'llm.lm_head')}.weight"] = q.unpack(
                q.Packed(module.weight, module.scale, module.out_features)
            )
    peer.load_state_dict({**{k: v for k, v in model.state_dict().items() if "lora" not in k}, **weights}, strict=True)
    for got, expected in zip(run(quantized, rows), run(peer, rows), strict=True):
        assert (got - expected).norm() / expected.norm() < 1e-4


@pytest.mark.parametrize("quant", [q.Quantization("int4", 32), q.Quantization("int8", 32), q.Quantization("bf16")], ids=str)
def test_a_quantised_model_is_close_to_the_one_it_came_from(quant: q.Quantization) -> None:
    model, quantized = make_model("qwen2"), make_model("qwen2")
    quantized.load_state_dict(model.state_dict())
    model, quantized = model.bfloat16(), quantized.bfloat16()
    errors = q.quantize(quantized, quant)
    assert len(errors) == 3 * 7 + 2 and {"head", "speech.head", "layers.2.down_proj"} <= set(errors)
    assert max(errors.values()) < ERRORS[quant.kind][1]
    allowed = {"int4": 0.2, "int8": 0.03, "bf16": 0.02}[quant.kind]
    for got, expected in zip(run(quantized, 2), run(model, 2), strict=True):
        assert got.dtype == expected.dtype
        assert (got - expected).float().norm() / expected.float().norm() < allowed


def test_a_quantised_model_moves_and_loads_and_does_not_train() -> None:
    model = make_model("qwen2")
    q.quantize(model, q.Quantization("int8", 32))
    before = run(model, 1)[1]
    other = make_model("qwen2")
    q.quantize(other, q.Quantization("int8", 32))
    other.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()})
    assert torch.equal(run(other.to("cpu"), 1)[1], before)
    with pytest.raises(UserError, match="for decoding"):
        model.head_weights()
    state = model.llm.init_state(1, 4)
    with pytest.raises(RuntimeError, match="has no gradient"):
        model.llm.step(model.embed_ids(torch.tensor([3])), state)
