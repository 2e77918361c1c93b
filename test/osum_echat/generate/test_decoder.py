"""The generation loop: batched = one by one, = recomputing everything at every token; stopping, sampling, rules."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from osum_echat.config import RunConfig, SourceConfig
from osum_echat.data.batch import collate
from osum_echat.data.source import Drop
from osum_echat.generate.decoder import Generated, generate
from osum_echat.generate.requests import Request, RequestEncoder, read_rows
from osum_echat.generate.rules import Forbid, StopRule
from osum_echat.generate.sampling import Sampler
from osum_echat.generate.schedule import Phase, Plan, Schedule
from osum_echat.model.echat import EChat
from osum_echat.tasks.task import TASKS
from osum_echat.text.vocab import JointVocab

NEVER = -1
VOCAB = JointVocab(440, 8)


@pytest.fixture(scope="module")
def requests(run_config: RunConfig, noise_list: Path) -> list[Request]:
    encoder = RequestEncoder(run_config, TASKS["asr_p"])
    rows = [row for row in read_rows(SourceConfig(kind="raw", list=str(noise_list))) if not isinstance(row, Drop)]
    return [encoder.request(row) for row in rows if row.key != "gone"]


def run(model: EChat, requests: list[Request], **options: object) -> list[Generated]:
    seed = options.pop("seed", 0)
    plan = Plan(Schedule(None, 0), VOCAB, Phase(**{"stop": StopRule(NEVER, 12), **options}), Phase(StopRule(NEVER, 0)))  # type: ignore[arg-type]
    return generate(model, [item.prompt for item in requests], [mel for item in requests for mel in item.mels], plan, seed)  # type: ignore[arg-type]


def cut_off(ids: Sequence[int]) -> Generated:
    return Generated(tuple(ids), (), (*ids, NEVER), False)


def some_eos(model: EChat, requests: list[Request]) -> int:
    """An id that ends some rows early and others late, so that rows leave the state one by one."""
    answers = [answer.ids for answer in run(model, requests)]
    candidates = {token for ids in answers for token in ids}

    def spread(token: int) -> int:
        return len({ids.index(token) if token in ids else 12 for ids in answers})

    return max(sorted(candidates), key=spread)


def test_batched_equals_one_by_one_also_when_rows_leave(model: EChat, requests: list[Request]) -> None:
    stop = StopRule(some_eos(model, requests), 12)
    batched = run(model, requests, stop=stop)
    alone = [run(model, [item], stop=stop)[0] for item in requests]
    assert batched == alone
    assert len({len(answer.ids) for answer in batched}) >= 3  # otherwise nothing left early and the test shows nothing


def test_equals_a_full_forward_at_every_token(model: EChat, requests: list[Request]) -> None:
    request = requests[1]
    batch = collate([request.prompt], list(request.mels))
    x_TD, expected = model.embed(batch), []
    for _ in range(6):
        packing = _packing(len(x_TD))
        with torch.no_grad():
            hidden_TD = model.llm(x_TD, torch.arange(len(x_TD)), packing)
            token = int(model.text_logits(hidden_TD[-1:]).argmax())
            x_TD = torch.cat([x_TD, model.embed_ids(torch.tensor([token]))])
        expected.append(token)
    assert run(model, [request], stop=StopRule(NEVER, 6))[0] == cut_off(expected)


def _packing(length: int):  # type: ignore[no-untyped-def]
    from osum_echat.model.packing import Packing

    return Packing.from_lens([length])


def test_eos_ends_and_is_left_out_and_max_new_cuts(model: EChat, requests: list[Request]) -> None:
    long = run(model, requests[:1])[0]
    eos = long.ids[3]
    first = long.ids.index(eos)
    assert run(model, requests[:1], stop=StopRule(eos, 12))[0] == Generated(long.ids[:first], (), (*long.ids[:first], eos), True)
    assert run(model, requests[:1], stop=StopRule(NEVER, 2))[0] == cut_off(long.ids[:2])
    assert not long.finished and len(long.ids) == 12
    assert run(model, requests[:1], stop=StopRule(NEVER, 0))[0] == cut_off(())


def test_a_forbidden_id_never_comes(model: EChat, requests: list[Request]) -> None:
    banned = run(model, requests)[0].ids[0]
    assert all(banned not in answer.ids for answer in run(model, requests, rules=(Forbid(((banned,),)),)))


def test_sampled_answers_depend_on_seed_and_key_but_not_on_the_batch(model: EChat, requests: list[Request]) -> None:
    sampler = Sampler(temperature=3.0, top_k=50)
    batched = run(model, requests, sampler=sampler, seed=5)
    assert batched == [run(model, [item], sampler=sampler, seed=5)[0] for item in requests]
    assert batched == list(reversed(run(model, requests[::-1], sampler=sampler, seed=5)))
    assert batched != run(model, requests, sampler=sampler, seed=6)


def test_bfloat16_weights_run(model: EChat, requests: list[Request]) -> None:
    import copy

    small = copy.deepcopy(model).to(torch.bfloat16)
    assert len(run(small, requests)) == len(requests)


def test_the_placeholder_of_an_unknown_label_is_never_completed(run_config: RunConfig) -> None:
    encoder = RequestEncoder(run_config, TASKS["asr_p"])
    *start, last = encoder.tokenizer.encode("<UNK>")
    logits = torch.zeros(1, 440)
    for rule in encoder.rules():
        logits = rule(logits, [[5, *start]])
    assert torch.isinf(logits[0, last]) and torch.isfinite(logits[0, encoder.tokenizer.eos_id])
