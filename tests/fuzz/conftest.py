"""Keeps with each test how many damaged inputs it read and refused; tests/conftest.py prints them all."""

from collections.abc import Callable, Iterator

import pytest

from tests.fuzz import harness


@pytest.fixture(autouse=True)
def _keep_counts(record_property: Callable) -> Iterator[None]:
    harness.COUNTS.clear()
    yield
    # A property of the report, which reaches the process that prints, also from a parallel worker.
    record_property(harness.PROPERTY, {name: dict(ends) for name, ends in harness.COUNTS.items()})
