import numpy as np
import pytest

from qiml.visualization.depth_map import draw_depth_map, draw_depth_maps

BAR = 64


def two_objects(near=5.0, far=30.0) -> np.ndarray:
    depth = np.zeros((20, 40))
    depth[5:15, 5:15], depth[5:15, 25:35] = near, far
    return depth


def test_near_objects_are_brighter_and_the_rest_is_dark():
    picture = draw_depth_map(two_objects())
    assert picture.shape == (20, 40 + BAR, 3) and picture.dtype == np.uint8
    near, far, ground = (picture[10, x].sum(dtype=int) for x in (10, 30, 20))
    assert near > far > ground


def test_cells_cover_their_part_of_the_image_without_blending():
    image = np.full((80, 160, 3), (200, 100, 0), dtype=np.uint8)
    picture = draw_depth_map(two_objects(), image)
    assert picture.shape == (80, 160 + BAR, 3)
    covered = picture[20:60, 20:60].reshape(-1, 3)
    assert (covered == covered[0]).all()
    outside = picture[20:60, 60:100].reshape(-1, 3)
    assert (outside == outside[0]).all() and len(set(outside[0].tolist())) == 1, "grey"
    assert (image == (200, 100, 0)).all()


def test_the_same_depth_has_the_same_colour_whatever_else_there_is():
    one = draw_depth_map(two_objects(far=30), max_depth=60)
    other = draw_depth_map(two_objects(far=50), max_depth=60)
    np.testing.assert_array_equal(one[10, 10], other[10, 10])
    assert (one[10, 30] != other[10, 30]).any()


def test_the_scale_has_the_colours_of_the_map():
    picture = draw_depth_map(two_objects(near=25), max_depth=50)
    bar = picture[:, 40 + 10].astype(int)
    middle = np.abs(bar - picture[10, 10]).sum(axis=1).argmin()
    assert middle == pytest.approx(9.5, abs=1), "half of the depth is half-way up"


def test_painted_and_predicted_stand_in_the_same_colours_where_objects_are():
    painted = two_objects()
    everywhere = np.full_like(painted, 30.0)
    picture = draw_depth_maps(painted, everywhere)
    assert picture.shape == (40, 40 + BAR, 3)
    np.testing.assert_array_equal(picture[10, 30], picture[30, 30])  # 30 m in both
    np.testing.assert_array_equal(picture[30, 10], picture[30, 30])
    np.testing.assert_array_equal(picture[10, 20], picture[30, 20])  # no object


def test_no_objects():
    nothing = np.zeros((20, 40))
    assert draw_depth_maps(nothing, nothing + 7).shape == (40, 40 + BAR, 3)
