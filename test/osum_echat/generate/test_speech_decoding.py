"""Spoken answers of a real small model: batched = one by one = a full forward with the head of the phase; no loops; lists."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from osum_echat.config import RunConfig, SourceConfig
from osum_echat.data.batch import collate
from osum_echat.data.source import Drop
from osum_echat.generate.decoder import Generated, generate
from osum_echat.generate.requests import Request, RequestEncoder, read_rows
from osum_echat.generate.sampling import Sampler
from osum_echat.generate.schedule import Plan
from osum_echat.model.echat import EChat
from osum_echat.model.packing import Packing
from osum_echat.tasks.interleave import deinterleave, interleave
from osum_echat.tasks.task import TASKS
from osum_echat.text.vocab import JointVocab

SPOKEN = [name for name, task in TASKS.items() if task.schedule != "text"]
VOCAB = JointVocab(440, 8)
GREEDY = Sampler()


def make_requests(config: RunConfig, path: Path, task: str) -> tuple[RequestEncoder, list[Request]]:
    encoder = RequestEncoder(config, TASKS[task])
    rows = [row for row in read_rows(SourceConfig(kind="raw", list=str(path))) if not isinstance(row, Drop) and row.key != "gone"]
    return encoder, [encoder.request(row) for row in rows]


def run(model: EChat, requests: list[Request], plan: Plan, seed: int = 0) -> list[Generated]:
    return generate(model, [item.prompt for item in requests], [mel for item in requests for mel in item.mels], plan, seed)


@pytest.mark.parametrize("task", SPOKEN)
@pytest.mark.parametrize("speech", [GREEDY, Sampler(temperature=2.0, top_k=6, repeat_window=10)])
def test_batched_equals_one_by_one(model: EChat, run_config: RunConfig, noise_list: Path, task: str, speech: Sampler) -> None:
    encoder, requests = make_requests(run_config, noise_list, task)
    text = Sampler(temperature=3.0) if task.startswith("s2s") else GREEDY
    plan = encoder.plan(GREEDY if speech.is_greedy else text, speech, max_new=17, max_speech=50)
    batched = run(model, requests, plan, seed=4)
    assert batched == [run(model, [item], plan, seed=4)[0] for item in requests]
    assert batched == run(model, requests[::-1], plan, seed=4)[::-1]
    if not speech.is_greedy:
        assert len({answer.codes for answer in batched}) > 1 and len({len(answer.codes) for answer in batched}) > 1
        assert batched != run(model, requests, plan, seed=5)


@pytest.mark.parametrize("task", SPOKEN)
def test_layouts_are_whole_and_boundaries_are_no_codes(model: EChat, run_config: RunConfig, noise_list: Path, task: str) -> None:
    encoder, requests = make_requests(run_config, noise_list, task)
    plan = encoder.plan(Sampler(temperature=3.0), Sampler(temperature=3.0), max_new=17, max_speech=50)
    for answer in [answer for seed in range(6) for answer in run(model, requests, plan, seed)]:
        assert all(0 <= code < 8 for code in answer.codes) and len(answer.codes) <= 50 and len(answer.ids) - answer.num_think <= 17
        assert (answer.num_think > 0) == TASKS[task].thinks and list(answer.layout[: answer.num_think]) == list(
            answer.ids[: answer.num_think]
        )
        text_ids, speech_ids = deinterleave(answer.layout, VOCAB.is_text)
        assert text_ids == ([] if task == "tts" else [*answer.ids, encoder.tokenizer.eos_id])
        assert speech_ids == [VOCAB.boundary, *(VOCAB.code_to_id(code) for code in answer.codes), VOCAB.boundary]
        if TASKS[task].schedule == "interleaved":
            assert list(answer.layout[answer.num_think :]) == interleave(text_ids[answer.num_think :], speech_ids)
        else:
            assert list(answer.layout) == text_ids + speech_ids


def test_equals_a_full_forward_with_the_head_of_the_phase(model: EChat, run_config: RunConfig, noise_list: Path) -> None:
    encoder, requests = make_requests(run_config, noise_list, "s2s_interleaved")
    plan = encoder.plan(GREEDY, GREEDY, max_new=14, max_speech=40)
    plan = replace(plan, speech=replace(plan.speech, rules=()))
    answer = run(model, requests[:1], plan)[0]
    batch = collate([requests[0].prompt], list(requests[0].mels))
    with torch.no_grad():
        x_TD = torch.cat([model.embed(batch), model.embed_ids(torch.tensor(answer.layout))])
        hidden_TD = model.llm(x_TD, torch.arange(len(x_TD)), Packing.from_lens([len(x_TD)]))[len(requests[0].prompt) - 1 : -1]
        text_TV, speech_TC = model.text_logits(hidden_TD)[:, : encoder.tokenizer.vocab_size], model.speech_logits(hidden_TD)
    assert len(answer.layout) == 14 + 1 + 40 + 2
    for at, token in enumerate(answer.layout):
        cycle = at % 24  # 6 text, 18 speech
        if token == VOCAB.boundary or token == encoder.tokenizer.eos_id:
            continue
        assert VOCAB.is_text(token) is (cycle < 6 and at < 2 * 24 + 2)
        want = text_TV[at].argmax() if VOCAB.is_text(token) else VOCAB.code_to_id(int(speech_TC[at].argmax()))
        assert want == token


def test_a_stuck_model_does_not_loop(model: EChat, run_config: RunConfig, noise_list: Path) -> None:
    encoder, requests = make_requests(run_config, noise_list, "tts")
    plan = encoder.plan(GREEDY, GREEDY, max_speech=150)
    bias = model.speech.head.bias
    kept = bias.detach().clone()
    with torch.no_grad():
        bias[5] += 1000.0
    try:
        codes = run(model, requests[:1], plan)[0].codes
    finally:
        bias.data.copy_(kept)
    assert codes[:25] == (5,) * 25 and codes[25] != 5 and len(codes) == 150
    assert all(codes[at : at + 26] != (5,) * 26 for at in range(150))
