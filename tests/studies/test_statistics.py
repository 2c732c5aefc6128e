"""Means, paired differences and their intervals."""

import numpy as np
import pytest

from qiml.studies.statistics import (
    bootstrap_interval,
    paired_difference,
    repeat_interval,
    spread,
)


def test_spread_is_the_sample_standard_deviation():
    found = spread([1.0, 2.0, 3.0, 4.0])
    assert (found.mean, found.count) == (2.5, 4)
    assert found.std == pytest.approx(np.sqrt(5 / 3))


def test_one_value_has_no_standard_deviation():
    assert spread([3.0]).std is None


def test_differences_are_paired_by_seed():
    found = paired_difference({1: 2.0, 2: 5.0, 9: 100.0}, {2: 4.0, 1: 3.0, 8: 0.0})
    assert (found.mean, found.higher, found.count) == (0.0, 1, 2)


def test_no_common_seed_is_no_difference():
    assert paired_difference({1: 2.0}, {2: 2.0}) is None


def test_one_common_seed_has_no_interval_and_is_never_significant():
    found = paired_difference({1: 2.0}, {1: 1.0})
    assert (found.mean, found.low, found.significant) == (1.0, None, False)


@pytest.mark.parametrize("shift, significant", [(1.0, True), (-1.0, True), (0.01, False)])
def test_significant_is_what_excludes_zero(shift, significant):
    noise = dict(enumerate([0.1, -0.2, 0.15, -0.05, 0.02]))
    variant = {seed: shift + value for seed, value in noise.items()}
    found = paired_difference(variant, dict.fromkeys(noise, 0.0))
    assert found.significant is significant
    assert found.t_low < found.low < found.mean < found.high < found.t_high


def test_bootstrap_alone_does_not_make_a_difference_significant():
    values = dict(enumerate([1.0, 1.0, 1.0, 0.1, -0.1]))
    found = paired_difference(values, dict.fromkeys(values, 0.0))
    assert found.low > 0 > found.t_low
    assert not found.significant


def test_t_interval_of_five_values_is_the_textbook_one():
    values = dict(enumerate([1.0, 2.0, 3.0, 4.0, 5.0]))
    found = paired_difference(values, dict.fromkeys(values, 0.0))
    assert found.t_high - found.mean == pytest.approx(2.776 * np.sqrt(2.5 / 5))


def test_bootstrap_interval_repeats_and_covers_about_95_percent():
    rng = np.random.default_rng(5)
    samples = rng.normal(size=(300, 40))
    intervals = [bootstrap_interval(sample, 1000) for sample in samples]
    assert intervals[0] == bootstrap_interval(samples[0], 1000)
    covered = np.mean([low < 0 < high for low, high in intervals])
    assert 0.89 < covered < 0.98


def test_the_mean_of_new_values_falls_in_the_repeat_interval_in_95_of_100_cases():
    rng = np.random.default_rng(5)
    old, new = rng.normal(size=(2000, 5)), rng.normal(size=(2000, 3)).mean(axis=1)
    intervals = [repeat_interval(values, 3) for values in old]
    inside = np.mean([low < mean < high for (low, high), mean in zip(intervals, new, strict=True)])
    assert 0.935 < inside < 0.965
