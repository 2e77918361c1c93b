"""The tokenizer: lengths, padding, batches, gradients, both codebooks; and that the frames behind the codes see nothing but the codes."""

import pytest
import torch

from osum_echat.audio.features import num_mel_frames, num_speech_tokens
from osum_echat.config import EncoderConfig, SpeechTokenizerConfig
from osum_echat.config_token2wav import QuantizerConfig
from osum_echat.errors import DataError
from osum_echat.losses import ctc_loss
from osum_echat.text.vocab import NUM_BYTES
from osum_echat.token2wav.speech_tokenizer import build_speech_tokenizer

FSQ = {"codebook_size": 64, "levels": [4, 4, 4]}
VQ = {"kind": "vq", "codebook_size": 64}


def make(quantizer=FSQ, frames_per_token=2, seed=0):
    torch.manual_seed(seed)
    cfg = SpeechTokenizerConfig(
        encoder=EncoderConfig(num_mels=80, width=32, num_layers=2, num_heads=2, ffn_width=48),
        quantizer=QuantizerConfig(**quantizer),
        frames_per_token=frames_per_token,
        num_layers_after=1,
    )
    model = build_speech_tokenizer(cfg)
    if quantizer is VQ:
        mel = model.log_mel(waves(160000)[0]).unsqueeze(0)
        model.quantizer.start(model.latents(mel, [mel.shape[1]])[0].detach(), seed)
    return model.eval()


def waves(*lengths):
    """Tones that change every 20 ms, so that neighbouring tokens differ."""
    result = []
    for length in lengths:
        draw = torch.Generator().manual_seed(length)
        hertz = (100 * 60 ** torch.rand(length // 320 + 1, generator=draw)).repeat_interleave(320)[:length]
        result.append(0.3 * (2 * torch.pi * hertz.cumsum(0) / 16000).sin() + 1e-3 * torch.randn(length, generator=draw))
    return result


@pytest.mark.parametrize("frames_per_token", [1, 2, 4])
def test_lengths_follow_the_formula(frames_per_token):
    model = make(frames_per_token=frames_per_token)
    lengths = [201, 319, 320, 479, 480, 640, 800, 1279, 1280, 1281, 3999, 16000, 16160]
    for length, codes in zip(lengths, model.encode_samples(waves(*lengths)), strict=True):
        assert len(codes) == num_speech_tokens(length, frames_per_token) >= 1
    assert num_speech_tokens(16000 * 10, 2) == 250 and num_speech_tokens(16000 * 10, 4) == 125, "25 and 12.5 tokens a second"
    assert num_speech_tokens(0) == 0


@pytest.mark.parametrize("quantizer", [FSQ, VQ])
@pytest.mark.parametrize("frames_per_token", [2, 4])
def test_alone_and_in_any_batch_the_codes_are_the_same(quantizer, frames_per_token):
    model = make(quantizer, frames_per_token)
    samples = waves(5000, 16000, 333, 12345, 7777, 4800)
    together = model.encode_samples(samples)
    assert len({int(code) for codes in together for code in codes}) > 5, "a model that says one code proves nothing"
    backwards = model.encode_samples(samples[::-1])[::-1]
    for one, codes, other in zip(samples, together, backwards, strict=True):
        assert torch.equal(model.encode_samples([one])[0], codes)
        assert torch.equal(other, codes)


def test_what_is_padded_does_not_matter():
    """Rubbish behind the end of a log-mel changes neither codes nor CTC logits."""
    model = make()
    mels = [model.log_mel(samples_S) for samples_S in waves(4000, 9000)]
    padded = torch.nn.utils.rnn.pad_sequence(mels, batch_first=True)
    rubbish = padded.clone()
    rubbish[0, len(mels[0]) :] = 1e3
    more = torch.nn.functional.pad(rubbish, (0, 0, 0, 37), value=-50.0)
    lens = [len(mel) for mel in mels]
    clean, dirty = model(padded, lens), model(more, lens)
    assert torch.equal(clean.codes_N, dirty.codes_N)
    torch.testing.assert_close(clean.ctc_logits_EC, dirty.ctc_logits_EC, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("quantizer", [FSQ, VQ])
def test_forward_encode_and_ctc_agree(quantizer):
    model = make(quantizer, frames_per_token=4)
    mels = [model.log_mel(samples_S) for samples_S in waves(4000, 9000)]
    output = model(torch.nn.utils.rnn.pad_sequence(mels, batch_first=True), [len(mel) for mel in mels])
    tokens = [num_speech_tokens(n, 4) for n in (4000, 9000)]
    assert torch.equal(torch.cat(model.encode(mels)), output.codes_N)
    assert output.ctc_lens == tuple(4 * n for n in tokens) and output.ctc_logits_EC.shape == (4 * sum(tokens), NUM_BYTES + 1)
    assert all(4 * n >= (num_mel_frames(s) + 1) // 2 for n, s in zip(tokens, (4000, 9000), strict=True)), "CTC keeps its frames"


def test_transcription_sees_nothing_but_the_codes():
    """Two log-mels with the same codes have the same logits: nothing leaks past the codebook."""
    model = make()
    mel = model.log_mel(waves(6000)[0])
    near = mel + 1e-4 * torch.randn(mel.shape, generator=torch.Generator().manual_seed(0))
    first, second = (model(x.unsqueeze(0), [len(x)]) for x in (mel, near))
    far = model(torch.randn(1, *mel.shape), [len(mel)])
    assert torch.equal(first.codes_N, second.codes_N)
    assert torch.equal(first.ctc_logits_EC, second.ctc_logits_EC)
    assert not torch.equal(far.ctc_logits_EC, first.ctc_logits_EC)


@pytest.mark.parametrize("quantizer", [FSQ, VQ])
def test_every_parameter_is_trained(quantizer):
    model = make(quantizer).train()
    mel = model.log_mel(waves(8000)[0])
    output = model(mel.unsqueeze(0), [len(mel)])
    loss, _ = ctc_loss(output.ctc_logits_EC, output.ctc_lens, torch.tensor([1, 2, 3]), torch.tensor([3]))
    (loss + output.codebook_loss).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or float(p.grad.abs().max()) == 0]
    assert not silent


def test_too_short_and_empty():
    model = make()
    with pytest.raises(DataError, match="at least 201 samples"):
        model.encode_samples(waves(200))
    assert model.encode([]) == []


def test_encoding_leaves_the_model_alone():
    model = make(VQ).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.encode_samples(waves(4000))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
