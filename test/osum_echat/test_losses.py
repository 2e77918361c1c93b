"""Losses against torch on full logits."""

import pytest
import torch
import torch.nn.functional as F

from osum_echat import losses
from osum_echat.losses import ctc_loss, distillation_kl, joint_cross_entropy, score_positions
from osum_echat.text.vocab import IGNORE

V, C, D, T = 53, 9, 12, 41


def _problem(seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(s, generator=g).to(dtype).requires_grad_() for s in ((T, D), (V, D), (C, D), (C,))]
    labels = torch.randint(0, V + C, (T,), generator=g)
    labels[torch.rand(T, generator=g) < 0.6] = IGNORE
    return tensors, labels


def _full(tensors, labels):
    """A head for each sort, the logits of every position, the labels of the other sort ignored."""
    hidden, text, speech, bias = tensors
    of_text = labels.where(labels < V, IGNORE)
    of_speech = (labels - V).where(labels >= V, IGNORE)
    pairs = (((hidden @ text.t()).float(), of_text), ((hidden @ speech.t() + bias).float(), of_speech))
    return sum(F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum") for logits, target in pairs)


@pytest.mark.parametrize("slices", [1, 100, None])
@pytest.mark.parametrize("chunk", [1, 7, None])
def test_joint_cross_entropy_equals_full_logits(chunk, slices, monkeypatch):
    if slices:
        monkeypatch.setattr(losses, "_SLICE_ELEMENTS", {"cpu": slices})
    tensors, labels = _problem()
    want = _full(tensors, labels)
    want_grads = torch.autograd.grad(want / 7, tensors)
    loss, count = joint_cross_entropy(tensors[0], labels, *tensors[1:], chunk=chunk)
    grads = torch.autograd.grad(loss / 7, tensors)
    assert int(count) == int((labels != IGNORE).sum())
    torch.testing.assert_close(loss, want, rtol=1e-5, atol=1e-5)
    for got, expected in zip(grads, want_grads, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_tied_embedding_gets_gradients_from_both_uses():
    tensors, labels = _problem(1)
    ids = torch.randint(0, V, (T,))
    results = []
    for use_ours in (True, False):
        table = tensors[1].detach().clone().requires_grad_()
        hidden = F.embedding(ids, table) * 2
        args = (hidden, table, *tensors[2:])
        loss = joint_cross_entropy(args[0], labels, *args[1:])[0] if use_ours else _full(args, labels)
        loss.backward()
        results.append(table.grad)
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def test_frozen_weights_get_no_gradient_and_hidden_still_does():
    tensors, labels = _problem(2)
    frozen = [t.detach() for t in tensors[1:]]
    loss, _ = joint_cross_entropy(tensors[0], labels, *frozen)
    loss.backward()
    want = torch.autograd.grad(_full(tensors, labels), tensors[0])[0]
    torch.testing.assert_close(tensors[0].grad, want, rtol=1e-5, atol=1e-5)
    assert all(t.grad is None for t in frozen)


def test_partially_frozen():
    tensors, labels = _problem(3)
    args = [tensors[0].detach(), tensors[1].detach(), tensors[2], tensors[3]]
    joint_cross_entropy(args[0], labels, *args[1:])[0].backward()
    want = torch.autograd.grad(_full(tensors, labels), tensors[2:])
    torch.testing.assert_close(tensors[2].grad, want[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tensors[3].grad, want[1], rtol=1e-5, atol=1e-5)


def test_no_supervised_rows():
    tensors, _ = _problem()
    loss, count = joint_cross_entropy(tensors[0], torch.full((T,), IGNORE), *tensors[1:])
    loss.backward()
    assert float(loss.detach()) == 0.0 and int(count) == 0
    assert all(float(t.grad.abs().max()) == 0.0 for t in tensors)


def test_bfloat16_autocast_is_close_and_returns_float32_gradients():
    tensors, labels = _problem(4)
    want = _full(tensors, labels)
    want_grads = torch.autograd.grad(want, tensors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = joint_cross_entropy(tensors[0], labels, *tensors[1:], chunk=5)
    grads = torch.autograd.grad(loss, tensors)
    assert abs(float((loss - want).detach())) < 0.01 * float(want.detach())
    for got, expected in zip(grads, want_grads, strict=True):
        assert got.dtype == torch.float32
        assert float((got - expected).norm() / expected.norm()) < 0.02


def test_pure_bfloat16_weights():
    tensors, labels = _problem(5, torch.bfloat16)
    loss, _ = joint_cross_entropy(tensors[0], labels, *tensors[1:])
    loss.backward()
    want = torch.autograd.grad(_full(tensors, labels), tensors)
    for got, expected in zip(tensors, want, strict=True):
        assert got.grad.dtype == torch.bfloat16
        assert float((got.grad.float() - expected.float()).norm() / expected.float().norm()) < 0.03


def test_second_backward_is_refused():
    tensors, labels = _problem()
    loss, _ = joint_cross_entropy(tensors[0], labels, *tensors[1:])
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


def test_wrong_label_shape_is_named():
    tensors, labels = _problem()
    with pytest.raises(ValueError, match="41 hidden states"):
        joint_cross_entropy(tensors[0], labels[:-1], *tensors[1:])


def test_score_positions_agrees_with_the_loss_and_argmax():
    tensors, labels = _problem(6)
    labels[3] = int((tensors[0][3] @ tensors[1].t()).argmax())
    labels[5] = V + int((tensors[0][5] @ tensors[2].t() + tensors[3]).argmax())
    scores, correct, index = score_positions(tensors[0], labels, *tensors[1:])
    text, speech = (tensors[0] @ tensors[1].t()).argmax(1), (tensors[0] @ tensors[2].t() + tensors[3]).argmax(1) + V
    best = text.where(labels < V, speech)
    torch.testing.assert_close(scores.sum(), _full(tensors, labels).detach(), rtol=1e-5, atol=1e-5)
    assert index.tolist() == (labels != IGNORE).nonzero().flatten().tolist()
    assert correct.tolist() == (best == labels)[index].tolist() and not scores.requires_grad
    assert score_positions(tensors[0], torch.full((T,), IGNORE), *tensors[1:])[0].numel() == 0


def test_a_sort_that_has_no_label_gets_no_gradient_and_costs_no_column():
    tensors, labels = _problem(8)
    for keep, silent in ((labels < V, (2, 3)), (labels >= V, (1,))):
        some = labels.where(keep, IGNORE)
        loss, count = joint_cross_entropy(tensors[0], some, *tensors[1:])
        grads = torch.autograd.grad(loss, tensors)
        assert int(count) == int((some != IGNORE).sum()) > 3
        assert all(float(grads[n].abs().max()) == 0.0 for n in silent)
        torch.testing.assert_close(loss, _full(tensors, some), rtol=1e-5, atol=1e-5)


def test_ctc_equals_one_utterance_at_a_time():
    torch.manual_seed(0)
    frame_lens, target_lens, vocab = (9, 14, 6, 11), [3, 5, 0, 2], 7
    logits = torch.randn(sum(frame_lens), vocab + 1, requires_grad=True)
    ids = torch.randint(0, vocab, (sum(target_lens),))
    loss, count = ctc_loss(logits, frame_lens, ids, torch.tensor(target_lens))
    want, frame, target = torch.zeros(()), 0, 0
    for num_frames, num_ids in zip(frame_lens, target_lens, strict=True):
        if num_ids:
            log_probs = logits[frame : frame + num_frames].log_softmax(-1)
            want = want + F.ctc_loss(
                log_probs, ids[target : target + num_ids], torch.tensor(num_frames), torch.tensor(num_ids), blank=vocab, reduction="sum"
            )
        frame, target = frame + num_frames, target + num_ids
    assert int(count) == sum(target_lens)
    torch.testing.assert_close(loss, want, rtol=1e-5, atol=1e-5)
    got, expected = torch.autograd.grad(loss, logits)[0], torch.autograd.grad(want, logits)[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_ctc_impossible_is_zero_but_counted_and_nothing_to_do_is_zero():
    logits = torch.randn(5, 4, requires_grad=True)
    loss, count = ctc_loss(logits, (2, 3), torch.tensor([0, 1, 2, 0, 1]), torch.tensor([5, 0]))
    loss.backward()
    assert float(loss.detach()) == 0.0 and int(count) == 5 and bool(torch.isfinite(logits.grad).all())
    loss, count = ctc_loss(logits, (2, 3), torch.zeros(0, dtype=torch.long), torch.tensor([0, 0]))
    loss.backward()
    assert float(loss.detach()) == 0.0 and int(count) == 0


def test_ctc_lengths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="5 frames"):
        ctc_loss(torch.randn(5, 4), (2, 2), torch.tensor([0]), torch.tensor([1, 0]))


def _twins(num: int = 9, seed: int = 0):
    """A problem whose first positions are teachers and the next ones their students, with labels of both sorts."""
    tensors, labels = _problem(seed)
    generator = torch.Generator().manual_seed(seed)
    labels[num : 2 * num] = labels[:num] = torch.randint(0, V + C, (num,), generator=generator)
    return tensors, labels, torch.stack([torch.arange(num), torch.arange(num, 2 * num)], dim=1)


@pytest.mark.parametrize("chunk", [1, 4, None])
def test_distillation_is_the_divergence_within_the_sort(chunk):
    (hidden, text, speech, bias), labels, twins = _twins()
    loss, count = distillation_kl(hidden, twins, labels, text, speech, bias, chunk=chunk)
    want = torch.zeros(())
    for teacher, student in twins.tolist():
        is_text = labels[student] < V
        logits = [h @ text.t() if is_text else h @ speech.t() + bias for h in (hidden[teacher].detach(), hidden[student])]
        p, q = logits[0].detach().softmax(-1), logits[1].softmax(-1)
        want = want + (p * (p / q).log()).sum()
    torch.testing.assert_close(loss, want, rtol=1e-5, atol=1e-5)
    assert int(count) == len(twins)
    grads = torch.autograd.grad(loss, hidden, retain_graph=True)[0], torch.autograd.grad(want, hidden)[0]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)
    assert grads[0][twins[:, 0]].abs().max() == 0 and grads[0][twins[:, 1]].abs().min() > 0  # nothing reaches the teacher


def test_the_heads_learn_from_the_student_side_only():
    (hidden, text, speech, bias), labels, twins = _twins(seed=3)
    loss, _ = distillation_kl(hidden.detach(), twins, labels, text, speech, bias)
    got = torch.autograd.grad(loss, (text, speech, bias))
    frozen = [tensor.detach() for tensor in (text, speech, bias)]
    is_text = labels[twins[:, 1]] < V
    want = [torch.zeros_like(tensor) for tensor in frozen]
    for (teacher, student), of_text in zip(twins.tolist(), is_text.tolist(), strict=True):
        weight, shift = (frozen[0], None) if of_text else (frozen[1], frozen[2])
        p, q = (F.linear(hidden[place].detach(), weight, shift).softmax(-1) for place in (teacher, student))
        want[0 if of_text else 1] += torch.outer(q - p, hidden[student].detach())
        if not of_text:
            want[2] += q - p
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_twins_that_agree_cost_nothing_and_none_is_legal():
    (hidden, text, speech, bias), labels, twins = _twins()
    same = hidden.detach().clone()
    same[twins[:, 1]] = same[twins[:, 0]]
    same.requires_grad_()
    loss, _ = distillation_kl(same, twins, labels, text, speech, bias)
    assert float(loss) == pytest.approx(0.0, abs=1e-5)
    assert torch.autograd.grad(loss, same)[0].abs().max() < 1e-6
    loss, count = distillation_kl(hidden, twins[:0], labels, text, speech, bias)
    assert float(loss) == 0.0 and int(count) == 0


def test_the_heads_learn_from_the_student_under_autocast_too():
    """Autocast keeps the casts it makes of weights; one made for the teacher must not stand in for the student's."""
    (hidden, text, speech, bias), labels, twins = _twins(seed=4)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = distillation_kl(hidden, twins, labels, text, speech, bias)
    got = torch.autograd.grad(loss, (hidden, text, speech, bias))
    exact, _ = distillation_kl(hidden, twins, labels, text, speech, bias)
    for one, other in zip(got, torch.autograd.grad(exact, (hidden, text, speech, bias)), strict=True):
        assert torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.99
        assert one.norm() / other.norm() == pytest.approx(1.0, abs=0.05)
