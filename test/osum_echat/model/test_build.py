"""Full-size shapes, initialisation, trainable groups, report."""

import pytest
import torch

from osum_echat.config import AdapterConfig, EncoderConfig, LlmConfig, LoraConfig, ModelConfig, SpeechConfig
from osum_echat.errors import ConfigError
from osum_echat.model.build import PRESETS, build_model, parameter_report, set_trainable


def _tiny(lora=None):
    return ModelConfig(
        encoder=EncoderConfig(num_mels=8, width=16, num_layers=2, num_heads=2, ffn_width=24),
        adapter=AdapterConfig(num_layers=1, num_heads=2, ffn_width=24),
        llm=LlmConfig(vocab_size=40, width=24, num_layers=12, num_heads=4, num_kv_heads=2, head_dim=8, ffn_width=32),
        speech=SpeechConfig(codebook_size=10),
        lora=lora,
    )


def _count(module):
    return sum(p.numel() for p in module.parameters())


def test_osum_echat_3b_has_the_published_parameter_counts():
    model = build_model(PRESETS["osum_echat_3b"], device="meta")
    assert _count(model.encoder) == 305_680_384
    convs = _count(model.adapter.convs)
    assert convs == 9_440_256
    assert _count(model.adapter.proj) == 2_099_200
    assert _count(model.adapter) - convs - 2_099_200 == 38_849_536
    assert _count(model.speech.embed) == 8_394_752 and _count(model.speech.head) == 8_394_753
    # Without ln_speech (2,048 parameters), which the reference creates and never uses.
    assert sum(map(_count, (model.encoder, model.adapter, model.speech))) == 372_860_929 - 2_048
    assert _count(model.llm) == 3_085_938_688


def test_osum_7b_has_the_published_parameter_counts():
    model = build_model(PRESETS["osum_7b"], device="meta")
    assert _count(model.encoder) == 305_680_384
    assert _count(model.adapter.proj) == 1024 * 3584 + 3584
    assert _count(model.speech.embed) == 4099 * 3584 and _count(model.speech.head) == 4097 * 3585
    assert _count(model.llm) == 7_615_616_512


def test_meta_model_has_the_names_and_shapes_of_the_real_one():
    cfg = _tiny()
    real, meta = build_model(cfg).state_dict(), build_model(cfg, device="meta").state_dict()
    assert {k: v.shape for k, v in real.items()} == {k: v.shape for k, v in meta.items()}
    assert all(bool(torch.isfinite(v).all()) for v in real.values())


@torch.no_grad()
def test_initialisation():
    torch.manual_seed(0)
    model = build_model(_tiny(LoraConfig(rank=2, alpha=4.0, dropout=0.0, targets=["q_proj", "down_proj"])))
    layer = model.llm.layers[0]
    assert abs(float(layer.gate_proj.weight.std()) * 24**0.5 - 0.64) < 0.1
    assert abs(float(layer.o_proj.weight.std()) * 32**0.5 * 24**0.5 - 0.64) < 0.1
    assert float(layer.q_proj.bias.abs().max()) == 0.0 and float(layer.q_proj.lora_b.abs().max()) == 0.0
    assert float(layer.q_proj.lora_a.std()) > 0.05 and bool((layer.attn_norm.weight == 1).all())
    assert abs(float(model.speech.embed.weight.std()) * 24**0.5 - 0.64) < 0.1
    torch.manual_seed(0)
    again = build_model(_tiny(LoraConfig(rank=2, alpha=4.0, dropout=0.0, targets=["q_proj", "down_proj"])))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_weights_without_lora_load_into_a_lora_model():
    base, wrapped = build_model(_tiny()), build_model(_tiny(LoraConfig(rank=2, alpha=4.0, dropout=0.0, targets=["q_proj"])))
    result = wrapped.load_state_dict(base.state_dict(), strict=False)
    assert not result.unexpected_keys and all(".lora_" in key for key in result.missing_keys) and len(result.missing_keys) == 24


def test_set_trainable_by_prefix():
    model = build_model(_tiny())
    names = set_trainable(model, ["adapter", "llm.layers.1"])
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(names)
    assert {name.split(".")[0] for name in trained} == {"adapter", "llm"}
    assert all(name.startswith("llm.layers.1.") for name in trained if name.startswith("llm"))  # not layers.10, layers.11
    set_trainable(model, [""])
    assert all(p.requires_grad for p in model.parameters())


def test_set_trainable_lora():
    model = build_model(_tiny(LoraConfig(rank=2, alpha=4.0, dropout=0.0, targets=["q_proj", "v_proj"])))
    names = set_trainable(model, ["lora", "speech"])
    assert sum(".lora_" in name for name in names) == 12 * 4 and len(names) == 48 + 3


@pytest.mark.parametrize(("prefixes", "message"), [(["encodr"], "encoder, adapter, llm, speech"), (["lora"], '"lora'), ([], "empty")])
def test_set_trainable_names_what_is_valid(prefixes, message):
    model = build_model(_tiny())
    with pytest.raises(ConfigError, match=message):
        set_trainable(model, prefixes)


def test_parameter_report():
    model = build_model(_tiny())
    set_trainable(model, ["adapter"])
    table = {line.split()[0]: line.split()[1:] for line in parameter_report(model).splitlines()}
    assert table["adapter"] == [f"{_count(model.adapter):,}"] * 2
    assert table["encoder"] == [f"{_count(model.encoder):,}", "0"]
    assert table["total"] == [f"{_count(model):,}", f"{_count(model.adapter):,}"]
