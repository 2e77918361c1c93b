"""Schedules against their formulas; parameter groups."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from osum_echat.config import TrainConfig
from osum_echat.config_optim import OptimConfig, ScheduleConfig
from osum_echat.errors import ConfigError
from osum_echat.train.engine import Engine
from osum_echat.train.optim import make_groups, make_optimizer, make_schedule


def schedule(max_steps=None, **values):
    return make_schedule(ScheduleConfig(**values), max_steps)


@pytest.mark.parametrize("step", [1, 17, 100, 101, 5000])
def test_inverse_sqrt_is_wenets(step):
    factor = schedule(kind="warmup_inverse_sqrt", warmup_steps=100)
    assert factor(step) == pytest.approx(100**0.5 * min(step**-0.5, step * 100**-1.5))
    assert factor(100) == pytest.approx(1.0)
    assert schedule(kind="warmup_inverse_sqrt", warmup_steps=0)(step) == pytest.approx(step**-0.5)


def test_linear_and_cosine():
    linear, cosine = (schedule(kind=f"warmup_{kind}", warmup_steps=10, total_steps=110) for kind in ("linear", "cosine"))
    for factor in (linear, cosine):
        assert [factor(1), factor(5), factor(10), factor(60), factor(110), factor(500)] == pytest.approx([0.1, 0.5, 1.0, 0.5, 0.0, 0.0])
    assert linear(35) == pytest.approx(0.75) and cosine(35) == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))
    floor = schedule(kind="warmup_cosine", warmup_steps=10, total_steps=110, min_factor=0.05)
    assert floor(110) == 0.05 and floor(1) == pytest.approx(0.1), "the floor is not for the warm-up"
    assert schedule(kind="warmup_linear", warmup_steps=0, max_steps=10)(5) == pytest.approx(0.5)
    assert schedule(kind="constant")(12345) == 1.0


def model():
    return nn.ModuleDict({"encoder": nn.Linear(2, 2), "llm": nn.ModuleDict({"a": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})})


def test_groups_scale_and_decay():
    net = model()
    net["llm"]["a"].bias.requires_grad_(False)
    scales = [{"prefix": "llm", "lr_scale": 0.1}, {"prefix": "llm.norm", "lr_scale": 0.5}]
    groups, muon = make_groups(net, OptimConfig(lr=1.0, groups=scales))
    assert not muon
    found = {(group["lr"], group["weight_decay"]): [p.dim() for p in group["params"]] for group in groups}
    assert found == {(1.0, 0.01): [2], (1.0, 0.0): [1], (0.1, 0.01): [2], (0.5, 0.0): [1, 1]}


def test_muon_takes_the_matrices_of_its_prefixes():
    optim = {"lr": 1.0, "groups": [{"prefix": "llm", "lr_scale": 0.1}], "muon": {"prefixes": ["llm"], "lr_scale": 4.0}}
    net = model()
    net["llm"]["embed"] = nn.Embedding(3, 2)  # a matrix, but no linear layer
    groups = make_groups(net, OptimConfig(**optim))
    assert [(group["lr"], group["params"]) for group in groups.muon] == [(0.4, [net["llm"]["a"].weight])]
    others = {id(parameter) for group in groups.adamw for parameter in group["params"]}
    assert others == {id(parameter) for parameter in net.parameters()} - {id(net["llm"]["a"].weight)}


def test_prefix_of_nothing_is_an_error():
    for prefix in ("decoder", "llm.norm"):
        with pytest.raises(ConfigError, match=rf"muon\.prefixes: no linear layer starts with '{prefix}'"):
            make_groups(model(), OptimConfig(muon={"prefixes": [prefix]}))
    with pytest.raises(ConfigError, match="'encoders'; the model has encoder, llm"):
        make_groups(model(), OptimConfig(groups=[{"prefix": "encoders", "lr_scale": 0.1}]))
    frozen = model().requires_grad_(False)
    with pytest.raises(ConfigError, match="nothing to train"):
        make_groups(frozen, OptimConfig())


def test_first_step_uses_the_factor_of_step_one():
    net = model()
    optim = {"lr": 0.4, "muon": {"prefixes": ["llm"], "lr_scale": 2.0}}
    optimizer = make_optimizer(net, TrainConfig(max_steps=1, optim=optim, schedule={"warmup_steps": 4}), Engine(torch.device("cpu")))
    rates = []
    for step in range(1, 5):
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        assert optimizer.step(step) == pytest.approx(step / 4)
        rates.append([part.param_groups[0]["lr"] for part in optimizer.optimizers])
    assert np.array(rates) == pytest.approx(np.outer([0.1, 0.2, 0.3, 0.4], [1, 2]))


def test_a_state_of_other_optimizers_is_refused():
    def optimizer(muon):
        return make_optimizer(model(), TrainConfig(max_steps=1, optim={"muon": muon}), Engine(torch.device("cpu")))

    state = optimizer({"prefixes": ["llm"]}).state_dict()
    for other, saved in ((None, state), ({"prefixes": ["encoder", "llm"]}, state), (None, {"state": {}, "param_groups": []})):
        with pytest.raises(ValueError, match=r"shorter|longer|doesn't match|number of|older version"):
            optimizer(other).load_state_dict(saved)
