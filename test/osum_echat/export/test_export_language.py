"""encoder.pt and llm.pt against the eager model, and what the parity check sees."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from osum_echat.config import RunConfig
from osum_echat.errors import UserError
from osum_echat.export import jit
from osum_echat.export.bundle import PARTS, Bundle
from osum_echat.export.language import export_encoder, export_llm, ready_model
from osum_echat.export.parity import TOLERANCE, Check, check_parts, require
from osum_echat.export.runner import BundleLlm
from osum_echat.model.build import build_model
from osum_echat.model.echat import EChat
from osum_echat.token2wav.stream import Token2wav


def ids(length: int, seed: int) -> Tensor:
    return torch.randint(440 + 11, (length,), generator=torch.Generator().manual_seed(seed))


def close(got: Tensor, wanted: Tensor, tolerance: float = 2e-5) -> bool:
    return got.shape == wanted.shape and float((got - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


def alone(eager: EChat, prompt: Tensor, answer: Tensor) -> list[Tensor]:
    """Hidden states of one request that has the model to itself: behind the prompt, and behind every id of the answer."""
    with torch.no_grad():
        state = eager.llm.init_state(1, len(prompt) + len(answer))
        return [eager.llm.extend(eager.embed_ids(prompt), state)[-1:]] + [
            eager.llm.step(eager.embed_ids(answer[at : at + 1]), state) for at in range(len(answer))
        ]


def test_every_part_was_compared_and_is_equal(exported: tuple[object, list[Check]]) -> None:
    checks = exported[1]
    assert {check.part for check in checks} == {*PARTS, "session"}
    assert all(check.passed and check.num > 0 for check in checks)
    assert sum("samples" in check.what for check in checks) == 2


def test_requests_join_and_leave_between_steps(bundle: Bundle, eager: EChat) -> None:
    prompts, answers = [ids(n, n) for n in (7, 3, 12)], [ids(6, 50 + n) for n in range(3)]
    wanted = [alone(eager, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    llm = bundle.llm
    state = BundleLlm(bundle).init_state(4, 20)  # one row more than is ever used: a step takes the first rows
    keys, values, lens, said = state.keys, state.values, [], [0, 0, 0]

    def join(request: int) -> None:
        hidden = llm.extend(llm.embed_ids(prompts[request]), len(lens), 0, keys, values)
        assert close(hidden, wanted[request][0])
        lens.append(len(prompts[request]))

    def step(requests: list[int]) -> None:
        tokens = torch.stack([answers[request][said[request]] for request in requests])
        hidden = llm.step(llm.embed_ids(tokens), lens, keys, values)
        for row, request in enumerate(requests):
            said[request] += 1
            lens[row] += 1
            assert close(hidden[row : row + 1], wanted[request][said[request]]), (row, request)

    join(0)
    step([0])
    join(1)
    step([0, 1])
    join(2)
    step([0, 1, 2])
    for tensor in (*keys, *values):  # request 0 leaves: the last row takes its place
        tensor[0].copy_(tensor[2])
    lens[0] = lens.pop()
    step([2, 1])
    step([2, 1])


def test_a_second_turn_is_as_if_read_from_the_beginning(bundle: Bundle, eager: EChat) -> None:
    whole, llm = ids(15, 3), bundle.llm
    state = BundleLlm(bundle).init_state(2, 15)
    llm.extend(llm.embed_ids(whole[:9]), 1, 0, state.keys, state.values)
    assert close(llm.extend(llm.embed_ids(whole[9:]), 1, 9, state.keys, state.values), alone(eager, whole, whole[:0])[0])
    assert not any(keys[0].any() for keys in state.keys)  # the other row was not touched
    with pytest.raises(torch.jit.Error, match="capacity"):
        llm.extend(llm.embed_ids(whole[:1]), 1, 15, state.keys, state.values)
    with pytest.raises(torch.jit.Error, match="full"):
        llm.step(llm.embed_ids(whole[:2]), [3, 15], state.keys, state.values)


def test_any_length_of_audio(bundle: Bundle, eager: EChat) -> None:
    for frames in (1, 3, 50, 801):
        mel_FM = torch.randn(frames, 80, generator=torch.Generator().manual_seed(frames))
        with torch.no_grad():
            wanted = eager.adapter(*eager.encoder(mel_FM.unsqueeze(0), [frames]))[0]
        assert close(bundle.encoder(mel_FM), wanted)


def test_weights_are_stored_once(bundle: Bundle) -> None:
    assert bundle.llm.text_head.weight.data_ptr() == bundle.llm.embed.weight.data_ptr()


@pytest.mark.parametrize("kind", ["qwen3 untied", "lora", "bfloat16"])
def test_other_models(kind: str, run_config: RunConfig) -> None:
    cfg = run_config.model
    if kind == "qwen3 untied":
        cfg = cfg.model_copy(update={"llm": cfg.llm.model_copy(update={"kind": "qwen3", "tie_embeddings": False})})
    elif kind == "lora":
        lora = {"rank": 2, "alpha": 4.0, "dropout": 0.1, "targets": ["q_proj", "down_proj"]}
        cfg = type(cfg).model_validate({**cfg.model_dump(), "lora": lora})
    torch.manual_seed(1)
    model = build_model(cfg).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    reference = copy.deepcopy(model).to(dtype)
    model = ready_model(model, dtype)
    llm, encoder = export_llm(model), export_encoder(model)
    prompt, answer = ids(9, 1), ids(2, 2)
    wanted = alone(reference, prompt, answer)
    state = reference.llm.init_state(1, 20)
    got = [llm.extend(llm.embed_ids(prompt), 0, 0, state.keys, state.values)]
    got += [llm.step(llm.embed_ids(answer[at : at + 1]), [9 + at], state.keys, state.values) for at in range(2)]
    tolerance = TOLERANCE[str(dtype).removeprefix("torch.")]
    assert all(close(*pair, tolerance) for pair in zip(got, wanted, strict=True))
    with torch.no_grad():
        assert close(llm.text_logits(got[0]), reference.text_logits(wanted[0]).float(), tolerance)
        assert close(llm.speech_logits(got[0]), reference.speech_logits(wanted[0]).float(), tolerance)
        mel_FM = torch.randn(44, 80)
        assert close(encoder(mel_FM), reference.adapter(*reference.encoder(mel_FM.unsqueeze(0).to(dtype), [44]))[0], tolerance)


def test_a_part_of_another_model_is_seen(bundle: Bundle, eager: EChat, voice: Token2wav) -> None:
    other = copy.deepcopy(eager)
    with torch.no_grad():
        other.llm.layers[1].down_proj.weight[0, 0] += 0.5
        other.adapter.proj.weight[0, 0] += 0.5
    checks = list(check_parts(bundle, other, voice))
    assert {check.part for check in checks if not check.passed} == {"encoder", "llm"}
    with pytest.raises(UserError, match=r"encoder \(.*llm \(extend"):
        require(checks)
    assert not replace(checks[0], relative=float("nan")).passed


def test_a_length_that_a_trace_would_freeze_is_an_error() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[1:] if x.shape[0] > 2 else x

    with pytest.raises(RuntimeError, match=r"test_export_language\.py:.*Python boolean"):
        jit.trace(Branching(), forward=(torch.zeros(3),))


def test_a_python_without_torchscript_is_refused() -> None:
    jit.check_python((3, 13))
    with pytest.raises(UserError, match=r"Python 3.13 or older, this is 3.14"):
        jit.check_python((3, 14))
