"""Image files: pixels in and out, and sizes without decoding."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from qiml.errors import ConfigError, DatasetError
from qiml.io import atomic_path

_JPEG_START, _SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


def read_image(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB.

    Args:
        path: an image file, or FILE.parquet#ROW of Waymo's second release.

    Raises:
        DatasetError: the file is missing, torn or does not decode.
    """
    data = read_image_file(str(path))
    if _is_torn(data):
        raise _damaged(path, "a JPEG that ends too early")
    # The calibration is of the pixels as stored, whatever a photograph's orientation tag says.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # nothing in it, or more pixels than OpenCV reads
        image = None
    if image is None:
        raise _damaged(path, "an image that does not decode")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_image_file(path: str) -> bytes:
    """An image file as it is, also where it is a row of a parquet file (FILE.parquet#ROW).

    Raises:
        DatasetError: there is no such file or row, or it does not read.
    """
    if ".parquet#" in path:
        from qiml.data.waymo_parquet import read_image_bytes  # needs pyarrow, which others do not

        return read_image_bytes(path)
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise _damaged(path, found) from error


def _is_torn(data: bytes) -> bool:
    """Whether a JPEG lacks its end: decoders then make up the rest of the picture, most without a word.

    The marker of the end cannot occur inside a scan; one before it is that of a thumbnail.
    """
    return data.startswith(_JPEG_START) and data.rfind(_JPEG_END) < data.rfind(_SCAN)


def _damaged(path: str | Path, found: str) -> DatasetError:
    return DatasetError(
        path,
        found=found,
        expected="a PNG or JPEG image",
        mend="fetch or write the file again; tools/check_dataset.py lists every such file",
    )


def read_image_size(path: str | Path) -> tuple[int, int]:
    """Width and height in pixels from an image's header.

    Raises:
        DatasetError: the file is missing or not an image.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _damaged(path, str(error)) from error


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write RGB (H, W, 3) uint8, whole or not at all; the extension chooses the format.

    Raises:
        ConfigError: OpenCV knows no such format.
        OutputError: the file cannot be written.
    """
    try:
        encoded, data = cv2.imencode(Path(path).suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        encoded = False
    if not encoded:
        raise ConfigError(
            path,
            found="a picture of an unknown format",
            expected="a name like picture.png or picture.jpg",
            mend="correct the name",
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
