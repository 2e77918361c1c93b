"""Streaming flow: what comes out of any pushes is the offline mel, and nothing that came out changes later."""

import random

import pytest
import torch

from osum_echat.config_token2wav import FlowSamplingConfig
from osum_echat.errors import ConfigError, DataError
from osum_echat.token2wav.flow_stream import flush, init_state, push
from osum_echat.token2wav.length import num_mel_frames


def stream(flow, tokens_T, voice, generator, sizes, sampling=None):
    """Mel after every push, then after the flush."""
    state, begin, pieces = init_state(flow, voice, generator, sampling), 0, []
    for size in sizes:
        mel, state = push(flow, tokens_T[begin : begin + size], state)
        pieces.append(mel)
        begin += size
    assert begin == len(tokens_T)
    return [*pieces, flush(flow, state)]


def random_sizes(rng, total):
    sizes = []
    while sum(sizes) < total:
        sizes.append(min(rng.choice([0, 1, 1, 2, 3, 5, 18, 40]), total - sum(sizes)))
    return sizes


def lengths():
    """1 … 120, with the multiples of the hop (first chunk 5, later ones 10, look-ahead 3) and their neighbours."""
    rng = random.Random(1)
    return sorted(
        {1, 2, 3, 4, 5, 6, 7, 8, 9, 14, 15, 16, 17, 18, 19, 25, 28, 45, 48, 115, 118, 120, *(rng.randint(1, 120) for _ in range(12))}
    )


@pytest.mark.parametrize(
    ("prompt", "guidance", "dtype", "std"),
    [(0, 0.7, "float32", None), (9, 0.7, "float32", None), (30, 0.0, "float32", None), (9, 0.7, "float64", None), (9, 0.7, "float64", 0.3)],
)
def test_any_pushes_give_the_offline_mel(flows, prompt, guidance, dtype, std):
    """In float32 to 1e-5 of the mel's deviation; in float64 so closely that no frame can have seen anything else."""
    tolerance = {"float32": 1e-5, "float64": 1e-11}[dtype]
    flow = flows.tiny_flow(condition_std=std, prior_weight=1.0).to(getattr(torch, dtype))
    sampling = FlowSamplingConfig(num_steps=2, guidance=guidance, temperature=0.5 if std else 1.0, first_hop_tokens=8, hop_tokens=10)
    voice, rng = flows.voice(flow, prompt), random.Random(prompt)
    for length in lengths():
        tokens_T = flows.tokens(length, seed=length)
        (want,) = flow.synthesize([tokens_T], [voice], [flows.seeded(length)], sampling)
        assert want.shape == (2 * length, 8)
        for sizes in ([length], random_sizes(rng, length)):
            got = torch.cat(stream(flow, tokens_T, voice, flows.seeded(length), sizes, sampling))
            assert got.shape == want.shape
            torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * want.std().item())


def test_slower_tokens_and_no_look_ahead(flows):
    """12.5 tokens a second: four frames each."""
    flow = flows.tiny_flow(token_rate_hz=12.5, lookahead_tokens=0).double()
    voice, tokens_T = flows.voice(flow, 3), flows.tokens(29)
    (want,) = flow.synthesize([tokens_T], [voice], [flows.seeded()])
    got = stream(flow, tokens_T, voice, flows.seeded(), [8, 1, 12, 8])
    assert [len(mel) for mel in got] == [32, 0, 40, 40, 4]
    torch.testing.assert_close(torch.cat(got), want, rtol=1e-11, atol=1e-11)


def test_mel_comes_at_the_hops_and_not_earlier(flows):
    flow = flows.tiny_flow()
    tokens_T = flows.tokens(40)
    pieces = stream(flow, tokens_T, flows.voice(flow), flows.seeded(), [1] * 40)
    arrivals = {i + 1: len(mel) for i, mel in enumerate(pieces[:-1]) if len(mel)}
    assert arrivals == {8: 10, 18: 20, 28: 20, 38: 20}  # first hop 8 of which 3 are look-ahead
    assert len(pieces[-1]) == 80 - 70


def test_what_follows_never_changes_what_came(flows):
    """Also across different endings: the mel that was out before the answers part is bit for bit the same."""
    flow = flows.tiny_flow()
    voice, common = flows.voice(flow, 6), flows.tokens(31)
    outs = []
    for seed in (1, 2):
        tokens_T = torch.cat((common, flows.tokens(20, seed)))
        outs.append(stream(flow, tokens_T, voice, flows.seeded(), [31, 20]))
    assert len(outs[0][0]) == 50 and torch.equal(outs[0][0], outs[1][0])
    assert not torch.equal(outs[0][1], outs[1][1])


def test_every_part_of_the_memory_matters(flows):
    """A test of the tests: without the memory of one block the stream is not the offline mel."""
    flow, tokens_T = flows.tiny_flow(), flows.tokens(30)
    voice = flows.voice(flow)
    _, state = push(flow, tokens_T[:20], init_state(flow, voice, flows.seeded()))
    want, _ = push(flow, tokens_T[20:], state)
    for name in ("encoder", "regulator"):
        memory = getattr(state, name)
        for i in range(len(memory)):
            damaged = (*memory[:i], torch.zeros_like(memory[i]), *memory[i + 1 :])
            got, _ = push(flow, tokens_T[20:], type(state)(**{**vars(state), name: damaged}))
            assert (got - want).abs().max() > 1e-4, (name, i)
    for i in range(len(state.estimator[0])):
        damaged = tuple((*step[:i], torch.zeros_like(step[i]), *step[i + 1 :]) for step in state.estimator)
        got, _ = push(flow, tokens_T[20:], type(state)(**{**vars(state), "estimator": damaged}))
        assert (got - want).abs().max() > 1e-4, ("estimator", i)


def test_a_state_is_a_value(flows):
    flow, tokens_T = flows.tiny_flow(), flows.tokens(30)
    start = init_state(flow, flows.voice(flow, 5), flows.seeded())
    first, state = push(flow, tokens_T, start)
    push(flow, tokens_T.flip(0), state)
    again, _ = push(flow, tokens_T, start)
    assert len(first) == 50 and torch.equal(first, again) and torch.equal(flush(flow, state), flush(flow, state))


def test_memory_is_bounded(flows):
    flow = flows.tiny_flow()
    state = init_state(flow, flows.voice(flow, 20), flows.seeded())
    sizes = []
    for i in range(6):
        _, state = push(flow, flows.tokens(30, i), state)
        sizes.append(sum(x.numel() for step in state.estimator for x in step) + sum(x.numel() for x in state.encoder))
    assert len(set(sizes[1:])) == 1


def test_the_seed_is_the_requests_own(flows):
    flow, tokens_T, voice = flows.tiny_flow(), flows.tokens(20), flows.voice(flows.tiny_flow())
    generator = flows.seeded(5)
    outs = [torch.cat(stream(flow, tokens_T, voice, generator, [20])) for _ in range(2)]
    assert torch.equal(*outs)  # the generator was copied, not advanced
    torch.manual_seed(99)
    torch.randn(3)
    assert torch.equal(torch.cat(stream(flow, tokens_T, voice, flows.seeded(5), [20])), outs[0])
    assert not torch.allclose(torch.cat(stream(flow, tokens_T, voice, flows.seeded(6), [20])), outs[0])


def test_interface_of_the_non_causal_flow_is_the_same(flows):
    flow = flows.tiny_flow(causal=False)
    voice = flows.voice(flow, 7)
    for length in (1, 40, 41, 77):
        tokens_T = flows.tokens(length)
        pieces = stream(flow, tokens_T, voice, flows.seeded(2), random_sizes(random.Random(0), length))
        (want,) = flow.synthesize([tokens_T], [voice], [flows.seeded(2)])
        assert all(len(mel) == 0 for mel in pieces[:-1]) and len(pieces[-1]) == num_mel_frames(length, flow.cfg)
        assert torch.equal(pieces[-1], want)


@pytest.mark.parametrize("causal", [True, False])
def test_an_answer_without_tokens_has_no_mel(flows, causal):
    flow = flows.tiny_flow(causal)
    state = init_state(flow, flows.voice(flow, 4), flows.seeded())
    mel, state = push(flow, flows.tokens(0), state)
    assert mel.shape == (0, 8) and flush(flow, state).shape == (0, 8)


def test_bad_input_is_named(flows):
    flow = flows.tiny_flow()
    state = init_state(flow, flows.voice(flow), flows.seeded())
    with pytest.raises(DataError, match="speech token 50 at place 2 is outside of the codebook of 50"):
        push(flow, torch.tensor([1, 2, 50]), state)
    with pytest.raises(ConfigError, match="first_hop_tokens 3 must exceed lookahead_tokens 3"):
        init_state(flow, flows.voice(flow), flows.seeded(), FlowSamplingConfig(first_hop_tokens=3))
