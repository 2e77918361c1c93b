"""EChat on tiny random models: alone = in any batch, gradients reach every part, decoding = training forward."""

from dataclasses import dataclass, replace
from itertools import chain

import pytest
import torch

from osum_echat.config import AdapterConfig, CtcConfig, EncoderConfig, LlmConfig, LoraConfig, ModelConfig, SpeechConfig
from osum_echat.losses import ctc_loss, joint_cross_entropy
from osum_echat.model.build import build_model
from osum_echat.text.vocab import IGNORE, JointVocab

VOCAB = JointVocab(40, 10)


@dataclass(frozen=True)
class TinyBatch:
    ids_T: torch.Tensor
    labels_T: torch.Tensor
    positions_T: torch.Tensor
    cu_seqlens: torch.Tensor
    mel_BFM: torch.Tensor
    mel_lens_B: torch.Tensor
    audio_slots_T: torch.Tensor


def config(**changes):
    return ModelConfig(
        encoder=EncoderConfig(num_mels=8, width=16, num_layers=2, num_heads=2, ffn_width=24),
        adapter=AdapterConfig(num_layers=1, num_heads=2, ffn_width=24, dropout=0.0),
        llm=LlmConfig(
            vocab_size=40, width=24, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, ffn_width=32, **changes.pop("llm", {})
        ),
        speech=SpeechConfig(codebook_size=10),
        **changes,
    )


def model_of(cfg, seed=0):
    torch.manual_seed(seed)
    model = build_model(cfg)
    with torch.no_grad():  # livelier than the initialisation, so that a leak between sequences would show
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def make_batch(rows, seed=0):
    """rows: (frames of audio or 0, number of answer tokens); the content depends on the row only, not on its place."""
    ids, labels, mels, slots = [], [], [], []
    for frames, answer in rows:
        g = torch.Generator().manual_seed(seed + 100 * frames + answer)
        row = torch.randint(0, 40, (3,), generator=g).tolist()
        if frames:
            num_slots = ((frames + 1) // 2 + 1) // 2
            num_slots = (num_slots + 1) // 2
            row.append(VOCAB.audio_begin)
            slots += [sum(map(len, ids)) + len(row) + i for i in range(num_slots)]
            row += [VOCAB.audio_slot] * num_slots + [VOCAB.audio_end]
            mels.append(torch.randn(frames, 8, generator=g))
        tail = torch.randint(0, VOCAB.num_output, (answer,), generator=g).tolist()
        label = [IGNORE] * (len(row) - 1) + tail + [IGNORE]
        ids.append(row + tail)
        labels.append(label)
    lens = [len(row) for row in ids]
    return TinyBatch(
        torch.tensor(list(chain(*ids))),
        torch.tensor(list(chain(*labels))),
        torch.cat([torch.arange(n) for n in lens]),
        torch.tensor([0, *lens]).cumsum(0).to(torch.int32),
        torch.nn.utils.rnn.pad_sequence(mels, batch_first=True) if mels else torch.zeros(0, 0, 8),
        torch.tensor([len(m) for m in mels], dtype=torch.long),
        torch.tensor(slots, dtype=torch.long),
    )


ROWS = [(33, 4), (0, 5), (34, 2), (47, 7), (301, 3), (400, 6)]


def test_alone_equals_in_any_batch():
    model = model_of(config()).eval()
    together = model(make_batch(ROWS)).hidden_TD
    reordered = [ROWS[i] for i in (4, 2, 0, 3, 5, 1)]
    shuffled = dict(zip(reordered, _rows_of(model, reordered), strict=True))
    start = 0
    for row in ROWS:
        alone = model(make_batch([row])).hidden_TD
        part = together[start : start + len(alone)]
        torch.testing.assert_close(part, alone, rtol=0, atol=1e-5)
        torch.testing.assert_close(shuffled[row], alone, rtol=0, atol=1e-5)
        start += len(alone)


def _rows_of(model, rows):
    batch = make_batch(rows)
    lens = (batch.cu_seqlens[1:] - batch.cu_seqlens[:-1]).tolist()
    return model(batch).hidden_TD.split(lens)


def test_what_lies_in_the_mel_padding_does_not_matter():
    model = model_of(config()).eval()
    batch = make_batch(ROWS)
    noisy = batch.mel_BFM.clone()
    for row, length in zip(noisy, batch.mel_lens_B.tolist(), strict=True):
        row[length:] = 7.0
    torch.testing.assert_close(model(replace(batch, mel_BFM=noisy)).hidden_TD, model(batch).hidden_TD, rtol=0, atol=1e-5)


def test_audio_reaches_the_answer_and_earlier_positions_do_not_see_later_ones():
    model = model_of(config()).eval()
    batch = make_batch([(33, 4)])
    h = model(batch).hidden_TD
    changed = model(replace(batch, mel_BFM=batch.mel_BFM * 1.5)).hidden_TD
    assert float((changed - h)[-1].detach().abs().max()) > 1e-3
    torch.testing.assert_close(changed[:4], h[:4])
    ids = batch.ids_T.clone()
    ids[-1] = (ids[-1] + 1) % 40
    later = model(replace(batch, ids_T=ids)).hidden_TD
    torch.testing.assert_close(later[:-1], h[:-1])
    assert float((later - h)[-1].detach().abs().max()) > 1e-3


def test_every_parameter_gets_a_gradient():
    model = model_of(config(ctc=CtcConfig(weight=0.3), lora=LoraConfig(rank=2, alpha=4.0, dropout=0.0, targets=["q_proj"])))
    batch = make_batch(ROWS)
    out = model(batch)
    head = model.head_weights()
    loss, count = joint_cross_entropy(out.hidden_TD, batch.labels_T, head.text_VD, head.speech_CD, head.speech_bias_C)
    assert int(count) == sum(answer for _, answer in ROWS)
    extra, num_ctc = ctc_loss(out.ctc_logits_EC, out.encoder_lens, torch.tensor([1, 2, 3]), torch.tensor([1, 0, 2, 0, 0]))
    assert int(num_ctc) == 3
    (loss + extra).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or float(p.grad.abs().sum()) == 0.0]
    assert without == []


def test_gradient_checkpointing_changes_nothing():
    grads = []
    for on in (False, True):
        cfg = config(llm={"gradient_checkpointing": on})
        cfg = cfg.model_copy(update={"encoder": cfg.encoder.model_copy(update={"gradient_checkpointing": on})})
        model = model_of(cfg).train()
        model(make_batch(ROWS)).hidden_TD.square().sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*grads)


def test_a_batch_without_audio_and_a_wrong_number_of_slots():
    model = model_of(config(ctc=CtcConfig(weight=0.3)))
    out = model(make_batch([(0, 5), (0, 3)]))
    assert out.hidden_TD.shape == (14, 24) and out.ctc_logits_EC is None
    batch = make_batch([(33, 4)])
    with pytest.raises(ValueError, match=r"5 adapter frames.*4 audio slots"):
        model(replace(batch, audio_slots_T=batch.audio_slots_T[:-1]))


def test_embeddings_of_the_joint_ids():
    model = model_of(config())
    ids = torch.tensor([0, 39, 40, VOCAB.boundary, VOCAB.audio_begin, VOCAB.audio_end])
    want = [*model.llm.embed.weight[[0, 39]], *model.speech.embed.weight[[0, 10, 11, 12]]]
    torch.testing.assert_close(model.embed_ids(ids), torch.stack(want))
    assert model.speech.embed.num_embeddings == VOCAB.num_speech_input and model.speech.num_output == VOCAB.num_speech_output


@torch.no_grad()
def test_bfloat16_autocast_is_close():
    model = build_model(config()).eval()
    batch = make_batch(ROWS)
    want = model(batch).hidden_TD
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = model(batch).hidden_TD
    assert got.dtype == torch.bfloat16
    assert float((got.float() - want).norm() / want.norm()) < 0.03


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_prefill_and_steps_equal_the_packed_forward(kind):
    model = model_of(config(llm={"kind": kind})).eval()
    batch = make_batch(ROWS)
    lens = (batch.cu_seqlens[1:] - batch.cu_seqlens[:-1]).tolist()
    with torch.no_grad():
        want = model(batch).hidden_TD.split(lens)
        embedded = model.embed(batch).split(lens)
        cut = [n - min(answer, 3) for n, (_, answer) in zip(lens, ROWS, strict=True)]
        from osum_echat.model.packing import Packing

        state = model.llm.init_state(len(lens), max(lens))
        prompt = torch.cat([x[:n] for x, n in zip(embedded, cut, strict=True)])
        positions = torch.cat([torch.arange(n) for n in cut])
        hidden = model.llm.prefill(prompt, positions, Packing.from_lens(cut), state).split(cut)
        for got, expected, n in zip(hidden, want, cut, strict=True):
            torch.testing.assert_close(got, expected[:n], rtol=0, atol=1e-5)
        for step in range(2):
            h = model.llm.step(torch.stack([x[n + step] for x, n in zip(embedded, cut, strict=True)]), state)
            for got, expected, n in zip(h, want, cut, strict=True):
                torch.testing.assert_close(got, expected[n + step], rtol=0, atol=1e-5)
        rows = [5, 0, 3]
        state = state.select(rows)
        h = model.llm.step(torch.stack([embedded[row][cut[row] + 2] for row in rows]), state)
        for got, row in zip(h, rows, strict=True):
            torch.testing.assert_close(got, want[row][cut[row] + 2], rtol=0, atol=1e-5)
        assert state.lens_B.tolist() == [cut[row] + 3 for row in rows] == state.row_lens


def test_a_full_or_used_state_is_refused():
    from osum_echat.model.packing import Packing

    model = model_of(config()).eval()
    state = model.llm.init_state(1, 2)
    x, positions = torch.randn(2, 24), torch.arange(2)
    with pytest.raises(ValueError, match="capacity 2"):
        model.llm.prefill(torch.randn(3, 24), torch.arange(3), Packing.from_lens([3]), state)
    model.llm.prefill(x, positions, Packing.from_lens([2]), state)
    with pytest.raises(ValueError, match="full"):
        model.llm.step(x[:1], state)
    with pytest.raises(ValueError, match="empty state"):
        model.llm.prefill(x, positions, Packing.from_lens([2]), state)
