import numpy as np
import pytest
import torch

from qiml.structures.boxes3d import Boxes3D
from qiml.structures.camera import Camera
from qiml.visualization.canvas import class_colour
from qiml.visualization.panel import comparison_panel, prediction_panel

NAMES = ("Pedestrian", "Car", "Cyclist")
BOX = Boxes3D([[1.0, 0.5, 15, 1.6, 1.8, 4.0, 0.3]])


def panel(width: int, height: int, **kwargs) -> np.ndarray:
    camera = torch.tensor([[0.6 * width, 0, width / 2, 0], [0, 0.6 * width, height / 2, 0],
                           [0, 0, 1, 0]])  # fmt: skip
    image = np.full((height, width, 3), 90, dtype=np.uint8)
    return prediction_panel(image, Camera(camera), BOX, [1], NAMES, [0.8], **kwargs)


@pytest.mark.parametrize("width, height, factor", [(1242, 375, 1), (416, 128, 3), (1920, 1280, 1)])
def test_small_images_are_enlarged_and_the_parts_stand_side_by_side(width, height, factor):
    picture = panel(width, height)
    assert picture.shape[0] > factor * height and picture.shape[1] > factor * width
    backdrop = picture[: factor * height, : factor * width]
    assert (backdrop[-3, 3] == 90).all()
    assert (picture[factor * height // 2, factor * width + 3] < 60).all()


def test_the_enlarged_box_is_where_the_enlarged_image_shows_it():
    def extent(picture: np.ndarray) -> np.ndarray:
        rows, columns = (picture[:384, :1248] == class_colour(1)).all(axis=-1).nonzero()
        return np.array([columns.min(), columns.max(), rows.max()])

    np.testing.assert_allclose(extent(panel(416, 128)), extent(panel(1248, 384)), atol=1)


def test_the_legend_names_ground_truth_only_where_there_is_some():
    def white(picture: np.ndarray) -> int:
        return (picture[376:] == 255).all(axis=-1).sum()

    assert white(panel(1242, 375, gt_boxes3d=BOX)) > 100
    assert white(panel(1242, 375)) == 0


def test_predictions_stand_above_the_truth_in_the_same_scale():
    camera = Camera(torch.tensor([[700.0, 0, 621, 0], [0, 700, 187, 0], [0, 0, 1, 0]]))
    image = np.full((375, 1242, 3), 90, dtype=np.uint8)
    far = Boxes3D([[1.0, 0.5, 75, 1.6, 1.8, 4.0, 0.3]])
    found = comparison_panel(image, camera, BOX, [1], far, [1], NAMES)
    swapped = comparison_panel(image, camera, far, [1], BOX, [1], NAMES)
    half = len(found) // 2
    np.testing.assert_array_equal(found[:375], swapped[half : half + 375])
    assert (found[375:half, :200] != swapped[half + 375 :, :200]).any(), "the titles differ"
    nothing = comparison_panel(image, camera, Boxes3D([]), [], Boxes3D([]), [], NAMES)
    assert nothing.shape == found.shape


def test_rectangles_grow_with_the_image():
    rectangle = np.array([[100.0, 30, 160, 90]])
    picture = panel(416, 128, boxes2d=rectangle)[:384, :1248]
    rows, columns = (picture.min(axis=-1) > 160).nonzero()
    np.testing.assert_allclose(
        [columns.min(), rows.min(), columns.max(), rows.max()], 3 * rectangle[0], atol=2
    )
