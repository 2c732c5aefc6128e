import pytest
import torch

from qiml.benchmark.memory import count_waits, peak_bytes
from qiml.benchmark.scale import QUICK, switched
from qiml.benchmark.training import waits_of_step


def test_peak_counts_what_is_held_at_once():
    def call():
        first = torch.zeros(1000)
        del first
        second = torch.zeros(3000)
        return second + 1

    peak_bytes(call)
    assert peak_bytes(call) == pytest.approx(4 * 6000, rel=0.05)


def read(x):
    x.sum().item()


def decide(x):
    bool(x.any())


def select(x):
    x[x > 0].sum()


def find(x):
    (x > 0).nonzero().float().sum()


def copy_back(x):
    x.cpu() + 1


class ReadInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, upstream):
        upstream.sum().item()
        return upstream


def read_in_backward(x):
    ReadInBackward.apply(x.requires_grad_()).sum().backward()


@pytest.mark.parametrize("call", [read, decide, select, find, copy_back, read_in_backward])
def test_every_question_about_values_is_a_wait(call):
    assert count_waits(lambda: call(torch.ones(2, 3, device="meta"))).total() == 1


def test_host_and_device_work_is_no_wait():
    host = torch.tensor([True, False, True])

    def call():
        index = host.nonzero().squeeze(1).to("meta", non_blocking=True)
        return (torch.ones(3, 2, device="meta")[index] * host.sum().item()).sum()

    assert count_waits(call).total() == 0


@pytest.mark.parametrize("head", ["MonoDLEHead", "GUPNetHead", "DIDM3DHead", "MonoConHead"])
def test_step_waits_for_nothing(head):
    cfg = QUICK.load(*switched((True, True)), "MODEL.BOX3D_HEAD.NAME", head)
    assert waits_of_step(cfg, 2) == {}
