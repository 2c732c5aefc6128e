import cv2
import numpy as np
import pytest

from qiml.data.depth_map import read_depth_map, write_depth_map
from qiml.errors import DatasetError


def test_what_is_written_is_read(tmp_path):
    """In steps of 4 mm; nothing else than numbers of 16 bits in KITTI's unit is in the file."""
    depth = np.array([[0.0, 1.0, 30.123], [80.0, 255.99, 300.0]])
    path = tmp_path / "new" / "000000.png"
    write_depth_map(path, depth)
    assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[0, 1] == 256
    found = read_depth_map(path, (3, 2))
    assert found.dtype == np.float32
    depth[1, 2] = 0  # too far to be stored
    np.testing.assert_allclose(found, depth, atol=1 / 512)


def test_smaller_map_is_of_the_lower_middle(tmp_path):
    """Its borders go on, as in the official DID-M3D."""
    path = tmp_path / "000000.png"
    write_depth_map(path, np.array([[1.0, 2.0], [3.0, 4.0]]))
    found = read_depth_map(path, (5, 3))
    assert found.tolist() == [[1, 1, 2, 2, 2], [1, 1, 2, 2, 2], [3, 3, 4, 4, 4]]


@pytest.mark.parametrize("kind", ["absent", "torn", "eight bits", "colour", "too large"])
def test_files_that_are_no_depth_map(tmp_path, kind):
    path = tmp_path / "000000.png"
    if kind == "torn":
        path.write_bytes(b"no PNG")
    elif kind != "absent":
        dtype = np.uint8 if kind == "eight bits" else np.uint16
        shape = {"colour": (4, 6, 3), "too large": (5, 6)}.get(kind, (4, 6))
        cv2.imwrite(str(path), np.ones(shape, dtype))
    with pytest.raises(DatasetError) as caught:
        read_depth_map(path, (6, 4))
    message = str(caught.value)
    assert message.startswith(f"{path}: found") and "VISUAL_DEPTH" in message
    assert ("6×5" in message) == (kind == "too large")
    assert ("no such file" in message) == (kind == "absent")
