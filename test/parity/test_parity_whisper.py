"""Our encoder against openai-whisper's and transformers' on random weights, with the 30 s input that both of them insist on."""

import pytest
import torch

from osum_echat.config import EncoderConfig
from osum_echat.model.encoder import SpeechEncoder

WIDTH, LAYERS, HEADS, MELS = 32, 3, 4, 80
OPENAI = {
    "attn.query": "q_proj", "attn.key": "k_proj", "attn.value": "v_proj", "attn.out": "o_proj",
    "attn_ln": "norm1", "mlp.0": "up_proj", "mlp.2": "down_proj", "mlp_ln": "norm2",
}  # fmt: skip
HUGGING_FACE = {
    "self_attn.q_proj": "q_proj", "self_attn.k_proj": "k_proj", "self_attn.v_proj": "v_proj", "self_attn.out_proj": "o_proj",
    "self_attn_layer_norm": "norm1", "fc1": "up_proj", "fc2": "down_proj", "final_layer_norm": "norm2",
}  # fmt: skip
OUTER = {"ln_post": "after_norm", "layer_norm": "after_norm", "conv1": "conv1", "conv2": "conv2"}


def _openai(request):
    whisper_model = request.getfixturevalue("whisper_model")
    theirs = whisper_model.AudioEncoder(MELS, 1500, WIDTH, HEADS, LAYERS)
    return theirs, lambda mel_FM: theirs(mel_FM.t()[None])[0], "blocks", OPENAI


def _hugging_face(request):
    transformers = request.getfixturevalue("transformers")
    cfg = transformers.WhisperConfig(
        num_mel_bins=MELS, d_model=WIDTH, encoder_layers=LAYERS, encoder_attention_heads=HEADS, encoder_ffn_dim=4 * WIDTH,
        decoder_layers=1, decoder_attention_heads=HEADS, max_source_positions=1500, attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.WhisperModel(cfg).encoder
    return theirs, lambda mel_FM: theirs(mel_FM.t()[None]).last_hidden_state[0], "layers", HUGGING_FACE


@pytest.mark.parametrize("oracle", [_openai, _hugging_face])
@torch.no_grad()
def test_thirty_seconds_alone_and_in_a_batch(oracle, request):
    torch.manual_seed(0)
    theirs, run, stack, inner = oracle(request)
    weights = {}
    for key, tensor in theirs.state_dict().items():
        if "position" in key:
            continue
        tensor.add_(torch.randn_like(tensor) * 0.1)  # in place: theirs changes as well
        name, kind = key.rsplit(".", 1)
        if name.startswith(stack):
            _, layer, part = name.split(".", 2)
            weights[f"layers.{layer}.{inner[part]}.{kind}"] = tensor
        else:
            weights[f"{OUTER[name]}.{kind}"] = tensor
    ours = SpeechEncoder(EncoderConfig(num_mels=MELS, width=WIDTH, num_layers=LAYERS, num_heads=HEADS, ffn_width=4 * WIDTH)).eval()
    ours.load_state_dict(weights)  # strict: every tensor of theirs has its place in ours
    mel_FM = torch.randn(3000, MELS)
    want = run(mel_FM)
    assert want.shape == (1500, WIDTH) and float(want.std()) > 0.5
    got, packing = ours(mel_FM[None], [3000])
    assert packing.lens == (1500,)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
    padded = torch.nn.utils.rnn.pad_sequence([torch.randn(301, MELS), mel_FM, torch.randn(3100, MELS)], batch_first=True)
    got, packing = ours(padded, [301, 3000, 3100])
    assert packing.lens == (151, 1500, 1550)
    torch.testing.assert_close(got[151:1651], want, rtol=0, atol=1e-4)
