"""Output files that are either whole or absent: written under a temporary name, then renamed."""

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from qiml.errors import OutputError

TEMPORARY_PREFIX = ".tmp-"


@contextlib.contextmanager
def atomic_path(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path` and rename it to `path` when the block succeeds.

    The temporary name keeps the extension, so image and array writers choose the right format.
    When the block raises, the temporary file is removed and an existing `path` is left as it was.

    Args:
        path: final file; its folder is made when absent.
        durable: also wait until the content is on the disk before the name is, and then for the name: whole
            or absent even after a power cut, at the cost of milliseconds.

    Yields:
        The path to write to.

    Raises:
        OutputError: the system refuses: a full disk, a folder that may not be written to, …
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
        if durable and os.name == "posix":  # elsewhere folders cannot be opened
            _sync(path.parent)
    except OSError as error:
        raise OutputError(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a new folder beside `path` that takes its place when the block succeeds, whatever was there.

    When the block raises, `path` is left as it was.

    Raises:
        OutputError: as :func:`atomic_path`.
    """
    path = Path(path)
    temporary, old = _temporary(path), _temporary(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            os.rename(path, old)
        os.rename(temporary, path)
    except OSError as error:
        raise OutputError(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            if old.exists() and not path.exists():
                os.rename(old, path)
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def alone(path: str | Path) -> Iterator[TextIO]:
    """Hold a lock that is named after `path` and lies beside it, once other programs have let it go.

    Yields:
        The open file that is locked: whoever inherits it holds the lock, too.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def _temporary(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}-{path.name}")


def visible_files(folder: str | Path, pattern: str = "*") -> list[Path]:
    """What lies in a folder, by name, without names that start with a dot.

    Those are what a killed program left half-written (:func:`atomic_path`) and what systems hide.
    """
    return sorted(path for path in Path(folder).glob(pattern) if not path.name.startswith("."))


def remove_partial(folder: str | Path) -> None:
    """Delete what a killed program left half-written directly in a folder of its own.

    Only for whoever alone writes there: what another program is writing at this moment would go, too.
    """
    for path in Path(folder).glob(f"{TEMPORARY_PREFIX}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write_text(path: str | Path, text: str, durable: bool = False) -> None:
    """Write `text` (UTF-8, no newline translation) to `path`, whole or not at all."""
    with atomic_path(path, durable) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
