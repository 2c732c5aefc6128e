import math

import numpy as np
import pytest
import torch

from qiml.structures.boxes3d import Boxes3D
from qiml.structures.camera import Camera
from qiml.visualization.boxes import draw_boxes3d

HEIGHT, WIDTH = 200, 600
CAMERA = Camera(torch.tensor([[350.0, 0, 300, 0], [0, 350, 100, 0], [0, 0, 1, 0]]))
NAMES = ("Pedestrian", "Car")
AWAY, TOWARDS = -math.pi / 2, math.pi / 2
GREY = 90


def blank() -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), GREY, dtype=np.uint8)


def car(x: float = 0.0, z: float = 12.0, yaw: float = TOWARDS) -> Boxes3D:
    return Boxes3D([[x, 0.5, z, 1.6, 1.8, 4.0, yaw]])


def draw(boxes: Boxes3D, **kwargs) -> np.ndarray:
    return draw_boxes3d(blank(), boxes, CAMERA, [1] * len(boxes), NAMES, **kwargs)


def ink(image: np.ndarray) -> np.ndarray:
    return (image != GREY).any(axis=-1)


def test_the_input_is_kept_and_the_ink_is_where_the_box_is():
    image = blank()
    drawn = draw_boxes3d(image, car(), CAMERA, [1], NAMES)
    assert (image == GREY).all() and drawn.shape == image.shape and drawn.dtype == np.uint8
    x1, y1, x2, y2 = car().project(CAMERA)[0].tolist()
    rows, columns = ink(drawn)[int(y1) :].nonzero()  # the label stands above
    assert columns.min() == pytest.approx(x1, abs=2) and columns.max() == pytest.approx(x2, abs=2)
    assert rows.max() + int(y1) == pytest.approx(y2, abs=2)


def test_no_boxes_and_boxes_behind_the_camera_draw_nothing():
    assert not ink(draw(Boxes3D([]))).any()
    # The second one has an edge on the optical axis.
    for behind in (car(z=-12), Boxes3D([[0.9, 0.8, -12, 1.6, 1.8, 4.0, AWAY]])):
        assert not ink(draw(behind, scores=[0.9], gt_boxes3d=behind)).any()


def test_a_box_partly_behind_the_camera_stays_on_its_side():
    # 12 m long, its rear 6 m behind the camera, 2 m to the right.
    passing = Boxes3D([[3.0, 0.5, 0.0, 1.6, 2.0, 12.0, AWAY]])
    drawn = ink(draw(passing))
    assert drawn.any()
    x1 = passing.project(CAMERA)[0, 0].item()
    assert drawn.nonzero()[1].min() >= x1 - 2


def test_the_face_that_leads_is_tinted():
    facing, leaving = draw(car(x=4, yaw=TOWARDS)), draw(car(x=4, yaw=AWAY))
    face = car(x=4, yaw=TOWARDS).corners()[:, [0, 1, 5, 4]].mean(dim=1, keepdim=True)
    column, row = CAMERA.project(face)[0][0, 0].int().tolist()
    assert ink(facing)[row, column]
    assert not ink(leaving)[row + 8, column - 10]  # clear of the far face's outline


def test_near_boxes_cover_far_ones_whatever_their_order():
    near, far = car(z=8), car(z=9, yaw=0)
    colours = {"near": 0, "far": 1}
    one = draw_boxes3d(blank(), Boxes3D.cat([near, far]), CAMERA, [*colours.values()], NAMES)
    other = draw_boxes3d(blank(), Boxes3D.cat([far, near]), CAMERA, [1, 0], NAMES)
    np.testing.assert_array_equal(one, other)


def test_labels_stand_above_near_boxes_only_where_they_fit():
    def above(boxes: Boxes3D, **kwargs) -> np.ndarray:
        return ink(draw(boxes, **kwargs))[: int(boxes.project(CAMERA)[0, 1]) - 3]

    assert above(car(z=12)).any()
    assert above(car(z=12), scores=[0.5]).sum() > above(car(z=12)).sum()
    assert not above(car(z=60), scores=[0.5]).any(), "wider than the box by far"
    below_the_image = Boxes3D([[0, 10, 12, 1.6, 1.8, 4.0, TOWARDS]])
    assert not ink(draw(below_the_image)).any()


def test_overlapping_labels_give_way_to_the_nearest():
    together = Boxes3D.cat([car(z=12), car(z=12.4)])
    alone = draw(together[:1])
    row = int(together.project(CAMERA)[:, 1].min()) - 3
    np.testing.assert_array_equal(draw(together)[:row], alone[:row])


def test_ground_truth_is_white_and_below_the_prediction():
    drawn = draw(Boxes3D([]), gt_boxes3d=car())
    greys = drawn[ink(drawn)]
    assert (greys == greys[:, :1]).all() and greys.max() > 200
    covered = draw(car(), gt_boxes3d=car())
    assert covered.min(axis=-1).max() < 200, "the blue lines lie on the white ones"


def test_lines_grow_with_the_image():
    big = np.full((HEIGHT * 4, WIDTH * 4, 3), GREY, dtype=np.uint8)
    camera = CAMERA.warp(torch.tensor([[4.0, 0, 0], [0, 4, 0]]))
    drawn = draw_boxes3d(big, car(), camera, [1], NAMES)
    row = round(camera.project(car().centres[None])[0][0, 0, 1].item())
    left = ink(drawn)[row].nonzero()[0][0]
    outline = drawn[row, left : left + 12]
    solid = (outline == outline[2]).all(axis=-1)
    assert solid.sum() >= 3, "three pixels or more at 2400 pixels across"


def test_cameras_and_boxes_of_any_precision():
    double = draw_boxes3d(blank(), car(), CAMERA.to(torch.float64), torch.tensor([1]), NAMES)
    np.testing.assert_array_equal(draw(car()), double)
