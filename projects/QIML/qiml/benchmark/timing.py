"""Timing calls in turns."""

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm


def cpu_seconds() -> float:
    """CPU time of this process and of those it waited for: little disturbed where others use the machine."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def synchronize() -> None:
    """Wait until a GPU, where there is one, has done what was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Run:
    """The fastest run of a call: its seconds and what it returned."""

    seconds: float
    result: object


class Timer:
    """Times calls in turns, so that all meet the same disturbances.

    Args:
        repeats: of each call; the fastest counts. One more comes first, to warm up.
        clock: seconds that have passed; :func:`cpu_seconds` on a machine that others use.
        progress: bar to keep up to date.
    """

    def __init__(
        self,
        repeats: int,
        clock: Callable[[], float] = time.perf_counter,
        progress: tqdm | None = None,
    ):
        self.repeats, self.clock, self.progress = repeats, clock, progress

    def fastest(self, *calls: Callable[[], object], at_most: int | None = None) -> list[Run]:
        """The fastest run of each call.

        Args:
            calls: in turns.
            at_most: repeats of calls that take long.
        """
        best: list[Run | None] = [None] * len(calls)
        for turn in range(min(self.repeats, at_most or self.repeats) + 1):
            for index, call in enumerate(calls):
                start = self.clock()
                result = call()
                synchronize()
                run = Run(self.clock() - start, result)
                if turn and (best[index] is None or run.seconds < best[index].seconds):
                    best[index] = run
            if self.progress is not None:
                self.progress.refresh()
        return best

    def seconds(self, *calls: Callable[[], object], at_most: int | None = None) -> list[float]:
        """Shortest time of each call."""
        return [run.seconds for run in self.fastest(*calls, at_most=at_most)]


class Stopwatch:
    """Splits a call's time into named laps.

    Args:
        clock: as of :class:`Timer`.
    """

    def __init__(self, clock: Callable[[], float]):
        self.clock, self.laps = clock, {}
        self._last = clock()

    def lap(self, name: str) -> None:
        """End the lap `name`, and begin the next."""
        synchronize()
        now = self.clock()
        self.laps[name] = now - self._last
        self._last = now


def forward_and_backward(
    call: Callable[[], torch.Tensor], parameters: Sequence[torch.Tensor]
) -> Callable[[], None]:
    """A call that also differentiates the scalar it returns, by `parameters`, and keeps no gradient."""

    def both() -> None:
        torch.autograd.grad(call(), parameters, allow_unused=True)

    return both
