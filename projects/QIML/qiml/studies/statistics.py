"""What a handful of seeds can say: mean and spread of a measure, and paired differences with an interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
# Two-sided 95 % quantiles of Student's t for 1, 2, … degrees of freedom; the normal one beyond.
_T_QUANTILES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145,
    2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048,
)  # fmt: skip
_NORMAL_QUANTILE = 1.960


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n − 1) of a measure over seeds; the latter None for one seed."""

    mean: float
    std: float | None
    count: int


@dataclass(frozen=True)
class PairedDifference:
    """A variant's measure minus the baseline's of the same seed.

    Attributes:
        mean: over the seeds.
        low, high: 95 % bootstrap interval of the mean (percentiles); None for fewer than two seeds.
        t_low, t_high: 95 % interval by Student's t, wider for few seeds; None likewise.
        higher: in how many seeds the variant was higher.
        count: how many seeds both have.
    """

    mean: float
    low: float | None
    high: float | None
    t_low: float | None
    t_high: float | None
    higher: int
    count: int

    @property
    def significant(self) -> bool:
        """Whether both intervals exclude 0. The bootstrap's alone is too narrow for five seeds."""
        if self.low is None:
            return False
        return min(self.low, self.t_low) > 0 or max(self.high, self.t_high) < 0


def spread(values: Sequence[float]) -> Spread:
    """Mean ± standard deviation of at least one value."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), std, len(values))


def paired_difference(
    variant: dict[int, float], baseline: dict[int, float]
) -> PairedDifference | None:
    """Compare runs of the same seeds.

    Args:
        variant, baseline: seed → measure; seeds that one of them lacks are left out.

    Returns:
        None where no seed is in both.
    """
    differences = np.array([*differences_by_seed(variant, baseline).values()])
    count = len(differences)
    if not count:
        return None
    mean, higher = float(differences.mean()), int((differences > 0).sum())
    if count < 2:
        return PairedDifference(mean, None, None, None, None, higher, count)
    low, high = bootstrap_interval(differences)
    margin = _t_quantile(count - 1) * float(differences.std(ddof=1)) / math.sqrt(count)
    return PairedDifference(mean, low, high, mean - margin, mean + margin, higher, count)


def differences_by_seed(variant: dict[int, float], baseline: dict[int, float]) -> dict[int, float]:
    """Seed → difference, of the seeds that both have, in rising order."""
    return {
        seed: variant[seed] - baseline[seed] for seed in sorted(variant.keys() & baseline.keys())
    }


def repeat_interval(values: Sequence[float], count: int) -> tuple[float, float]:
    """Where the mean of `count` new values falls in 95 of 100 cases, as far as at least two old ones tell."""
    old = spread(values)
    margin = _t_quantile(old.count - 1) * old.std * math.sqrt(1 / old.count + 1 / count)
    return old.mean - margin, old.mean + margin


def _t_quantile(degrees: int) -> float:
    return _T_QUANTILES[degrees - 1] if degrees <= len(_T_QUANTILES) else _NORMAL_QUANTILE


def bootstrap_interval(values: np.ndarray, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % percentile interval of the mean under resampling with replacement; the same at every call."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
