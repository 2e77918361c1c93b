"""The largest batch fills the budgets; per-task scores of a packed batch equal those of each task alone."""

import pytest
import torch
from rich.console import Console

from osum_echat.config import load_config
from osum_echat.errors import UserError
from osum_echat.train import preflight as module
from osum_echat.train.assemble import make_loaders, make_model
from osum_echat.train.engine import Engine
from osum_echat.train.objective import EChatObjective


@pytest.mark.parametrize(
    ("max_tokens", "max_seconds", "budget"), [(2800, 60.0, None), (2800, 5.0, 30.0), (100, 60.0, None), (3, 1.0, None)]
)
def test_budgets_are_filled(tiny_run, max_tokens, max_seconds, budget):
    sets = [f"train.max_tokens={max_tokens}", f"data.filter.max_seconds={max_seconds}", f"train.max_batch_seconds={budget or 'null'}"]
    batch = module.worst_case_batch(load_config(tiny_run / "tiny.yaml", sets))
    assert batch.ids_T.numel() == max_tokens
    if budget:
        assert batch.num_audio_seconds == pytest.approx(budget, abs=0.1) and batch.num_supervised > 2000
    elif max_tokens > 3:
        assert len(batch.audio_slots_T) > 0.85 * max_tokens - 8
    assert float(batch.mel_lens_B.max() if len(batch.mel_lens_B) else 0) <= 100 * max_seconds


def test_preflight_leaves_no_trace(tiny_run):
    cfg = load_config(tiny_run / "tiny.yaml")
    model = make_model(cfg, None, Console(quiet=True))
    engine = Engine(torch.device("cpu"))
    engine.prepare(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert module.preflight(model, EChatObjective(0.3), engine, module.worst_case_batch(cfg)) > 1e6
    assert float(engine.buffer().flat.abs().sum()) == 0.0
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_out_of_memory_gives_advice(tiny_run):
    class Hungry(EChatObjective):
        def losses(self, model, batch):
            raise torch.OutOfMemoryError("tried to allocate 99 GiB")

    cfg = load_config(tiny_run / "tiny.yaml")
    with pytest.raises(UserError, match=r"\(200 positions\) does not fit.*99 GiB.*Lower train.max_tokens"):
        module.preflight(torch.nn.Linear(1, 1), Hungry(), Engine(torch.device("cpu")), module.worst_case_batch(cfg))


def test_scores_by_task_equal_each_task_alone(tiny_run):
    cfg = load_config(tiny_run / "tiny.yaml", ["train.max_tokens=2000"])
    engine = Engine(torch.device("cpu"))
    model = make_model(cfg, None, Console(quiet=True)).eval()
    batch = next(iter(make_loaders(cfg, engine)("dev", 0, None)))
    objective = EChatObjective()
    with torch.no_grad():
        scores = objective.scores(model, batch)
        total = objective.losses(model, batch).ce
        assert set(scores) == {"asr", "gender"}
        for task, score in scores.items():
            labels = batch.labels_T.clone()
            for index, name in enumerate(batch.tasks):
                if name != task:
                    labels[batch.cu_seqlens[index] : batch.cu_seqlens[index + 1]] = -100
            alone = objective.losses(model, type(batch)(**{**batch.__dict__, "labels_T": labels}))
            assert score[0].item() == pytest.approx(alone.ce.item(), rel=1e-5) and score[2] == (labels != -100).sum()
    assert sum(score[0] for score in scores.values()).item() == pytest.approx(total.item(), rel=1e-5)
