"""The results of studies: a file each, one JSON line a finished run."""

import json
import os
from pathlib import Path

from qiml.errors import DatasetError
from qiml.studies.study import Cell


def read_records(path: str | Path) -> list[dict]:
    """All lines, in file order; a line torn by a crash at the end is left out.

    Raises:
        DatasetError: a line before the last is no JSON.
    """
    path = Path(path)
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise DatasetError(
                f"{path}:{number}",
                found=f"no JSON ({error})",
                expected="a record of a finished run",
                mend="remove the line: its run is done again",
            ) from error
    return records


def append_record(path: str | Path, record: dict) -> None:
    """Add a line that is on the disk when this returns."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with path.open("r+b") as file:
        # A line torn by a crash has no newline: write over it.
        file.seek(file.read().rfind(b"\n") + 1)
        file.truncate()
        file.write(json.dumps(record, sort_keys=True).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def finished(cells: list[Cell], folder: str | Path) -> dict[Cell, dict]:
    """The cells that a study of this folder has run, whatever it called them: same identity, same seed."""
    records = [
        record for path in sorted(Path(folder).glob("*.jsonl")) for record in read_records(path)
    ]
    by_run = {(record["identity"], record["seed"]): record for record in records}
    runs = ((cell, (cell.identity, cell.seed)) for cell in cells)
    return {cell: by_run[run] for cell, run in runs if run in by_run}
