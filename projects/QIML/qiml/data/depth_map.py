"""Dense depth maps as KITTI stores depth: 16-bit PNGs of metres × 256, 0 where it is unknown."""

from pathlib import Path

import cv2
import numpy as np

from qiml.errors import DatasetError
from qiml.io import atomic_path

_PER_METRE = 256


def read_depth_map(path: str | Path, size: tuple[int, int]) -> np.ndarray:
    """(H, W) float32 metres of an image's pixels, 0 where unknown.

    A smaller map is of the image's lower middle, as depth completion crops KITTI's images to 1216×352; its
    borders are continued, as the official DID-M3D does.

    Args:
        path: of the map.
        size: (width, height) of the image.

    Raises:
        DatasetError: the file is missing, not a 16-bit grey image, or larger than the image.
    """
    width, height = size
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint16 or stored.ndim != 2:
        found = "no such file" if not Path(path).is_file() else "something else, or a torn file"
    elif stored.shape[0] > height or stored.shape[1] > width:
        found = f"{stored.shape[1]}×{stored.shape[0]} pixels"
    else:
        above, left = height - stored.shape[0], (width - stored.shape[1]) // 2
        right = width - stored.shape[1] - left
        depth = stored.astype(np.float32) / _PER_METRE
        return cv2.copyMakeBorder(depth, above, 0, left, right, cv2.BORDER_REPLICATE)
    raise DatasetError(
        path,
        found=found,
        expected=f"a 16-bit grey PNG of metres × {_PER_METRE}, of at most {width}×{height} pixels",
        mend='fetch or write it again, or set MODEL.BOX3D_HEAD.VISUAL_DEPTH to "box"',
    )


def write_depth_map(path: Path, depth: np.ndarray) -> None:
    """Write (H, W) metres; what is too far to be stored, from 256 m on, becomes unknown.

    Raises:
        OutputError: the file cannot be written.
    """
    stored = np.round(depth * _PER_METRE)
    stored[~(stored <= np.iinfo(np.uint16).max)] = 0
    data = cv2.imencode(".png", stored.astype(np.uint16))[1]
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
