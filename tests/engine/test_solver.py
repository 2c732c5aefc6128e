import pytest
import torch
from torch import nn

from qiml.engine.solver import build_lr_scheduler, build_optimizer
from qiml.errors import ConfigError


@pytest.fixture
def model():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def learning_rates(cfg, count):
    """Learning rate of each iteration, and of the one after the last."""
    optimizer = build_optimizer(cfg, nn.Linear(2, 2))
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(count):
        rates.append({group["lr"] for group in optimizer.param_groups})
        optimizer.step()
        scheduler.step()
    assert all(len(rate) == 1 for rate in rates)
    return [rate.pop() for rate in rates]


SCHEDULE = [
    "SOLVER.BASE_LR", 0.1, "SOLVER.WARMUP_START_LR", 0.001, "SOLVER.WARMUP_ITERS", 10,
    "SOLVER.MAX_ITER", 40, "SOLVER.GAMMA", 0.1,
]  # fmt: skip


def test_warm_up_along_half_a_cosine(tiny_config):
    cfg = tiny_config(*SCHEDULE, "SOLVER.STEPS", "()")
    rates = learning_rates(cfg, 20)
    assert rates[0] == pytest.approx(0.001)
    assert rates[5] == pytest.approx((0.1 + 0.001) / 2)
    assert rates[10:] == pytest.approx([0.1] * 10)
    rise = torch.tensor(rates[:11]).diff()
    assert (rise > 0).all()
    torch.testing.assert_close(rise, rise.flip(0))  # symmetric about its middle
    assert rise[4] > 5 * rise[0]


def test_steps(tiny_config):
    rates = learning_rates(tiny_config(*SCHEDULE, "SOLVER.STEPS", "(20, 30)"), 40)
    assert rates[10:20] == pytest.approx([0.1] * 10)
    assert rates[20:30] == pytest.approx([0.01] * 10)
    assert rates[30:] == pytest.approx([0.001] * 10)


def test_cosine_falls_to_zero(tiny_config):
    cfg = tiny_config(*SCHEDULE, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR")
    rates = learning_rates(cfg, 41)
    assert rates[0] == pytest.approx(0.001)
    assert rates[10] == pytest.approx(0.1)
    assert rates[25] == pytest.approx(0.05)
    assert rates[40] == pytest.approx(0, abs=1e-12)
    assert (torch.tensor(rates[10:]).diff() < 0).all()


def test_no_warm_up(tiny_config):
    cfg = tiny_config(*SCHEDULE, "SOLVER.WARMUP_ITERS", 0, "SOLVER.STEPS", "()")
    assert learning_rates(cfg, 3) == pytest.approx([0.1] * 3)


@pytest.mark.parametrize(
    ("name", "kind"), [("Adam", torch.optim.Adam), ("AdamW", torch.optim.AdamW)]
)
def test_biases_have_their_own_decay(tiny_config, model, name, kind):
    cfg = tiny_config(
        "SOLVER.OPTIMIZER", name, "SOLVER.WEIGHT_DECAY", 0.02, "SOLVER.WEIGHT_DECAY_BIAS", 0.0
    )
    optimizer = build_optimizer(cfg, model)
    assert type(optimizer) is kind
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
    for parameter_name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.0 if parameter_name.endswith("bias") else 0.02)


@pytest.mark.parametrize("key", ["SOLVER.OPTIMIZER", "SOLVER.LR_SCHEDULER_NAME"])
def test_unknown_names(tiny_config, model, key):
    cfg = tiny_config(key, "Nothing")
    with pytest.raises(ConfigError, match=f"{key}: found 'Nothing'; expected one of"):
        build_lr_scheduler(cfg, build_optimizer(cfg, model))
