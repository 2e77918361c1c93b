"""Token2wav: any pushes give the offline samples and exactly their number, seeds, the voice hook, broken input and weights."""

import random

import numpy as np
import pytest
import torch

from osum_echat.config_token2wav import FlowSamplingConfig, MelConfig, VocoderConfig
from osum_echat.errors import DataError
from osum_echat.generate.voice import Hops, Voice
from osum_echat.token2wav.stream import Token2wav
from osum_echat.token2wav.vocoder import Vocoder

HOP = 480


def make(flows, causal=True, **changes):
    """A random flow and vocoder that speak up: mel of 8 bins, 24 kHz."""
    torch.manual_seed(1)
    flow = flows.tiny_flow(causal, **({} if causal else {"sample_rate": 24000, "hop": HOP}), **changes)
    cfg = VocoderConfig(
        causal=causal, channels=16, upsample_rates=[8, 5], upsample_kernels=[16, 9], resblock_kernels=[3], resblock_dilations=[1, 3],
        source_kernels=[3, 3], istft_n_fft=48, istft_hop=12, f0_channels=8, num_harmonics=2,
    )  # fmt: skip
    vocoder = Vocoder(cfg, MelConfig(num_mels=8)).eval()
    with torch.no_grad():
        vocoder.f0_predictor.classifier.bias.fill_(100.0)
    vocoder.fold_weight_norm()
    return Token2wav(flow, vocoder)


def stream(token2wav, codes, seed, sizes):
    state, begin, pieces = token2wav.init_state(seed), 0, []
    for size in sizes:
        samples, state = token2wav.push(codes[begin : begin + size], state)
        pieces.append(samples)
        begin += size
    samples, _ = token2wav.flush(state)
    return [*pieces, samples]


def random_sizes(rng, total):
    sizes = []
    while sum(sizes) < total:
        sizes.append(min(rng.choice([0, 1, 1, 2, 5, 18, 40]), total - sum(sizes)))
    return sizes


@pytest.mark.parametrize("causal", [True, False])
def test_any_pushes_give_the_offline_samples(flows, causal):
    """Lengths of one token, around the hops (first chunk 5, later ones 10) and their multiples."""
    token2wav, rng = make(flows, causal), random.Random(0)
    for length in (1, 2, 4, 5, 6, 8, 15, 16, 18, 25, 35, 41, 65):
        codes = flows.tokens(length, seed=length)
        (want,) = token2wav.synthesize([codes], [length])
        assert want.dtype == np.float32 and want.shape == (length * 2 * HOP,) and np.abs(want).max() > 1e-3
        for sizes in ([length], random_sizes(rng, length)):
            got = np.concatenate(stream(token2wav, codes.tolist(), length, sizes))
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max(), rtol=0)


def test_samples_come_early_and_seams_are_no_louder_than_the_rest(flows):
    token2wav, codes = make(flows), flows.tokens(48)
    pieces = stream(token2wav, codes.tolist(), 3, [1] * 48)
    arrivals = {i + 1: len(piece) for i, piece in enumerate(pieces[:-1]) if len(piece)}
    assert list(arrivals) == [8, 18, 28, 38, 48]  # first hop 8, of which 3 are look-ahead
    assert 0 <= 5 * 2 * HOP - arrivals[8] < HOP  # behind its mel by less than a hop
    (want,) = token2wav.synthesize([codes], [3])
    error, seams = np.abs(np.concatenate(pieces) - want), np.cumsum([len(piece) for piece in pieces if len(piece)])[:-1]
    assert max(error[seam - 50 : seam + 50].max() for seam in seams) < 1e-3 * np.abs(want).max()


def test_a_batch_gives_what_each_answer_gives_alone(flows):
    token2wav, lengths = make(flows), [20, 1, 33]
    codes = [flows.tokens(length, length) for length in lengths]
    together = token2wav.synthesize(codes, [5, 6, 5])
    for row, length in enumerate(lengths):
        (alone,) = token2wav.synthesize([codes[row]], [[5, 6, 5][row]])
        np.testing.assert_allclose(together[row], alone, atol=1e-4 * np.abs(alone).max())
        assert len(alone) == length * 2 * HOP


def test_noise_is_the_requests_own_and_a_state_is_a_value(flows):
    token2wav, codes = make(flows), flows.tokens(30).tolist()
    start = token2wav.init_state(1)
    first, behind = token2wav.push(codes, start)
    torch.manual_seed(5)
    token2wav.push(codes[::-1], behind)
    again, again_behind = token2wav.push(codes, start)
    assert len(first) and np.array_equal(first, again)
    assert np.array_equal(token2wav.flush(behind)[0], token2wav.flush(again_behind)[0])
    other, _ = token2wav.push(codes, token2wav.init_state(2))
    assert not np.allclose(first, other, atol=1e-3)


@pytest.mark.parametrize(("first", "later"), [(18, 18), (5, 7), (100, 1)])
def test_it_is_the_synthesizer_of_a_voice(flows, first, later):
    token2wav, codes = make(flows), flows.tokens(50)
    voice = Voice(token2wav, Hops(first, later), seed=4)
    pieces = [voice.say(code) for code in codes.tolist()]
    assert voice.sample_rate == 24000
    (want,) = token2wav.synthesize([codes], [4])
    np.testing.assert_allclose(np.concatenate([*pieces, voice.finish()]), want, atol=2e-4 * np.abs(want).max())


def test_an_answer_without_speech_is_no_sound(flows):
    voice = Voice(make(flows), Hops(), seed=0)
    assert len(voice.finish()) == 0


def test_sampling_can_be_chosen(flows):
    token2wav = make(flows)
    fewer = Token2wav(token2wav.flow, token2wav.vocoder, sampling=FlowSamplingConfig(num_steps=1, first_hop_tokens=6, hop_tokens=10))
    codes = flows.tokens(30)
    assert (
        len(fewer.push(codes[:6].tolist(), fewer.init_state(0))[0])
        > 0
        == len(token2wav.push(codes[:6].tolist(), token2wav.init_state(0))[0])
    )
    assert not np.allclose(fewer.synthesize([codes], [0])[0], token2wav.synthesize([codes], [0])[0], atol=1e-3)


def test_wrong_codes_and_broken_weights_are_named(flows):
    token2wav = make(flows)
    with pytest.raises(DataError, match="speech token 50 at place 1 is outside of the codebook of 50"):
        token2wav.push([1, 50], token2wav.init_state(0))
    with pytest.raises(DataError) as empty:
        token2wav.synthesize([flows.tokens(0)], [0])
    assert empty.value.reason == "empty_speech"
    with torch.no_grad():
        token2wav.vocoder.conv_post.bias.fill_(float("nan"))
    for call in (lambda: token2wav.synthesize([flows.tokens(9)], [0]), lambda: stream(token2wav, flows.tokens(9).tolist(), 0, [9])):
        with pytest.raises(DataError, match="not finite") as broken:
            call()
        assert broken.value.reason == "non_finite"
