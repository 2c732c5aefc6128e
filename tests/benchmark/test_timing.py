import torch

from qiml.benchmark.timing import Stopwatch, Timer, cpu_seconds, forward_and_backward


class Clock:
    """Stands still but for what the calls say they took."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def call(self, *seconds):
        left = list(seconds)

        def take():
            self.now += left.pop(0)
            return len(left)

        return take


def test_fastest_counts_and_first_warms_up():
    clock = Clock()
    runs = Timer(3, clock).fastest(clock.call(1, 5, 3, 4), clock.call(9, 2, 7, 8))
    assert [run.seconds for run in runs] == [3, 2]
    assert [run.result for run in runs] == [1, 2]


def test_at_most_limits_repeats():
    clock = Clock()
    assert Timer(9, clock).seconds(clock.call(9, 2, 1), at_most=2) == [1]


def test_stopwatch_splits_time():
    clock = Clock()
    watch = Stopwatch(clock)
    for name, seconds in (("data", 2), ("forward", 3)):
        clock.now += seconds
        watch.lap(name)
    assert watch.laps == {"data": 2, "forward": 3}


def test_cpu_time_passes_with_work_alone():
    start = cpu_seconds()
    torch.ones(300, 300) @ torch.ones(300, 300)
    assert cpu_seconds() > start


def test_forward_and_backward_keeps_no_gradient():
    x, unused = torch.ones(2).requires_grad_(), torch.ones(2).requires_grad_()
    calls = []
    forward_and_backward(lambda: calls.append(1) or (x**2).sum(), [x, unused])()
    assert calls == [1] and x.grad is None
