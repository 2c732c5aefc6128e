import math
from dataclasses import replace

import cv2
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qiml.modeling.region_depth import (
    object_depth_in_boxes,
    paint_surface_depth,
    surface_depth_in_boxes,
)
from qiml.modeling.targets import paint_object_depth
from qiml.structures.boxes3d import Boxes3D
from qiml.structures.camera import Camera
from tests.modeling.target_builder import make_targets

# --- Object-wise


def boxes_with_depth(boxes, depth, image_index, map_size=(16, 24)):
    """Objects of which only these matter."""
    return make_targets(
        image_index,
        map_size,
        boxes2d=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        depth=torch.tensor(depth, dtype=torch.float32),
    )


def test_depth_in_a_box_is_that_of_the_nearest_object_of_its_image():
    boxes = [[0, 0, 8, 8], [6, 0, 10, 4], [0, 0, 24, 16]]
    first, nearer, other_image = object_depth_in_boxes(
        boxes_with_depth(boxes, [20.0, 12.0, 5.0], [0, 0, 1]), size=4
    )
    expected = torch.full((4, 4), 20.0)
    expected[:2, 3] = 12.0  # points at x = 7 and y = 1, 3
    assert torch.equal(first, expected)
    assert (nearer == 12).all() and (other_image == 5).all()


def test_depth_in_a_box_is_unknown_off_the_map():
    (depth,) = object_depth_in_boxes(boxes_with_depth([[-4, 14, 4, 18]], [9.0], [0]), size=4)
    expected = torch.zeros(4, 4)
    expected[:2, 2:] = 9.0
    assert torch.equal(depth, expected)


def test_depth_in_boxes_smaller_than_a_cell():
    boxes = [[3.6, 3.6, 3.9, 3.7], [3.0, 3.0, 3.2, 4.0]]
    depth = object_depth_in_boxes(boxes_with_depth(boxes, [9.0, 8.0], [0, 0]), size=7)
    assert (depth[0] == 9).all() and (depth[1] == 8).all()


def test_depth_in_no_boxes():
    assert object_depth_in_boxes(boxes_with_depth([], [], []), size=7).shape == (0, 7, 7)


def test_depth_in_boxes_agrees_with_the_painted_map():
    """At the middles of cells."""
    boxes, depth = [[2, 3, 9, 10], [5, 1, 12, 8], [4, 6, 11, 13]], [30.0, 20.0, 10.0]
    targets = boxes_with_depth(boxes, depth, [0, 0, 0])
    inside = object_depth_in_boxes(targets, size=7)
    (painted, _) = paint_object_depth(
        targets.boxes2d, targets.depth, targets.image_index, 2, targets.map_size
    )
    for grid, (x1, y1, x2, y2) in zip(inside, boxes, strict=True):
        assert torch.equal(grid, painted[y1:y2, x1:x2])


# --- Surfaces of the 3D boxes

STRIDE = 4
MAP = (96, 320)
# As KITTI's: with offsets of all three rows.
AXIS = (-45 / 700, 0.3 / 700)  # x, y of its middle
CAMERA = [[700.0, 0.0, 600.0, 45.0], [0.0, 700.0, 180.0, -0.3], [0.0, 0.0, 1.0, 0.005]]


def targets_of(boxes, image_index=None, has_3d=None):
    """Objects of which the 3D boxes matter, (M, 7) as :class:`Boxes3D`."""
    boxes = Boxes3D(boxes)
    count = len(boxes)
    camera = Camera(torch.tensor(CAMERA).expand(count, 3, 4))
    centres, _ = camera.project(boxes.centres[:, None])
    targets = boxes_with_depth(
        boxes.project(camera).tolist(), boxes.depth.tolist(), image_index or [0] * count, MAP
    )
    return replace(
        targets,
        boxes2d=targets.boxes2d / STRIDE,
        projected_centres=centres.squeeze(1) / STRIDE,
        dimensions=boxes.dimensions,
        yaw=boxes.yaw,
        cameras=camera,
        has_3d=torch.tensor(has_3d or [True] * count, dtype=torch.bool),
    )


def car(x, y, z, yaw):
    return [x, y, z, 1.5, 1.6, 4.0, yaw]


# Three corners of each face.
FACES = torch.tensor([[0, 1, 5], [1, 2, 6], [2, 3, 7], [3, 0, 4], [4, 5, 6], [0, 3, 2]])


def face_normals(box):
    """(6, 3) outwards."""
    a, b, c = box.corners()[0][FACES].unbind(dim=1)
    normals = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=1)
    outwards = (a - box.centres[0]) * normals
    return normals * outwards.sum(dim=1, keepdim=True).sign()


def grid_of(targets, index, size):
    """(S², 2) pixels where the surface is asked for."""
    steps = (torch.arange(size) + 0.5) / size
    left, top, right, bottom = targets.boxes2d[index] * STRIDE
    columns, rows = torch.lerp(left, right, steps), torch.lerp(top, bottom, steps)
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).flatten(0, 1)


def test_surface_of_a_car_straight_ahead():
    """All that is seen is its rear, a plane across."""
    targets = targets_of([car(AXIS[0], AXIS[1], 20.0, -math.pi / 2)])
    (surface,) = surface_depth_in_boxes(targets, 7, STRIDE)
    torch.testing.assert_close(surface, torch.full((7, 7), 18.0))


@given(st.floats(-3, 3), st.floats(-1, 2), st.floats(12, 40), st.floats(-3.2, 3.2))
@settings(max_examples=50, deadline=None)
def test_surface_is_where_rays_enter_the_box(x, y, z, yaw):
    """Points on it, on the side of the camera; and wherever the outline of its corners holds the pixel."""
    box = Boxes3D([car(x, y, z, yaw)])
    targets, camera = targets_of(box.tensor), Camera(torch.tensor(CAMERA))
    (surface,) = surface_depth_in_boxes(targets, 9, STRIDE)
    surface, pixels = surface.flatten(), grid_of(targets, 0, 9)
    hull = cv2.convexHull(camera.project(box.corners()[0])[0].numpy())
    inside = [cv2.pointPolygonTest(hull, pixel.tolist(), True) for pixel in pixels]
    for depth, distance in zip(surface.tolist(), inside, strict=True):
        assert abs(distance) < 0.1 or (depth > 0) == (distance > 0)
    points = camera.back_project(pixels, surface)[surface > 0]
    outwards = ((points[:, None] - box.corners()[0][FACES[:, 0]]) * face_normals(box)).sum(dim=-1)
    torch.testing.assert_close(outwards.amax(dim=1), torch.zeros(len(points)), rtol=0, atol=2e-3)
    entered = face_normals(box)[outwards.argmax(dim=1)]
    assert ((points - torch.tensor([*AXIS, 0.0])) * entered).sum(dim=1).max() < 1e-2


def test_the_nearer_surface_hides_the_other():
    cars = [car(0.0, 0.0, 20.0, 0.0), car(2.0, 0.0, 12.0, 0.0)]
    hidden, alone, unknown = (
        surface_depth_in_boxes(targets_of(cars, **how), 7, STRIDE)
        for how in ({}, {"image_index": [0, 1]}, {"has_3d": [True, False]})
    )
    assert (alone[0] == alone[0].amax()).all() and alone[0, 0, 0] == pytest.approx(19.2, abs=1e-3)
    torch.testing.assert_close(unknown[0], alone[0])
    assert (hidden[1] == alone[1]).all()
    assert set(unknown[1].unique().tolist()) == {0.0, unknown[0, 0, 0].item()}  # what is behind it
    shown = {round(depth, 3) for depth in hidden[0].flatten().tolist()}
    assert shown == {11.2, 19.2}


def test_surfaces_of_no_boxes():
    assert surface_depth_in_boxes(targets_of(torch.zeros(0, 7)), 7, STRIDE).shape == (0, 7, 7)


def paint(boxes, image_index=None, **changes):
    boxes = Boxes3D(boxes)
    targets = targets_of(boxes.tensor, image_index)
    columns = {"boxes2d": targets.boxes2d, "boxes3d": boxes, "cameras": targets.cameras}
    columns |= {"depth": boxes.depth, "image_index": targets.image_index, **changes}
    return paint_surface_depth(**columns, num_images=2, map_size=MAP, stride=STRIDE)


def test_painted_surfaces_are_those_of_the_regions():
    """In 2D boxes whose points are the middles of cells."""
    cars = [car(-4.0, 0.0, 20.0, 0.4), car(4.0, 0.0, 12.0, -1.0), car(0.0, 0.0, 30.0, 1.0)]
    targets = targets_of(cars, [0, 0, 1])
    middle = targets.boxes2d.unflatten(1, (2, 2)).mean(dim=1).round()
    boxes2d = torch.cat([middle - 6, middle + 6], dim=1)
    painted = paint(cars, [0, 0, 1], boxes2d=boxes2d)
    expected = surface_depth_in_boxes(replace(targets, boxes2d=boxes2d), 12, STRIDE)
    for image, grid, box in zip((0, 0, 1), expected, boxes2d.long().tolist(), strict=True):
        left, top, right, bottom = box
        assert grid.any()
        torch.testing.assert_close(painted[image, top:bottom, left:right], grid)
    assert (painted > 0).sum() == (expected > 0).sum()  # nothing elsewhere


def test_the_nearer_painted_surface_hides_the_other():
    cars = [car(0.0, 0.0, 20.0, 0.4), car(1.5, 0.0, 12.0, -1.0)]
    alone = torch.stack([paint([one])[0] for one in cars])
    nearest = torch.where(alone > 0, alone, torch.inf).amin(dim=0).nan_to_num(posinf=0.0)
    assert ((alone > 0).all(dim=0) & (alone[0] != alone[1])).any()
    torch.testing.assert_close(paint(cars)[0], nearest)


def test_painted_surfaces_are_scaled_as_the_depth_that_the_input_shows():
    cars = [car(0.0, 0.0, 20.0, 0.4), car(1.5, 0.0, 12.0, -1.0)]
    shown = paint(cars, depth=torch.tensor([30.0, 18.0]))
    torch.testing.assert_close(shown, 1.5 * paint(cars))


def test_painted_surfaces_of_no_boxes():
    assert not paint(torch.zeros(0, 7)).any()
