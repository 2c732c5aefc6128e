"""Overlaps of rotated boxes against Shapely and against cases solved by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Polygon

from qiml.evaluation.rotated_iou import rotated_iou_3d, rotated_iou_bev


def box(x=0.0, y=0.0, z=0.0, h=1.0, w=1.0, length=1.0, yaw=0.0) -> np.ndarray:
    return np.array([[x, y, z, h, w, length, yaw]])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (box(), box(), 1),
        (box(yaw=math.pi / 4), box(), (math.sqrt(2) - 1) * 2 / (4 - 2 * math.sqrt(2))),
        (box(w=2, length=4), box(w=4, length=2, yaw=math.pi / 2), 1),
        (box(), box(yaw=math.pi / 2), 1),
        (box(), box(yaw=1000 * math.pi), 1),
        (box(x=0.5), box(), 1 / 3),
        (box(x=1), box(), 0),  # touching along a side
        (box(x=1, z=1), box(), 0),  # touching in a corner
        (box(w=4, length=4, yaw=0.3), box(yaw=0.7), 1 / 16),  # nested
        (box(w=0), box(), 0),
        (box(w=-1, length=4), box(w=2, length=4.5), 0),
        (box(w=0, length=0), box(w=0, length=0), 0),
        (box(x=1e6, z=-1e6, w=2, length=4, yaw=0.4), box(), 0),
        (box(x=1e6, w=2, length=4, yaw=0.4), box(x=1e6, w=2, length=4, yaw=0.4), 1),
        (box(length=4, yaw=0.2), box(length=4, yaw=0.2 + 1e-9), 1),
    ],
)
def test_cases_solved_by_hand(a, b, expected):
    for overlap in (rotated_iou_bev, rotated_iou_3d):
        assert overlap(a, b)[0, 0] == pytest.approx(expected, abs=1e-8)
        assert overlap(b, a)[0, 0] == pytest.approx(expected, abs=1e-8)


def test_yaw_turns_from_x_towards_minus_z():
    """KITTI: yaw is about the axis that points down, so the front turns from +x to -z."""
    turned = box(length=10, w=0.5, yaw=math.pi / 4)
    away, nearer = box(x=3, z=-3, w=0.2, length=0.2), box(x=3, z=3, w=0.2, length=0.2)
    assert rotated_iou_bev(turned, away)[0, 0] > 0
    assert rotated_iou_bev(turned, nearer)[0, 0] == pytest.approx(0, abs=1e-12)


def test_height_is_measured_around_the_geometric_centre():
    assert rotated_iou_3d(box(h=2), box(y=1, h=2))[0, 0] == pytest.approx(1 / 3)
    assert rotated_iou_3d(box(h=2), box(y=0.5, h=1))[0, 0] == pytest.approx(1 / 2)
    assert rotated_iou_3d(box(h=2), box(y=2, h=2))[0, 0] == 0
    assert rotated_iou_bev(box(h=2), box(y=2, h=2))[0, 0] == 1


def test_shapes():
    boxes = np.concatenate([box(x=i) for i in range(3)])
    assert rotated_iou_bev(boxes, boxes[:2]).shape == (3, 2)
    assert rotated_iou_3d(np.empty((0, 7)), boxes).shape == (0, 3)
    assert rotated_iou_3d(boxes, np.empty((0, 7))).shape == (3, 0)


angles = st.one_of(
    st.sampled_from([0.0, math.pi / 4, math.pi / 2, math.pi, -math.pi, 1e-12]), st.floats(-20, 20)
)
sizes = st.one_of(st.sampled_from([0.01, 0.5, 1.0, 2.0, 4.0]), st.floats(0.01, 12))
places = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.floats(-6, 6))
boxes = st.tuples(places, st.floats(-1, 1), places, sizes, sizes, sizes, angles)


@settings(deadline=None, max_examples=300)
@given(boxes, boxes)
def test_equals_polygon_clipping(a, b):
    (_, ya, _, ha, *_), (_, yb, _, hb, *_) = a, b
    shared = footprint(a).intersection(footprint(b)).area
    bev = shared / (a[4] * a[5] + b[4] * b[5] - shared)
    height = max(0.0, min(ya + ha / 2, yb + hb / 2) - max(ya - ha / 2, yb - hb / 2))
    volume = shared * height
    solid = volume / (np.prod(a[3:6]) + np.prod(b[3:6]) - volume)
    a, b = np.array([a]), np.array([b])
    assert rotated_iou_bev(a, b)[0, 0] == pytest.approx(bev, abs=1e-9)
    assert rotated_iou_3d(a, b)[0, 0] == pytest.approx(solid, abs=1e-9)


def footprint(box: tuple) -> Polygon:
    x, _, z, _, width, length, yaw = box
    corners = []
    for along, across in ((1, 1), (1, -1), (-1, -1), (-1, 1)):
        u, v = along * length / 2, across * width / 2
        corners.append((x + math.cos(yaw) * u + math.sin(yaw) * v,
                        z - math.sin(yaw) * u + math.cos(yaw) * v))  # fmt: skip
    return Polygon(corners)
