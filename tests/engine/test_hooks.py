from itertools import count

import pytest
import torch
from detectron2.engine import TrainerBase
from torch import nn

from qiml.engine.hooks import Evaluate, PreciseBatchNorm


class Loop(TrainerBase):
    def __init__(self, hook, fails_at=None):
        super().__init__()
        self.fails_at = fails_at
        self.register_hooks([hook])

    def run_step(self):
        if self.iter == self.fails_at:
            raise RuntimeError


def batches():
    """(4, 3) batches of mean i, i + 1, i + 2: another loader would give other ones after a while."""
    return ((torch.arange(3.0) + i).expand(4, 3) + torch.arange(4.0)[:, None] for i in count())


def test_precise_statistics_do_not_depend_on_how_often_they_were_measured():
    model = nn.Sequential(nn.BatchNorm1d(3)).eval()
    hook = PreciseBatchNorm(model, batches, num_iter=5, period=2)
    Loop(hook).train(0, 4)
    twice = model[0].running_mean.clone()
    Loop(hook).train(3, 4)
    assert torch.equal(model[0].running_mean, twice)
    torch.testing.assert_close(twice, torch.arange(3.0) + 1.5 + 2)  # means of batches 0 to 4
    assert not model.training


def test_precise_statistics_are_measured_at_the_end_alone_by_default():
    measured = []
    model = nn.BatchNorm1d(3)
    hook = PreciseBatchNorm(model, lambda: measured.append(1) or batches(), num_iter=2, period=0)
    Loop(hook).train(0, 5)
    assert measured == [1]


@pytest.mark.parametrize("fails_at, evaluations", [(None, 2), (4, 1), (2, 0)])
def test_a_failed_training_is_not_evaluated(fails_at, evaluations):
    """Not even one that fails in its last iteration."""
    seen = []
    loop = Loop(Evaluate(3, lambda: seen.append(1)), fails_at)
    if fails_at is None:
        loop.train(0, 5)
    else:
        with pytest.raises(RuntimeError):
            loop.train(0, 5)
    assert len(seen) == evaluations
