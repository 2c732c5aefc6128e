"""KITTI's text formats: object labels (15 columns), results (16) and calibration.

Pure NumPy. Locations stay as in the file, at the centre of the box's *bottom* face; who needs
geometric centres converts them at the dataset or evaluator boundary.

Format: the readme of KITTI's object development kit (https://www.cvlibs.net/datasets/kitti).
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from qiml.errors import DatasetError
from qiml.io import atomic_write_text

KNOWN_TYPES = (
    "Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", "DontCare",
)  # fmt: skip
COLUMNS = (
    "truncation", "occlusion", "alpha", "x1", "y1", "x2", "y2",
    "h", "w", "l", "x", "y", "z", "rotation_y", "score",
)  # fmt: skip
_DECIMALS = (2, 0, *[4] * 12, 6)


@dataclass(frozen=True, eq=False)
class KITTIObjects:
    """The objects of one frame as arrays, in file order.

    Attributes:
        types: (N,) str, class names as in the file.
        values: (N, 15) float64, columns as in `COLUMNS`: pixels, metres (camera frame), radians;
            x, y, z is the centre of the bottom face; score is nan for labels.
    """

    types: np.ndarray
    values: np.ndarray

    @classmethod
    def empty(cls) -> "KITTIObjects":
        """A frame without objects."""
        return cls(np.empty(0, dtype="<U16"), np.empty((0, len(COLUMNS))))

    @classmethod
    def concatenate(cls, parts: Sequence["KITTIObjects"]) -> "KITTIObjects":
        """All objects of `parts` in order; no part gives an empty frame."""
        parts = [cls.empty(), *parts]
        return cls(
            np.concatenate([part.types for part in parts]),
            np.concatenate([part.values for part in parts]),
        )

    @classmethod
    def from_columns(
        cls,
        types: Sequence[str] | np.ndarray,
        *,
        bbox: np.ndarray,
        dimensions: np.ndarray | float = -1.0,
        location: np.ndarray | float = -1000.0,
        rotation_y: np.ndarray | float = -10.0,
        alpha: np.ndarray | float = -10.0,
        truncation: np.ndarray | float = -1.0,
        occlusion: np.ndarray | float = -1.0,
        score: np.ndarray | float = math.nan,
    ) -> "KITTIObjects":
        """Objects from columns; what is left out gets KITTI's "not given" value.

        Args:
            types: (N,) class names.
            bbox: (N, 4) x1, y1, x2, y2 in pixels.
            dimensions: (N, 3) h, w, l in metres.
            location: (N, 3) x, y, z of the bottom face's centre in metres, camera frame.
            rotation_y, alpha: (N,) radians.
            truncation, occlusion: (N,) as in labels; -1 in results.
            score: (N,) for results; nan for labels.
        """
        values = np.empty((len(types), len(COLUMNS)))
        objects = cls(np.asarray(types, dtype=str).reshape(-1), values)
        views = {
            "truncation": truncation, "occlusion": occlusion, "alpha": alpha, "bbox": bbox,
            "dimensions": dimensions, "location": location, "rotation_y": rotation_y,
            "score": score,
        }  # fmt: skip
        for name, column in views.items():
            getattr(objects, name)[...] = column
        return objects

    @classmethod
    def from_boxes(
        cls, types: Sequence[str] | np.ndarray, boxes3d: np.ndarray, **columns
    ) -> "KITTIObjects":
        """Objects from boxes with geometric centres.

        Args:
            types: (N,) class names.
            boxes3d: (N, 7) x, y, z of the centre, h, w, l, yaw; as `Boxes3D.tensor`.
            columns: `bbox` and others of :meth:`from_columns`.
        """
        boxes3d = np.asarray(boxes3d, dtype=float).reshape(-1, 7)
        return cls.from_columns(
            types,
            dimensions=boxes3d[:, 3:6],
            location=boxes3d[:, :3] + np.array([0, 0.5, 0]) * boxes3d[:, 3:4],
            rotation_y=boxes3d[:, 6],
            **columns,
        )

    def __len__(self) -> int:
        return len(self.types)

    def __getitem__(self, index: np.ndarray | slice) -> "KITTIObjects":
        """The objects picked by an index array, a boolean mask or a slice."""
        return KITTIObjects(self.types[index], self.values[index])

    @property
    def truncation(self) -> np.ndarray:
        """(N,) share of the object outside the image, 0 to 1; -1 where not given."""
        return self.values[:, 0]

    @property
    def occlusion(self) -> np.ndarray:
        """(N,) 0 visible, 1 partly, 2 largely occluded, 3 unknown; -1 where not given."""
        return self.values[:, 1]

    @property
    def alpha(self) -> np.ndarray:
        """(N,) observation angle in radians; -10 where not given."""
        return self.values[:, 2]

    @property
    def bbox(self) -> np.ndarray:
        """(N, 4) x1, y1, x2, y2 in pixels."""
        return self.values[:, 3:7]

    @property
    def dimensions(self) -> np.ndarray:
        """(N, 3) h, w, l in metres; -1 where not given."""
        return self.values[:, 7:10]

    @property
    def location(self) -> np.ndarray:
        """(N, 3) centre of the bottom face in metres, camera frame; -1000 where not given."""
        return self.values[:, 10:13]

    @property
    def rotation_y(self) -> np.ndarray:
        """(N,) yaw about the camera's y axis in radians; -10 where not given."""
        return self.values[:, 13]

    @property
    def score(self) -> np.ndarray:
        """(N,) confidence; nan for labels."""
        return self.values[:, 14]


def _raise(error: DatasetError) -> NoReturn:
    raise error


def read_objects(
    path: str | Path,
    scored: bool,
    known_types: Collection[str] | None = KNOWN_TYPES,
    on_error: Callable[[DatasetError], None] = _raise,
) -> KITTIObjects:
    """Read a label file (15 columns) or a result file (16 columns).

    An empty file is a frame without objects; blank lines are skipped.

    Args:
        path: text file, one object a line.
        scored: True for results, whose 16th column is the score.
        known_types: class names a line may carry (compared without case); None allows any.
        on_error: called with the fault of each malformed line, which is then left out.
            By default the first fault is raised.

    Returns:
        The objects in file order.

    Raises:
        DatasetError: the file is missing or unreadable; or a line has the wrong number of columns,
            something that is not a finite number, an unknown class, sizes that are not positive
            (except where KITTI leaves them out: DontCare, 2D-only results) or a 2D box whose
            corners are swapped.
    """
    known = None if known_types is None else {name.lower(): name for name in known_types}
    types, rows = [], []
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            rows.append(_parse_object(fields, scored, known))
            types.append(fields[0])
        except _LineError as error:
            found, expected, mend = error.args
            on_error(DatasetError(f"{path}:{number}", found=found, expected=expected, mend=mend))
    if not rows:
        return KITTIObjects.empty()
    return KITTIObjects(np.array(types), np.array(rows))


class _LineError(Exception):
    """(found, expected, mend) of one malformed line."""


def _parse_object(fields: list[str], scored: bool, known: dict[str, str] | None) -> list[float]:
    """The 15 numbers of a line, checked; files are short, so plain Python beats NumPy here."""
    name, *numbers = fields
    columns = 16 if scored else 15
    if len(fields) != columns:
        raise _LineError(
            f"{len(fields)} columns",
            f"{columns} ({'results' if scored else 'labels'})",
            f"write each object as: type {' '.join(COLUMNS[: columns - 1])}",
        )
    if known is not None and name.lower() not in known:
        raise _LineError(
            f"unknown class '{name}'",
            f"one of {' '.join(known.values())}",
            "rename the class, or mark the object DontCare",
        )
    for column, text in zip(COLUMNS, numbers, strict=False):
        if not is_finite(text):
            raise _LineError(
                f"'{text}' as {column}", "a finite number", "correct or delete the line"
            )
    values = [float(text) for text in numbers]
    x1, y1, x2, y2, *sizes = values[3:10]
    if x2 < x1 or y2 < y1:
        raise _LineError(
            f"x1 y1 x2 y2 = {' '.join(numbers[3:7])}",
            "x1 <= x2 and y1 <= y2",
            "swap the corners of the 2D box",
        )
    # DontCare regions and 2D-only results have sizes of -1; a detector may predict a flat box.
    not_given = name.lower() == "dontcare" or (scored and sizes == [-1, -1, -1])
    if not not_given and (min(sizes) < 0 or (min(sizes) == 0 and not scored)):
        raise _LineError(
            f"h w l = {' '.join(numbers[7:10])}",
            "positive sizes in metres",
            "correct the sizes, or mark an object without a 3D box DontCare",
        )
    return values if scored else [*values, math.nan]


def is_finite(text: str) -> bool:
    """Whether a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def write_objects(path: str | Path, objects: KITTIObjects) -> None:
    """Write labels (no scores: 15 columns) or results (16 columns), whole or not at all.

    Numbers are rounded to 2 decimals (truncation), 0 (occlusion), 4 (pixels, metres, radians) and
    6 (score), without trailing zeros. No objects give an empty file.

    Raises:
        ValueError: a value is not finite, or only some objects have a score.
    """
    scored = not np.isnan(objects.score).all()
    values = objects.values if scored else objects.values[:, :-1]
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: objects to write must be finite, all or none with a score")
    lines = [
        " ".join([kind, *map(_format, row, _DECIMALS)]) + "\n"
        for kind, row in zip(objects.types, values.tolist(), strict=True)
    ]
    atomic_write_text(path, "".join(lines))


def _format(value: float, decimals: int) -> str:
    if value == int(value):  # keeps the sentinels -1, -10 and -1000 tidy
        return str(int(value))
    text = f"{value:.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if decimals else text
    return "0" if text == "-0" else text


def read_calibration(path: str | Path) -> np.ndarray:
    """Read P2, the projection of the left colour camera, from a KITTI calibration file.

    Args:
        path: text file with a line `P2: ` and 12 numbers; other lines, in any order, are ignored.

    Returns:
        (3, 4) float64 matrix from the rectified camera frame (metres) to pixels.

    Raises:
        DatasetError: the file or its P2 line is missing, does not hold 12 finite numbers, has a focal
            length that is not positive, or is not of a rectified camera.
    """
    for number, line in enumerate(read_lines(path), start=1):
        key, _, rest = line.partition(":")
        if key.strip() == "P2":
            return _parse_projection(f"{path}:{number}", rest.split())
    raise DatasetError(
        path,
        found="no line starting with 'P2:'",
        expected="the projection of the left colour camera, 'P2:' and 12 numbers",
        mend="use KITTI's camera calibration files, or write P2 as the 3x4 matrix row by row",
    )


def _parse_projection(where: str, fields: list[str]) -> np.ndarray:
    wrong = [text for text in fields if not is_finite(text)]
    if wrong:
        found = f"'{wrong[0]}' in P2"
    elif len(fields) != 12:
        found = f"{len(fields)} numbers in P2"
    elif float(fields[0]) <= 0 or float(fields[5]) <= 0:
        found = f"focal lengths {fields[0]} and {fields[5]} in P2"
    elif [float(text) for text in fields[8:11]] != [0, 0, 1]:
        found = f"a last row of P2 that begins with {' '.join(fields[8:11])}"
    else:
        return np.array([float(text) for text in fields]).reshape(3, 4)
    raise DatasetError(
        where,
        found=found,
        expected="12 finite numbers, row by row, with positive focal lengths and 0 0 1 in the last row",
        mend="write P2 as: fx 0 cx tx 0 fy cy ty 0 0 1 tz",
    )


def write_calibration(path: str | Path, projection: np.ndarray) -> None:
    """Write a complete KITTI calibration file for a single camera, whole or not at all.

    All four cameras get `projection`; the rectification is the identity; the laser scanner and the
    inertial unit (x forward, y left, z up) sit at the camera.

    Args:
        path: file to write.
        projection: (3, 4) matrix from the camera frame to pixels.
    """
    scanner_to_camera = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]])
    matrices = {f"P{camera}": np.asarray(projection, dtype=float) for camera in range(4)}
    matrices |= {
        "R0_rect": np.eye(3),
        "Tr_velo_to_cam": scanner_to_camera,
        "Tr_imu_to_velo": np.eye(3, 4),
    }
    if matrices["P2"].shape != (3, 4) or not np.isfinite(matrices["P2"]).all():
        raise ValueError(f"{path}: projection must be a finite 3x4 matrix")
    lines = [
        f"{key}: " + " ".join(f"{value:.12e}" for value in matrix.ravel())
        for key, matrix in matrices.items()
    ]
    atomic_write_text(path, "\n".join(lines) + "\n")


def read_lines(
    path: str | Path,
    expected: str = "a text file in KITTI's format",
    mend: str = "check the path and the folder's layout",
) -> list[str]:
    """The lines of a text file.

    Raises:
        DatasetError: it is missing or is not text; says what is expected and how to mend it.
    """
    try:
        # Not in text mode, which takes longer to open a file than to read it.
        with open(path, "rb", buffering=0) as file:
            text = file.read().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise DatasetError(
            path,
            found=found,
            expected=expected,
            mend=mend,
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
