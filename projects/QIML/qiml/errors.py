"""Errors a user can mend: each message says where, what was found, what was expected, and how to mend it."""

import argparse
import contextlib
import errno
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

_LONGEST = 500  # characters that a message repeats of a file
# What the system says where it does not let a program read or write.
_REFUSALS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM,
}  # fmt: skip


class QIMLError(Exception):
    """A mistake in the input, not in the program. Entry points print it and exit with code 2.

    Args:
        where: file (with `:line`), config key or argument at fault.
        found: what is there; long ones are cut, and whatever would break the line becomes a space.
        expected: what should be there.
        mend: what to do about it.

    With `where` alone the text is taken as the whole message: pickling and data-loader workers
    rebuild exceptions that way.
    """

    def __init__(self, where: str | Path, *, found: str = "", expected: str = "", mend: str = ""):
        found = _one_line(found) or "nothing"
        details = f": found {found}; expected {expected}. To mend it: {mend}" if expected else ""
        super().__init__(f"{where}{details}")


def _one_line(text: str) -> str:
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    line = " ".join(printable.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} …"


class DatasetError(QIMLError):
    """A dataset folder, label, calibration, result or image file is missing or malformed."""


class ConfigError(QIMLError):
    """A config file, key or command-line value is unknown or out of range."""


class CheckpointError(QIMLError):
    """A checkpoint is missing, unreadable, unsafe, or of another architecture."""


class OutputError(QIMLError):
    """A file cannot be written; what was there before is still there.

    Args:
        path: file or folder to write.
        error: what the system says.
    """

    def __init__(self, path: str | Path, error: OSError | None = None):
        if error is None:  # rebuilt from its message
            super().__init__(path)
            return
        super().__init__(
            path,
            found=f"that it cannot be written ({error.strerror or error})",
            expected="a folder that may be written to, with room",
            mend="free space on the disk, name another folder, or get the right to write to this one",
        )


def check_counts(args: argparse.Namespace, **least: int) -> None:
    """Refuse counts on a command line that are too small.

    Args:
        args: parsed; options that are None were not given.
        least: smallest value of each, by its name in `args`.

    Raises:
        ConfigError: one is smaller.
    """
    for name, smallest in least.items():
        value = getattr(args, name)
        if value is not None and value < smallest:
            raise ConfigError(
                f"--{name.replace('_', '-')}",
                found=str(value),
                expected=f"a number of at least {smallest}",
                mend="correct it",
            )


def is_mendable(error: BaseException) -> bool:
    """Whether a user can mend what went wrong: no programming error, whose traceback is wanted."""
    refused = isinstance(error, OSError) and error.errno in _REFUSALS
    return refused or isinstance(error, QIMLError)


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn what a user can mend into one line on stderr and exit code 2; let programming errors through."""
    try:
        yield
    except Exception as error:
        if not is_mendable(error):
            raise
        # A data-loader worker hands over its whole traceback as text; the message is its last line.
        message = (
            str(error)
            .strip()
            .splitlines()[-1]
            .removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")
        )
        print(f"error: {message}", file=sys.stderr)
        # What reads from a data loader may be in them, and the loader's processes end with it.
        traceback.clear_frames(error.__traceback__)
        sys.exit(2)
