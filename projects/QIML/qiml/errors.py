"""Errors a user can mend: each message says where, what was found, what was expected, and how to mend it."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path


class QIMLError(Exception):
    """A mistake in the input, not in the program. Entry points print it and exit with code 2.

    Args:
        where: file (with `:line`), config key or argument at fault.
        found: what is there.
        expected: what should be there.
        mend: what to do about it.

    With `where` alone the text is taken as the whole message: pickling and data-loader workers
    rebuild exceptions that way.
    """

    def __init__(self, where: str | Path, *, found: str = "", expected: str = "", mend: str = ""):
        details = f": found {found}; expected {expected}. To mend it: {mend}" if found else ""
        super().__init__(f"{where}{details}")


class DatasetError(QIMLError):
    """A dataset folder, label, calibration, result or image file is missing or malformed."""


class ConfigError(QIMLError):
    """A config file, key or command-line value is unknown or out of range."""


class CheckpointError(QIMLError):
    """A checkpoint is missing, unreadable, unsafe, or of another architecture."""


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn a :class:`QIMLError` into one line on stderr and exit code 2; let programming errors through."""
    try:
        yield
    except QIMLError as error:
        # A data-loader worker hands over its whole traceback as text; the message is its last line.
        message = (
            str(error)
            .strip()
            .splitlines()[-1]
            .removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")
        )
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
