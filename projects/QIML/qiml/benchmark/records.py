"""What the benchmark measures: one dataclass for each kind of result, which is a table of the page."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class Aim:
    """A value that the project set itself: at least or, where `at_most`, at most."""

    value: float
    at_most: bool = False

    def reached(self, measured: float) -> bool:
        return measured <= self.value if self.at_most else measured >= self.value

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.value:g}"


@dataclass(frozen=True)
class Record:
    """A measurement.

    Attributes:
        what: was measured.
        aim: for its :meth:`headline`; None: none.
    """

    title: ClassVar[str]
    note: ClassVar[str]
    what: str
    aim: Aim | None = field(default=None, kw_only=True)

    def headline(self) -> tuple[float, str]:
        """The number an aim is about, and its unit."""
        raise NotImplementedError

    def cells(self) -> dict[str, str]:
        """Its row of the table, by column."""
        raise NotImplementedError


@dataclass(frozen=True)
class Comparison(Record):
    """Seconds of a reference and of ours for the same work."""

    title = "Ratios"
    note = "How many times as long the reference takes."
    reference: str
    reference_seconds: float
    seconds: float

    @property
    def ratio(self) -> float:
        return self.reference_seconds / self.seconds

    def headline(self) -> tuple[float, str]:
        return self.ratio, f"× {self.reference}"

    def cells(self) -> dict[str, str]:
        return {
            "what": self.what,
            "ratio": f"{self.ratio:.2f}×",
            "ours": duration(self.seconds),
            "reference": self.reference,
            "its time": duration(self.reference_seconds),
        }


@dataclass(frozen=True)
class Phases(Record):
    """Where the time of a training step goes: seconds by phase, of the fastest step."""

    title = "Where a step's time goes"
    note = "A training step from files on the disk to new weights."
    seconds: dict[str, float]

    def cells(self) -> dict[str, str]:
        laps = {**self.seconds, "all": sum(self.seconds.values())}
        return {"what": self.what, **{name: duration(lap) for name, lap in laps.items()}}


@dataclass(frozen=True)
class Arithmetic(Record):
    """Multiplications and additions of a step, and how long they take at the speed of matrix products.

    Attributes:
        speed: operations a second of a large matrix product of the step's number format.
    """

    title = "What still costs"
    note = (
        "Nearly all of a step is convolutions, and their arithmetic sets a floor, give or take: the time of "
        "as many operations in one large matrix product. What is left above it are normalisation, "
        "activations, copies, and convolutions of few channels. Without less arithmetic, the official style "
        "can be beaten by the ratio at the floor (below, under Others) and no more."
    )
    operations: float
    seconds: float
    speed: float

    @property
    def floor(self) -> float:
        """Seconds."""
        return self.operations / self.speed

    def cells(self) -> dict[str, str]:
        return {
            "what": self.what,
            "operations": f"{self.operations / 1e9:.0f} G",
            "time": duration(self.seconds),
            "reached": f"{self.operations / self.seconds / 1e9:.0f} G/s",
            "matrix product": f"{self.speed / 1e9:.0f} G/s",
            "floor": duration(self.floor),
        }


@dataclass(frozen=True)
class Term(Record):
    """Seconds of a part of the losses, forward and backward, beside a whole step's."""

    title = "Losses and targets"
    note = "Forward and backward, from the neck's output; share of the bfloat16 step."
    seconds: float
    step_seconds: float

    @property
    def share(self) -> float:
        return self.seconds / self.step_seconds

    def headline(self) -> tuple[float, str]:
        return self.share * 100, "% of a step"

    def cells(self) -> dict[str, str]:
        return {"part": self.what, "time": duration(self.seconds), "share": f"{self.share:.2%}"}


@dataclass(frozen=True)
class Detection(Record):
    """What a detector costs at inference.

    Attributes:
        seconds: for the whole batch, from images in memory to detections.
        peak_bytes: most that was allocated at once on top of the weights and images.
    """

    title = "Inference"
    note = (
        "From images in memory to detections, all peaks decoded. Memory is what tensors held at once at "
        "most, on top of weights and images."
    )
    batch: int
    parameters: int
    seconds: float
    peak_bytes: int

    def cells(self) -> dict[str, str]:
        return {
            "detector": self.what,
            "batch": str(self.batch),
            "parameters": f"{self.parameters:,}",
            "latency": duration(self.seconds),
            "images/s": significant(self.batch / self.seconds),
            "peak memory": f"{self.peak_bytes / 2**20:.0f} MiB",
        }


@dataclass(frozen=True)
class Measure(Record):
    """A number that has no reference."""

    title = "Others"
    note = ""
    value: float
    unit: str = ""

    def headline(self) -> tuple[float, str]:
        return self.value, self.unit

    def cells(self) -> dict[str, str]:
        return {"what": self.what, "measured": f"{significant(self.value)} {self.unit}".strip()}


@dataclass(frozen=True)
class Growth(Record):
    """Seconds as work grows."""

    title = "As work grows"
    note = "p of time ∝ size^p, by least squares on logarithms."
    variable: str
    sizes: tuple[float, ...]
    seconds: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """p of seconds ∝ size^p."""
        slope, _ = np.polyfit(np.log(self.sizes), np.log(self.seconds), 1)
        return float(slope)

    def cells(self) -> dict[str, str]:
        pairs = zip(self.sizes, self.seconds, strict=True)
        return {
            "what": self.what,
            "by": self.variable,
            "time": ", ".join(f"{size:,}: {duration(seconds)}" for size, seconds in pairs),
            "p": f"{self.exponent:.2f}",
        }


TABLES = (Comparison, Phases, Arithmetic, Term, Detection, Measure, Growth)
"""In the order of the page."""


def significant(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """In the unit that suits it, three digits."""
    if seconds >= 1:
        return f"{seconds:.3g} s" if seconds < 1e3 else f"{seconds:.0f} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"
