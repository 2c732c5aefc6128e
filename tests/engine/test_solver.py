import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from qiml.engine.solver import build_gradient_clipper, build_lr_scheduler, build_optimizer
from qiml.errors import ConfigError
from qiml.modeling.attentive_norm import AttentiveBatchNorm2d


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


def test_norms_and_biases_by_key(tiny_config):
    """As MonoCon: biases at twice the rate, no decay on them or on norms, whose biases are norms'."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), AttentiveBatchNorm2d(4, 2))
    cfg = tiny_config(
        "SOLVER.BASE_LR", 0.1, "SOLVER.BIAS_LR_FACTOR", 2.0, "SOLVER.WEIGHT_DECAY", 0.02,
        "SOLVER.WEIGHT_DECAY_NORM", 0.0, "SOLVER.WEIGHT_DECAY_BIAS", 0.01,
    )  # fmt: skip
    optimizer = build_optimizer(cfg, model)
    options = {
        id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]
    }
    assert {name: options[id(p)] for name, p in model.named_parameters()} == {
        "0.weight": (0.1, 0.02),
        "0.bias": (0.2, 0.01),
        "1.weight": (0.1, 0.0),
        "1.bias": (0.1, 0.0),
        "2.scales": (0.1, 0.0),
        "2.shifts": (0.1, 0.0),
        "2.attention.weight": (0.1, 0.02),
        "2.attention_norm.weight": (0.1, 0.0),
        "2.attention_norm.bias": (0.1, 0.0),
    }
    # Without the key, as MonoDLE: a norm's parameters are weights and biases.
    groups = build_optimizer(tiny_config(), model).param_groups
    assert [len(group["params"]) for group in groups] == [6, 3]


CYCLE = [
    "SOLVER.LR_SCHEDULER_NAME", "CyclicLR", "SOLVER.OPTIMIZER", "AdamW", "SOLVER.MAX_ITER", 40,
    "SOLVER.BETAS", "(0.95, 0.99)", "SOLVER.BASE_LR", 0.01, "SOLVER.BIAS_LR_FACTOR", 2.0,
]  # fmt: skip


def test_cycle_of_learning_rate_and_momentum(tiny_config):
    """Equal to PyTorch's one-cycle policy with the same ends."""
    cfg = tiny_config(*CYCLE)
    optimizer = build_optimizer(cfg, nn.Linear(2, 2))
    scheduler = build_lr_scheduler(cfg, optimizer)
    reference = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.01, betas=(0.95, 0.99))
    # Its rise ends one iteration earlier than the share says, and its last value falls on the last iteration.
    expected = OneCycleLR(
        reference, 0.1, total_steps=41, pct_start=17 / 41, div_factor=10, final_div_factor=1e4,
        base_momentum=0.85, max_momentum=0.95,
    )  # fmt: skip
    for iteration in range(40):
        (weight, bias), (other,) = optimizer.param_groups, reference.param_groups
        assert weight["lr"] == pytest.approx(other["lr"], rel=1e-6), iteration
        assert bias["lr"] == pytest.approx(2 * other["lr"], rel=1e-6)
        for group in (weight, bias):
            assert group["betas"] == pytest.approx(other["betas"], rel=1e-6)
        optimizer.step()
        scheduler.step()
        reference.step()
        expected.step()


def test_cycle_goes_on_after_a_resume(tiny_config):
    """Bit for bit, also where the optimiser starts with other values."""
    cfg, model = tiny_config(*CYCLE), nn.Linear(2, 2)

    def make():
        optimizer = build_optimizer(cfg, model)
        return optimizer, build_lr_scheduler(cfg, optimizer)

    def go_on(optimizer, scheduler, count):
        groups = []
        for _ in range(count):
            optimizer.step()
            scheduler.step()
            groups.append([(g["lr"], g["betas"]) for g in optimizer.param_groups])
        return groups

    first = make()
    go_on(*first, 13)
    states = [part.state_dict() for part in first]
    expected = go_on(*first, 20)
    second = make()
    for part, state in zip(second, states, strict=True):
        part.load_state_dict(state)
    assert go_on(*second, 20) == expected


def test_a_longer_cycle_may_go_on_from_a_shorter_one(tiny_config):
    schedulers = [
        build_lr_scheduler(cfg, build_optimizer(cfg, nn.Linear(2, 2)))
        for cfg in (tiny_config(*CYCLE), tiny_config(*CYCLE, "SOLVER.MAX_ITER", 80))
    ]
    for scheduler in schedulers:
        for _ in range(20):
            scheduler.optimizer.step()
            scheduler.step()
    expected = schedulers[1].get_last_lr()
    assert schedulers[0].get_last_lr() != expected
    schedulers[1].load_state_dict({**schedulers[0].state_dict(), "last_epoch": 19})
    schedulers[1].step()
    assert schedulers[1].get_last_lr() == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("value", [[0.5, -0.5], [0.25, 0.5]]),
        ("norm", [[0.3, -0.4], [0.5 * 0.25 / 0.625**0.5, 0.5 * 0.75 / 0.625**0.5]]),
        ("full_model", [[x * 0.5 / 25.625**0.5 for x in row] for row in [[3, -4], [0.25, 0.75]]]),
    ],
)
def test_gradient_clipping(tiny_config, kind, expected):
    cfg = tiny_config(
        "SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", kind,
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.5,
    )  # fmt: skip
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    for parameter, gradient in zip(parameters, [[3.0, -4.0], [0.25, 0.75]], strict=True):
        parameter.grad = torch.tensor(gradient)
    build_gradient_clipper(cfg)(parameters)
    clipped = torch.stack([parameter.grad for parameter in parameters])
    torch.testing.assert_close(clipped, torch.tensor(expected))


def test_no_gradient_clipping_by_default(tiny_config):
    assert build_gradient_clipper(tiny_config()) is None
