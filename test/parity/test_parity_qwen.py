"""Our decoder against transformers' Qwen2 and Qwen3 on tiny random weights: logits, gradients of the loss, greedy generation."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from osum_echat.config import LlmConfig
from osum_echat.model.llm import Llm
from osum_echat.model.packing import Packing

SIZES = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
OUTER = {"model.embed_tokens.weight": "embed.weight", "model.norm.weight": "norm.weight", "lm_head.weight": "lm_head.weight"}
INNER = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
CASES = list(itertools.product(["qwen2", "qwen3"], [True, False]))


def _name(theirs):
    if theirs in OUTER:
        return OUTER[theirs]
    _, _, layer, *rest = theirs.split(".")
    return ".".join(["layers", layer, INNER.get(rest[-2], rest[-2]), rest[-1]])


def _pair(transformers, kind, tied):
    torch.manual_seed(0)
    head_dim = 12 if kind == "qwen3" else 8  # Qwen3's head dim is free
    shape = dict(SIZES, intermediate_size=48, tie_word_embeddings=tied, attn_implementation="eager")
    rope = {"rope_theta": 5e4, "rope_type": "default"}
    if kind == "qwen2":
        theirs = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**shape, rope_parameters=rope))
    else:
        theirs = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**shape, head_dim=head_dim, rope_parameters=rope))
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():  # strong layers: a tied model of weak ones only repeats its last token
            parameter.add_(torch.randn_like(parameter) * (0.5 if "layers" in name else 0.15))
    ours = Llm(
        LlmConfig(
            kind=kind, vocab_size=61, width=32, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=head_dim, ffn_width=48, rope_theta=5e4,
            tie_embeddings=tied,
        )
    )  # fmt: skip
    weights = {_name(key): value for key, value in theirs.state_dict().items() if not (tied and key == "lm_head.weight")}
    ours.load_state_dict(weights)
    return theirs.eval(), ours.eval()


def _ids(lens, seed=1):
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 61, (n,), generator=g) for n in lens]


def _forward(ours, rows):
    packing = Packing.from_lens([len(row) for row in rows])
    return ours.logits(ours(ours.embed(torch.cat(rows)), packing.offset_T, packing))


@pytest.mark.parametrize(("kind", "tied"), CASES)
def test_packed_logits_equal_one_call_of_theirs_per_sequence(transformers, kind, tied):
    theirs, ours = _pair(transformers, kind, tied)
    rows = _ids([9, 23, 1, 21, 9])
    with torch.no_grad():
        want = torch.cat([theirs(row[None]).logits[0] for row in rows])
        got = _forward(ours, rows)
    assert float(want.abs().max()) > 1.0
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kind", "tied"), CASES)
def test_gradients_of_the_language_model_loss(transformers, kind, tied):
    theirs, ours = _pair(transformers, kind, tied)
    row = _ids([17])[0]
    theirs(row[None], labels=row[None]).loss.backward()
    F.cross_entropy(_forward(ours, [row])[:-1], row[1:]).backward()
    own = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(own[_name(name)].grad, parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("kind", "tied"), CASES)
@torch.no_grad()
def test_batched_greedy_generation_token_for_token(transformers, kind, tied):
    theirs, ours = _pair(transformers, kind, tied)
    prompts, num_new = _ids([5, 12, 8], seed=4), 20
    settings = {"max_new_tokens": num_new, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    want = [theirs.generate(row[None], attention_mask=torch.ones_like(row[None]), **settings)[0, len(row) :].tolist() for row in prompts]
    packing = Packing.from_lens([len(row) for row in prompts])
    state = ours.init_state(3, 12 + num_new)
    hidden_TD = ours.prefill(ours.embed(torch.cat(prompts)), packing.offset_T, packing, state)
    token_B = ours.logits(hidden_TD[packing.cu_seqlens[1:].long() - 1]).argmax(-1)
    got = [token_B.tolist()]
    for _ in range(num_new - 1):
        token_B = ours.logits(ours.step(ours.embed(token_B), state)).argmax(-1)
        got.append(token_B.tolist())
    assert [list(row) for row in zip(*got, strict=True)] == want
    assert len({tuple(row) for row in want}) == 3 and all(len(set(row)) > 2 for row in want)  # not a constant
