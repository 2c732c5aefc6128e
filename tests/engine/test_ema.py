import pytest
import torch
from detectron2.engine import TrainerBase
from torch import nn

from qiml.engine.ema import WeightAverage, load_average


class Descent(TrainerBase):
    """Adds 1 to a weight in every step."""

    def __init__(self, model, average):
        super().__init__()
        self.model = model
        self.register_hooks([average])

    def run_step(self):
        with torch.no_grad():
            self.model.weight += 1


def make_model(value=0.0):
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def test_follows_the_weights_from_where_they_start():
    model = make_model()
    average = WeightAverage(model, decay=0.5)
    nn.init.constant_(model.weight, 10.0)  # as MODEL.WEIGHTS does, after the hooks are made
    expected, weight = 10.0, 10.0
    Descent(model, average).train(0, 6)
    for step in range(6):
        weight += 1
        decay = 0.0 if step == 0 else min(1 - (1 + step) ** (-2 / 3), 0.5)
        expected = decay * expected + (1 - decay) * weight
    assert average.averaged_model.weight.item() == pytest.approx(expected)
    assert 14.5 < expected < 16 and model.weight.item() == 16


def test_resumes():
    model, resumed_model = make_model(), make_model()
    whole = WeightAverage(model, decay=0.9)
    Descent(model, whole).train(0, 5)
    first = WeightAverage(resumed_model, decay=0.9)
    Descent(resumed_model, first).train(0, 3)
    second = WeightAverage(resumed_model, decay=0.9)
    second.load_state_dict(first.state_dict())
    Descent(resumed_model, second).train(3, 5)
    assert torch.equal(second.averaged_model.weight, whole.averaged_model.weight)


def test_average_of_a_checkpoint(caplog):
    model = make_model(1.0)
    average = {"weight": torch.tensor([[7.0]]), "auxiliary.weight": torch.zeros(3)}
    load_average(model, {"trainer": {"hooks": {"WeightAverage": average}}})
    assert model.weight.item() == 7
    load_average(model, {"iteration": 3})
    assert model.weight.item() == 7 and "no averaged weights" in caplog.text
