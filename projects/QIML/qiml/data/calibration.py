"""Calibration from where users have it: KITTI's files, a matrix, a focal length, or the photograph itself."""

import functools
import math
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from qiml.data.documents import read_document
from qiml.data.kitti_format import read_calibration
from qiml.data.sources import Frame
from qiml.errors import ConfigError, DatasetError

WAYS = (
    "--calib CALIB.txt (a KITTI calibration file, or a folder with one named after each frame), "
    "--calib MATRIX.json or .yaml (a 3×3 or 3×4 matrix), --focal PIXELS, or images whose EXIF data tell the "
    "focal length"
)
_MATRIX_KEYS = ("projection", "P2", "K", "camera_matrix", "data")
_MATRIX_EXTENSIONS = (".json", ".yaml", ".yml")
_MATRIX = {
    "expected": "a 3×3 or 3×4 matrix of finite numbers with positive focal lengths",
    "mend": "write [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], in pixels, alone or under the key 'projection'",
}
_MOST = 12  # numbers in a row, or rows
# Diagonal of 36 mm × 24 mm film, which equivalent focal lengths refer to.
_FILM_DIAGONAL = math.hypot(36, 24)
_MILLIMETRES = {2: 25.4, 3: 10.0, 4: 1.0}  # by FocalPlaneResolutionUnit: inch, cm, mm
_UPRIGHT = 1


class CalibrationReader:
    """The projection of every frame, in one of four ways.

    Args:
        calib: a KITTI calibration file, a folder of them named after frames or videos, or a matrix file.
        focal: in pixels, the principal point being the image's centre. Without both, EXIF data are read.

    Raises:
        ConfigError: both are given, or the focal length is not positive.
        DatasetError: there is no `calib`.
    """

    def __init__(self, calib: str | Path | None = None, focal: float | None = None):
        if calib is not None and focal is not None:
            raise ConfigError(
                "--focal",
                found="--calib, too",
                expected="one way of calibration",
                mend="leave one of the two out",
            )
        if focal is not None and not (math.isfinite(focal) and focal > 0):
            raise ConfigError(
                "--focal",
                found=f"{focal:g}",
                expected="a focal length in pixels, above 0",
                mend="multiply the focal length in mm by the image's width in pixels, and divide by the "
                "sensor's width in mm",
            )
        if calib is not None and not Path(calib).exists():
            raise DatasetError(
                calib, found="no such file or folder", expected="a calibration", mend=f"give {WAYS}"
            )
        self.calib = None if calib is None else Path(calib)
        self.focal = focal

    def __call__(self, frame: Frame) -> np.ndarray:
        """(3, 4) projection, camera frame (metres) to pixels of the frame's image.

        Raises:
            DatasetError: the frame has no calibration, or a malformed one.
        """
        if self.calib is None:
            focal = exif_focal(frame.source) if self.focal is None else self.focal
            return focal_projection(focal, frame.image.shape[:2])
        if not self.calib.is_dir():
            return _read_file(self.calib)
        candidates = [self.calib / f"{name}.txt" for name in (frame.id, Path(frame.source).stem)]
        for candidate in candidates:
            if candidate.is_file():
                return _read_file(candidate)
        raise DatasetError(
            candidates[0],
            found="no such file",
            expected=f"the calibration of frame {frame.id}",
            mend=f"add it, or give {WAYS}",
        )


@functools.lru_cache(maxsize=8)
def _read_file(path: Path) -> np.ndarray:
    if path.suffix.lower() in _MATRIX_EXTENSIONS:
        return read_matrix(path)
    return read_calibration(path)


def read_matrix(path: str | Path) -> np.ndarray:
    """Read a camera matrix from JSON or YAML.

    Args:
        path: file with a 3×3 or 3×4 matrix, as rows or as 9 or 12 numbers row by row; also as the value of
            `projection`, `P2`, `K` or `camera_matrix` (and there `data`, as ROS writes it).

    Returns:
        (3, 4) float64; a 3×3 matrix gets a fourth column of zeros.

    Raises:
        DatasetError: not JSON or YAML, no such matrix, or one that is not of a pinhole camera.
    """
    content = read_document(path, **_MATRIX)
    for _ in _MATRIX_KEYS:  # no further: a YAML alias may lead back to where it stands
        if not isinstance(content, dict):
            break
        key = next((key for key in _MATRIX_KEYS if key in content), None)
        if key is None:
            raise _wrong_matrix(path, f"the keys {', '.join(map(str, content)) or '(none)'}")
        content = content[key]
    if not _is_small(content):
        raise _wrong_matrix(path, "something much larger")
    try:
        matrix = np.array(content, dtype=float)
    except (TypeError, ValueError, OverflowError) as error:
        raise _wrong_matrix(path, "rows of different lengths, or not of numbers") from error
    if matrix.shape in ((9,), (12,)):
        matrix = matrix.reshape(3, -1)
    if matrix.shape not in ((3, 3), (3, 4)):
        raise _wrong_matrix(path, f"a matrix of shape {'×'.join(map(str, matrix.shape)) or '()'}")
    if not np.isfinite(matrix).all():
        raise _wrong_matrix(path, "numbers that are not finite")
    if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise _wrong_matrix(path, f"focal lengths {matrix[0, 0]:g} and {matrix[1, 1]:g}")
    if not np.allclose(matrix[2, :3], (0, 0, 1)):
        raise _wrong_matrix(path, f"the last row {matrix[2].tolist()}")
    return np.hstack([matrix, np.zeros((3, 4 - matrix.shape[1]))])


def _is_small(content: object) -> bool:
    """Whether lists are short and not nested further than a matrix: a few YAML aliases stand for billions."""
    rows = content if isinstance(content, list) else []
    lists = [rows, *(row for row in rows if isinstance(row, list))]
    nested = [item for row in lists[1:] for item in row if isinstance(item, list)]
    return not nested and all(len(each) <= _MOST for each in lists)


def _wrong_matrix(path: str | Path, found: str) -> DatasetError:
    return DatasetError(path, found=found, **_MATRIX)


def focal_projection(focal: float, image_size: tuple[int, int]) -> np.ndarray:
    """(3, 4) projection of a camera with the principal point at the image's centre.

    Args:
        focal: in pixels.
        image_size: (height, width).
    """
    height, width = image_size
    return np.array([[focal, 0, width / 2, 0], [0, focal, height / 2, 0], [0, 0, 1.0, 0]])


def exif_focal(path: str | Path) -> float:
    """Focal length in pixels from what the camera wrote into a photograph.

    The 35 mm equivalent is tried first (of the diagonal, CIPA DCG-001; it comes in whole millimetres), then
    the focal length with the sensor's resolution. (EXIF 2.3, tags 41989, 37386, 41486, 41488.)

    Raises:
        DatasetError: the file tells neither, or was stored turned or mirrored.
    """
    try:
        with Image.open(path) as image:
            exif, (width, height) = image.getexif(), image.size
            tags = exif.get_ifd(ExifTags.IFD.Exif)  # of a TIFF it is read from the file only now
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # a video or a webcam
        exif, tags, width, height = {}, {}, 0, 0
    focal = _equivalent_focal(tags, width, height) or _sensor_focal(tags, width)
    if focal is None:
        raise DatasetError(
            path,
            found="no calibration, and no focal length in its EXIF data",
            expected="a calibration of the camera",
            mend=f"give {WAYS}",
        )
    if exif.get(ExifTags.Base.Orientation, _UPRIGHT) != _UPRIGHT:
        raise DatasetError(
            path,
            found="a photograph stored turned or mirrored (EXIF orientation)",
            expected="an upright one",
            mend="turn its pixels: mogrify -auto-orient FILE",
        )
    return focal


def _number(tags: dict, tag: ExifTags.Base) -> float | None:
    """A tag's value; None where it is missing, nonsense or 0, which stands for unknown."""
    try:
        value = float(tags.get(tag, 0))
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return value if math.isfinite(value) and value > 0 else None


def _equivalent_focal(tags: dict, width: int, height: int) -> float | None:
    millimetres = _number(tags, ExifTags.Base.FocalLengthIn35mmFilm)
    return millimetres and millimetres / _FILM_DIAGONAL * math.hypot(width, height)


def _sensor_focal(tags: dict, width: int) -> float | None:
    millimetres = _number(tags, ExifTags.Base.FocalLength)
    resolution = _number(tags, ExifTags.Base.FocalPlaneXResolution)
    unit = _MILLIMETRES.get(tags.get(ExifTags.Base.FocalPlaneResolutionUnit, 2))
    if millimetres is None or resolution is None or unit is None:
        return None
    # The resolution is that of the picture as taken; it may have been made smaller since.
    taken = _number(tags, ExifTags.Base.ExifImageWidth) or width
    return millimetres * resolution / unit * width / taken
