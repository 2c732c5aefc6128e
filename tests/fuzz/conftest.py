"""Prints how many damaged inputs were read and refused, and by what."""

from tests.fuzz import harness


def pytest_terminal_summary(terminalreporter) -> None:
    if harness.COUNTS:
        terminalreporter.section("fuzzing")
        terminalreporter.write_line(harness.summary())
