"""The objects of many frames in one table: read fast from files, or joined from arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from qiml.data.kitti_format import COLUMNS, KITTIObjects, is_finite, read_lines
from qiml.errors import DatasetError


@dataclass(frozen=True, eq=False)
class ObjectTable:
    """Objects of F frames, one frame after the other, in file order.

    Attributes:
        objects: all N objects; their types in lower case, as KITTI compares them so.
        frame: (N,) number of the frame of each, ascending.
        frames: F, counting frames without objects.
    """

    objects: KITTIObjects
    frame: np.ndarray
    frames: int

    @classmethod
    def from_counts(
        cls, types: np.ndarray, values: np.ndarray, counts: Sequence[int]
    ) -> "ObjectTable":
        """A table from the rows of all frames and the number of rows of each."""
        objects = KITTIObjects(np.char.lower(types), values)
        return cls(objects, np.repeat(np.arange(len(counts)), counts), len(counts))

    @classmethod
    def from_frames(cls, frames: Sequence[KITTIObjects], scored: bool) -> "ObjectTable":
        """A table from arrays.

        Raises:
            DatasetError: a value, or a score where `scored`, is not a finite number.
        """
        joined = KITTIObjects.concatenate(frames)
        table = cls.from_counts(joined.types, joined.values, [len(frame) for frame in frames])
        columns = joined.values if scored else joined.values[:, :-1]
        wrong = np.argwhere(~np.isfinite(columns))
        if len(wrong):
            row, column = wrong[0]
            raise DatasetError(
                f"{'detections' if scored else 'ground truth'} of frame number {table.frame[row]}",
                found=f"{columns[row, column]} as {COLUMNS[column]} of a {joined.types[row]}",
                expected="finite numbers",
                mend="remove the object or correct what made the value",
            )
        return table

    def of_types(self, *types: str) -> np.ndarray:
        """(N,) mask of the objects of some classes."""
        return np.isin(self.objects.types, [name.lower() for name in types])


def read_table(paths: Sequence[str | Path | None], scored: bool) -> ObjectTable:
    """Read many label or result files at once, several times faster than one by one.

    Any class name is allowed, as are boxes of any finite size: what they are worth is the
    evaluation's to say.

    Args:
        paths: one file a frame; None is a frame without objects.
        scored: True for results (16 columns), False for labels (15).

    Raises:
        DatasetError: a file is missing, or a line has the wrong number of columns or something that
            is not a finite number; names the file and the line.
    """
    width = len(COLUMNS) + scored
    types: list[str] = []
    values, counts = [np.empty(0)], []
    for path in paths:
        names, numbers = ([], np.empty(0)) if path is None else _parse(path, width)
        types += names
        values.append(numbers)
        counts.append(len(names))
    table = np.full((len(types), len(COLUMNS)), np.nan)
    table[:, : width - 1] = np.concatenate(values).reshape(-1, width - 1)
    return ObjectTable.from_counts(np.array(types, dtype=str), table, counts)


def _parse(path: str | Path, width: int) -> tuple[list[str], np.ndarray]:
    """The first column, and all numbers one after the other."""
    rows = [fields for fields in map(str.split, read_lines(path)) if fields]
    try:
        if any(len(row) != width for row in rows):
            raise ValueError
        names = [row[0] for row in rows]
        texts = chain.from_iterable(row[1:] for row in rows)
        numbers = np.fromiter(map(float, texts), float, len(rows) * (width - 1))
        if not np.isfinite(numbers).all():
            raise ValueError
    except ValueError:
        _check_lines(path, width)
        raise
    return names, numbers


def _check_lines(path: str | Path, width: int) -> None:
    """Raise DatasetError for the first faulty line."""
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split()
        if fields and len(fields) != width:
            raise DatasetError(
                f"{path}:{number}",
                found=f"{len(fields)} columns",
                expected=f"{width}" + (" (a score in the last)" if width > len(COLUMNS) else ""),
                mend=f"write each object as: type {' '.join(COLUMNS[: width - 1])}",
            )
        for column, text in zip(COLUMNS, fields[1:], strict=False):
            if not is_finite(text):
                raise DatasetError(
                    f"{path}:{number}",
                    found=f"'{text}' as {column}",
                    expected="a finite number",
                    mend="correct or delete the line",
                )
