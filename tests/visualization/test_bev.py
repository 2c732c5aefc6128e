import math

import numpy as np
import pytest
import torch

from qiml.structures.boxes3d import Boxes3D
from qiml.structures.camera import Camera
from qiml.visualization.bev import draw_bev
from qiml.visualization.canvas import WHITE, class_colour

SIZE = (400, 500)
NOTHING = Boxes3D([])
AWAY, TOWARDS = -math.pi / 2, math.pi / 2


def box(x: float, z: float, yaw: float = AWAY, width: float = 2.0) -> Boxes3D:
    return Boxes3D([[x, 1.0, z, 1.5, width, 5.0, yaw]])


def bev(boxes: Boxes3D, max_range: float | None = 40.0, **kwargs) -> np.ndarray:
    return draw_bev(boxes, [1] * len(boxes), size=SIZE, max_range=max_range, **kwargs)


def ink(boxes: Boxes3D, **kwargs) -> np.ndarray:
    """Rows and columns that boxes change on an otherwise equal picture."""
    return (bev(boxes, **kwargs) != bev(NOTHING, **kwargs)).any(axis=-1).nonzero()


def pixel(x: float, z: float) -> tuple[float, float]:
    """Row and column of a place: the camera is centred 4 % above the lower border."""
    bottom = 0.96 * SIZE[0]
    return bottom - z * bottom / 40.0, SIZE[1] / 2 + x * bottom / 40.0


@pytest.mark.parametrize("x, z", [(0, 10), (8, 20), (-12, 30)])
def test_a_box_is_drawn_to_scale_at_its_place(x, z):
    rows, columns = ink(box(x, z))
    (top, right), (bottom, left) = pixel(x + 1, z + 2.5), pixel(x - 1, z - 2.5)
    extent = [rows.min(), rows.max() + 1, columns.min(), columns.max() + 1]
    np.testing.assert_allclose(extent, [top, bottom, left, right], atol=3.5)  # line ends stand out


@pytest.mark.parametrize("yaw, end", [(AWAY, 2.5), (TOWARDS, -2.5)])
def test_the_front_edge_is_the_thick_one(yaw, end):
    picture = bev(box(0, 20, yaw))
    column = SIZE[1] // 2
    solid = (picture[:, column] == class_colour(1)).all(axis=-1).nonzero()[0]
    assert len(solid) >= 2
    assert abs(np.median(solid) - pixel(0, 20 + end)[0]) < 2


def test_boxes_out_of_range_draw_nothing():
    assert len(ink(Boxes3D.cat([box(0, 60), box(80, 20), box(0, -30)]))[0]) == 0


def test_ground_truth_is_an_outline():
    picture = bev(NOTHING, gt_boxes3d=box(0, 20, width=6.0))
    white = (picture == WHITE).all(axis=-1)
    row, column = (int(value) for value in pixel(0, 20))
    assert white.sum() > 50 and (picture[row, column] == bev(NOTHING)[row, column]).all()


def test_the_field_of_view_is_a_wedge_that_follows_the_camera():
    camera = Camera(torch.tensor([[300.0, 0, 300, 0], [0, 300, 90, 0], [0, 0, 1, 0]]))  # 90°
    difference = bev(NOTHING, camera=camera, image_width=600).sum(axis=-1, dtype=int)
    difference -= bev(NOTHING).sum(axis=-1, dtype=int)
    for x, inside in [(-11, False), (-9, True), (9, True), (11, False)]:
        row, column = (int(value) for value in pixel(x, 10))
        patch = difference[row - 1 : row + 2, column - 1 : column + 2]
        assert (np.median(patch) > 0) == inside


def test_range_fits_the_farthest_box_of_either_kind():
    far = box(0, 55)
    fitted = bev(far, max_range=60.0)
    np.testing.assert_array_equal(bev(far, max_range=None), fitted)
    by_ground_truth = bev(NOTHING, max_range=None, gt_boxes3d=far)
    np.testing.assert_array_equal(by_ground_truth, bev(NOTHING, max_range=60.0, gt_boxes3d=far))
    np.testing.assert_array_equal(bev(NOTHING, max_range=None), bev(NOTHING, max_range=30.0))


def test_as_many_classes_as_boxes_are_needed():
    with pytest.raises(ValueError):
        draw_bev(box(0, 10), [])
