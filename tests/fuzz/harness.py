"""Runs a reader on damaged input and counts how it ended: it reads, or it says what is wrong and where."""

import contextlib
import os
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qiml.errors import QIMLError

T = TypeVar("T")
# QIML_FUZZ=20 makes 20 times as many examples, others in every run.
FACTOR = int(os.environ.get("QIML_FUZZ", "1"))
CPU_SECONDS = 10
# Of the test that is running: {target: {"read": examples, "refused": examples}}.
COUNTS: dict[str, Counter] = defaultdict(Counter)
PROPERTY = "fuzzing"


def fuzz(examples: int, **strategies: st.SearchStrategy) -> Callable:
    """A Hypothesis test of so many examples, the same in every run unless QIML_FUZZ asks for more."""

    def decorate(test: Callable) -> Callable:
        return settings(
            max_examples=examples * FACTOR,
            derandomize=FACTOR == 1,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )(given(**strategies)(test))

    return decorate


def attempt(target: str, read: Callable[[], T], place: str | Path) -> T | None:
    """The result of `read`, or None where it refuses its input in the way it should.

    Any other exception, a message without `place`, of several lines or pages, and more than ten seconds of
    work fail the test.
    """
    with _time_limit(CPU_SECONDS):
        try:
            result = read()
        except QIMLError as error:
            COUNTS[target]["refused"] += 1
            message = str(error)
            assert str(place) in message, message
            assert "; expected " in message and "To mend it: " in message, message
            assert len(message.splitlines()) == 1 and len(message) < 3000, message
            return None
    COUNTS[target]["read"] += 1
    return result


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Of the processor, not of the clock: other jobs may share the machine."""

    def stop(_number, _frame):
        raise TimeoutError(f"still reading after {seconds} s of work")

    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def summary(counts: Iterable[dict[str, dict[str, int]]]) -> str:
    """A line a target, from the `COUNTS` of all tests."""
    sums: dict[str, Counter] = defaultdict(Counter)
    for of_test in counts:
        for target, ends in of_test.items():
            sums[target].update(ends)
    rows = [*sorted(sums.items()), ("all", sum(sums.values(), Counter()))]
    return "\n".join(
        f"{target:<28}{sum(ends.values()):>7} examples{ends['read']:>8} read{ends['refused']:>8} refused"
        for target, ends in rows
    )
