import numpy as np
import pytest

from qiml.data.kitti_format import KITTIObjects
from qiml.structures.boxes3d import Boxes3D
from qiml.visualization.canvas import class_colour
from qiml.visualization.objects import draw_objects

NAMES = ("Pedestrian", "Car")
PROJECTION = np.array([[700.0, 0, 621, 0], [0, 700, 187, 0], [0, 0, 1, 0]])
IMAGE = np.full((375, 1242, 3), 90, dtype=np.uint8)
BOX = np.array([[1.0, 0.5, 15, 1.6, 1.8, 4.0, 0.3]])


def car(kind="Car", box=BOX, **columns) -> KITTIObjects:
    return KITTIObjects.from_boxes([kind], box, bbox=np.array([[300.0, 100, 400, 200]]), **columns)


def draw(*args, **kwargs) -> np.ndarray:
    return draw_objects(IMAGE, PROJECTION, *args, **{"class_names": NAMES, **kwargs})


def count(picture: np.ndarray, colour) -> int:
    return (picture[:375, :1242] == colour).all(axis=-1).sum()


def white(picture: np.ndarray) -> int:
    """Pixels of anti-aliased white lines in the image's part."""
    return (picture[:375, :1242].min(axis=-1) > 160).sum()


def test_the_class_chooses_the_colour_and_the_score_is_written():
    plain = draw(car(), view="image")
    assert plain.shape == IMAGE.shape
    assert count(plain, class_colour(1)) > 200 and count(plain, class_colour(0)) == 0
    assert count(draw(car("Pedestrian"), view="image"), class_colour(0)) > 200
    assert (draw(car(score=0.7), view="image") != plain).any()


def test_boxes_with_kitti_bottoms_are_drawn_at_their_centres():
    objects = car()
    boxes = Boxes3D.from_kitti(objects.location, objects.dimensions, objects.rotation_y)
    np.testing.assert_allclose(boxes.tensor.numpy(), BOX)


def test_truth_is_white_or_beside():
    truth = car(box=BOX + np.array([2, 0, 0, 0, 0, 0, 0]))
    assert white(draw(car())) == 0 and white(draw(car(), truth=truth)) > 100
    panel, beside = draw(car(), truth=truth), draw(car(), truth=truth, view="beside")
    assert beside.shape == (2 * panel.shape[0], panel.shape[1], 3)
    assert draw(car(), view="beside").shape == panel.shape, "nothing to compare with"


@pytest.mark.parametrize("view", ["image", "panel"])
def test_rectangles_are_drawn_where_asked_for(view):
    drawn = draw(car(), view=view, boxes2d=True)
    assert (drawn[99:101, 320:380].max(axis=0) > 160).all()
    assert white(draw(car(), view=view)) == 0


@pytest.mark.parametrize("view", ["image", "panel", "beside"])
def test_no_objects(view):
    nothing = KITTIObjects.empty()
    assert draw(nothing, truth=nothing, view=view).shape[2] == 3
