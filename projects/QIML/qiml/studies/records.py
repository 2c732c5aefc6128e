"""The results of studies: a file each, one JSON line a finished run."""

import fcntl
import json
import os
from pathlib import Path

from qiml.errors import DatasetError, OutputError
from qiml.studies.study import Cell


def read_records(path: str | Path) -> list[dict]:
    """All lines, in file order; a line torn by a crash, whose end is missing, is left out.

    Raises:
        DatasetError: a line is no JSON object, or does not say whose record it is.
    """
    path = Path(path)
    if not path.is_file():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")
    return [_parse(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]


def _parse(line: bytes, where: str) -> dict:
    try:
        record = json.loads(line)
        if not (type(record["identity"]) is str and type(record["seed"]) is int):
            raise TypeError("identity must be a text and seed a whole number")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DatasetError(
            where,
            found=f"something else ({type(error).__name__}: {error})",
            expected="a record of a finished run, a JSON object with identity and seed",
            mend="remove the line: its run is done again",
        ) from error
    return record


def append_record(path: str | Path, record: dict) -> None:
    """Add a line that is on the disk when this returns.

    Raises:
        OutputError: it cannot be written; the lines before it are still there.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # another study may write to the same file
            # A line torn by a crash has no newline: write over it.
            file.seek(file.read().rfind(b"\n") + 1)
            file.truncate()
            file.write(json.dumps(record, sort_keys=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(path, error) from error


def finished(cells: list[Cell], folder: str | Path) -> dict[Cell, dict]:
    """The cells that a study of this folder has run, whatever it called them: same identity, same seed."""
    records = [
        record for path in sorted(Path(folder).glob("*.jsonl")) for record in read_records(path)
    ]
    by_run = {(record["identity"], record["seed"]): record for record in records}
    runs = ((cell, (cell.identity, cell.seed)) for cell in cells)
    return {cell: by_run[run] for cell, run in runs if run in by_run}
