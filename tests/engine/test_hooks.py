import os
import signal
import time
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import TrainerBase
from torch import nn

from qiml.engine.hooks import Evaluate, PreciseBatchNorm, StopOnSignal
from qiml.modeling.branches import RegionBatchNorm2d


class Loop(TrainerBase):
    def __init__(self, hook, fails_at=None):
        super().__init__()
        self.fails_at = fails_at
        self.register_hooks([hook])

    def run_step(self):
        if self.iter == self.fails_at:
            raise RuntimeError


def batches():
    """Of mean i, i + 1, i + 2: another loader would give other ones after a while."""
    for i in count():
        values = (torch.arange(3.0) + i).expand(4, 3) + torch.arange(4.0)[:, None]
        yield [{"values": row, "instances": [0]} for row in values]


class Detector(nn.Module):
    """Its second layer looks at objects, its third at batches of more than one object."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm1d(3), RegionBatchNorm2d(3), nn.BatchNorm1d(3)])

    def forward(self, batch):
        self.norms[0](torch.stack([frame["values"] for frame in batch]))
        objects = torch.stack([f["values"] for f in batch])[
            [bool(len(f["instances"])) for f in batch]
        ]
        self.norms[1](torch.cat([objects, objects])[:, :, None, None])
        if len(objects) > 1:
            self.norms[2](objects)


def test_precise_statistics_do_not_depend_on_how_often_they_were_measured():
    model = Detector().eval()
    hook = PreciseBatchNorm(model, batches, num_iter=5, period=2)
    Loop(hook).train(0, 4)
    twice = model.norms[0].running_mean.clone()
    Loop(hook).train(3, 4)
    assert torch.equal(model.norms[0].running_mean, twice)
    torch.testing.assert_close(twice, torch.arange(3.0) + 1.5 + 2)  # means of batches 0 to 4
    assert not model.training


def test_batches_without_objects_have_no_statistics_of_objects():
    def sparse():
        for i, batch in enumerate(batches()):
            yield [
                {**frame, "instances": [0] * (i == 1 and n == 0)} for n, frame in enumerate(batch)
            ]

    model = Detector()
    model.norms[2].running_mean.fill_(7.0)
    Loop(PreciseBatchNorm(model, sparse, num_iter=3, period=0)).train(0, 1)
    torch.testing.assert_close(model.norms[0].running_mean, torch.arange(3.0) + 1.5 + 1)
    torch.testing.assert_close(model.norms[1].running_mean, torch.arange(3.0) + 1)
    assert model.norms[2].running_mean.tolist() == [7.0] * 3  # as no batch came through
    assert model.norms[2].running_var.tolist() == [1.0] * 3


def test_precise_statistics_are_measured_at_the_end_alone_by_default():
    measured = []
    hook = PreciseBatchNorm(
        Detector(), lambda: measured.append(1) or batches(), num_iter=2, period=0
    )
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


def test_a_signal_from_before_an_evaluation_does_not_wait_for_it():
    stop, saved = StopOnSignal(SimpleNamespace(save=lambda *a, **k: saved.append(a))), []
    stop.trainer = SimpleNamespace(iter=4, max_iter=10)
    stop._received = signal.SIGTERM
    with pytest.raises(SystemExit), stop.at_once():
        pytest.fail("it was evaluated")
    assert saved == [("model_0000004",)]


@pytest.fixture
def stop():
    """Handles this process's signals as in a training; `stop.saved` are the names of its checkpoints."""
    hook = _stop_on_signal()
    hook.trainer = SimpleNamespace(iter=4, max_iter=10)
    hook.before_train()
    yield hook
    hook.after_train()


def _stop_on_signal():
    saved = []
    hook = StopOnSignal(SimpleNamespace(save=lambda name, iteration: saved.append(name)))
    hook.saved = saved
    return hook


def test_a_signal_ends_an_evaluation_at_once(stop):
    with pytest.raises(SystemExit), stop.at_once():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        pytest.fail("it was evaluated to the end")
    assert stop.saved == ["model_0000004"]


def test_a_second_signal_of_its_kind_does_not_wait(stop):
    before = stop._previous
    os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == stop._receive
    stop.after_train()
    assert {number: signal.getsignal(number) for number in before} == before


def _train_until_told(rank):
    stop = _stop_on_signal()
    loop = Loop(stop)
    loop.run_step = lambda: (loop.iter, rank) == (2, 1) and os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(SystemExit):
        loop.train(0, 6)
    return loop.iter, stop.saved


def test_all_workers_stop_where_one_was_told_to(spawn_workers):
    assert spawn_workers(_train_until_told, 2) == [(2, ["model_0000002"]), (2, [])]
