"""The results of a study: one JSON line a finished run."""

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


def finished(cells: list[Cell], records: list[dict]) -> dict[Cell, dict]:
    """The cells that have a record of just this run: same place, seed and identity."""
    by_place = {_place(record): record for record in records}
    places = ((cell, (cell.group, cell.variant, cell.seed, cell.identity)) for cell in cells)
    return {cell: by_place[place] for cell, place in places if place in by_place}


def _place(record: dict) -> tuple:
    return tuple(record[key] for key in ("group", "variant", "seed", "identity"))
