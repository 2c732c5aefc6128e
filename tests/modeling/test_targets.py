import math
from dataclasses import replace

import pytest
import torch
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st

from qiml.modeling.targets import (
    flatten_objects,
    gaussian_radius,
    paint_object_depth,
    render_heatmap,
)
from qiml.structures.boxes3d import Boxes3D
from tests.modeling.target_builder import make_targets

STRIDE = 4


def make_instances(centres, boxes=None, depth=None, has_3d=True):
    """One image's objects, in pixels; box3d, class and alpha tell the objects apart."""
    count = len(centres)
    depth = torch.arange(count) + 10.0 if depth is None else torch.tensor(depth)
    boxes = [[0, 0, 8, 8]] * count if boxes is None else boxes
    boxes3d = torch.arange(count)[:, None] + torch.linspace(0.1, 0.7, 7)
    return Instances(
        (64, 96),
        gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        gt_classes=torch.arange(count) % 3,
        gt_boxes3d=Boxes3D(boxes3d),
        gt_projected_centres=torch.tensor(centres, dtype=torch.float32).reshape(-1, 2),
        gt_depth=depth.float(),
        gt_alpha=torch.linspace(-1, 1, count),
        gt_has_3d=torch.full((count,), has_3d),
        gt_apparent_depth=depth.float() + 1,
        gt_cameras=torch.arange(count * 12.0).view(count, 3, 4),
        gt_affines=torch.arange(count * 6.0).view(count, 2, 3),
    )


def objects_at(cells, sizes, classes, image_index, map_size, num_images=2):
    """Targets of which only what the heat map reads matters."""
    cells, sizes = torch.tensor(cells).reshape(-1, 2), torch.tensor(sizes).reshape(-1, 2)
    return make_targets(
        image_index,
        map_size,
        num_images,
        classes=torch.tensor(classes, dtype=torch.int64),
        cells=cells.long(),
        projected_centres=cells + 0.5,
        boxes2d=torch.cat([cells - sizes / 2, cells + sizes / 2], dim=1),
    )


def test_flattening_keeps_every_attribute_and_its_image():
    images = [
        make_instances([[10, 20], [30, 40]]),
        make_instances([]),
        make_instances([[50, 60]], has_3d=False),
    ]
    targets = flatten_objects(images, STRIDE, (16, 24))
    assert len(targets) == 3
    assert targets.image_index.tolist() == [0, 0, 2]
    assert targets.classes.tolist() == [0, 1, 0]
    assert targets.cells.tolist() == [[2, 5], [7, 10], [12, 15]]
    assert targets.projected_centres.tolist() == [[2.5, 5], [7.5, 10], [12.5, 15]]
    assert targets.boxes2d.tolist() == [[0, 0, 2, 2]] * 3
    assert targets.depth.tolist() == [10, 11, 10]
    assert targets.apparent_depth.tolist() == [11, 12, 11]
    torch.testing.assert_close(targets.dimensions[1], torch.tensor([1.4, 1.5, 1.6]))
    torch.testing.assert_close(targets.yaw, torch.tensor([0.7, 1.7, 0.7]))
    assert targets.cameras.fx.tolist() == [0, 12, 0]
    assert targets.affines[:, 0, 0].tolist() == [0, 6, 0]
    assert targets.alpha.tolist() == [-1, 1, -1]
    assert targets.has_3d.tolist() == [True, True, False]
    assert (targets.num_images, targets.map_size) == (3, (16, 24))


@pytest.mark.parametrize(
    ("centre", "cell"),
    [
        ((0, 0), [0, 0]),
        ((95.9, 63.9), [23, 15]),
        ((-3.9, 20), [0, 5]),  # the official int() truncates towards zero
        ((-4.1, 20), None),
        ((96, 20), None),
        ((20, -4.1), None),
        ((20, 64), None),
    ],
)
def test_objects_whose_centre_is_off_the_map_are_dropped(centre, cell):
    images = [make_instances([[40, 40], centre, [44, 44]])]
    cells = flatten_objects(images, STRIDE, (16, 24)).cells.tolist()
    assert cells == [[10, 10], *([cell] if cell else []), [11, 11]]


def test_no_objects_at_all():
    targets = flatten_objects([make_instances([])] * 2, STRIDE, (16, 24))
    assert len(targets) == 0
    assert targets.boxes2d.shape == (0, 4) and targets.dimensions.shape == (0, 3)
    heatmap = render_heatmap(targets, num_classes=3)
    assert heatmap.shape == (2, 3, 16, 24) and not heatmap.any()


@given(width=st.floats(0.3, 60), height=st.floats(0.3, 60))
def test_radius_is_cornernets(width, height):
    """Written out once more, without vectors."""
    overlap, total, area = 0.7, height + width, height * width
    first = (total + math.sqrt(total**2 - 4 * area * (1 - overlap) / (1 + overlap))) / 2
    second = (2 * total + math.sqrt(4 * total**2 - 16 * (1 - overlap) * area)) / 2
    third = -2 * overlap * total
    third = (third + math.sqrt(third**2 + 16 * overlap * (1 - overlap) * area)) / 2
    radius = min(first, second, third)
    found = gaussian_radius(torch.tensor([width]), torch.tensor([height])).item()
    assert found in {int(radius - 1e-4), int(radius + 1e-4)}  # either side of a whole number


def slow_heatmap(objects, num_classes):
    """One pixel at a time."""
    height, width = objects.map_size
    heatmap = torch.zeros(objects.num_images, num_classes, height, width)
    for n in range(len(objects)):
        x1, y1, x2, y2 = objects.boxes2d[n].tolist()
        radius = gaussian_radius(torch.tensor([x2 - x1]), torch.tensor([y2 - y1])).item()
        sigma = (2 * radius + 1) / 6
        column, row = objects.cells[n].tolist()
        plane = heatmap[objects.image_index[n], objects.classes[n]]
        for y in range(height):
            for x in range(width):
                if abs(x - column) <= radius and abs(y - row) <= radius:
                    value = math.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * sigma**2))
                    plane[y, x] = max(plane[y, x].item(), value)
    return heatmap


object_lists = st.lists(
    st.tuples(
        st.integers(0, 11),  # x
        st.integers(0, 8),  # y
        st.floats(0.2, 30),  # width
        st.floats(0.2, 30),  # height
        st.integers(0, 2),  # class
        st.integers(0, 1),  # image
    ),
    max_size=6,
)


@given(objects=object_lists)
@settings(deadline=None, max_examples=30)
def test_heatmap_equals_a_slow_loop(objects):
    x, y, w, h, classes, image_index = zip(*objects, strict=True) if objects else [()] * 6
    targets = objects_at(
        list(zip(x, y, strict=True)), list(zip(w, h, strict=True)), classes, image_index, (9, 12)
    )
    heatmap = render_heatmap(targets, num_classes=3)
    torch.testing.assert_close(heatmap, slow_heatmap(targets, 3), rtol=0, atol=1e-6)
    at_cells = heatmap[
        targets.image_index, targets.classes, targets.cells[:, 1], targets.cells[:, 0]
    ]
    assert (at_cells == 1).all()  # exactly: the focal loss asks for it
    assert (heatmap == 1).sum() == len({o[:2] + o[4:] for o in objects})


def test_the_larger_value_stands_where_gaussians_overlap():
    targets = objects_at([[4.0, 4.0], [8.0, 4.0]], [[24.0, 24.0]] * 2, [0, 0], [0, 0], (9, 13))
    row = render_heatmap(targets, 1)[0, 0, 4]
    assert row.argmax() in (4, 8) and row[6] < row[5] < 1
    torch.testing.assert_close(row, row.flip(0))  # symmetric about column 6
    alone = objects_at([[4.0, 4.0]], [[24.0, 24.0]], [0], [0], (9, 13))
    assert row[6] == render_heatmap(alone, 1)[0, 0, 4, 6] > 0


def slow_painting(boxes, depth, image_index, num_images, map_size):
    painted = torch.zeros(num_images, *map_size)
    for image in range(num_images):
        for y in range(map_size[0]):
            for x in range(map_size[1]):
                covering = [
                    d
                    for (x1, y1, x2, y2), d, i in zip(boxes, depth, image_index, strict=True)
                    if i == image and x1 <= x + 0.5 < x2 and y1 <= y + 0.5 < y2
                ]
                painted[image, y, x] = min(covering, default=0)
    return painted


boxes_and_depths = st.lists(
    st.tuples(
        st.tuples(*[st.floats(-4, 14, width=32)] * 4),
        st.floats(2, 65, width=32),
        st.integers(0, 1),
    ),
    max_size=6,
)


@given(objects=boxes_and_depths)
@settings(deadline=None, max_examples=40)
def test_painted_depth_equals_a_slow_loop(objects):
    boxes = [
        [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)] for (x1, y1, x2, y2), *_ in objects
    ]
    depth, image_index = [o[1] for o in objects], [o[2] for o in objects]
    painted = paint_object_depth(
        torch.tensor(boxes).reshape(-1, 4),
        torch.tensor(depth),
        torch.tensor(image_index, dtype=torch.int64),
        num_images=2,
        map_size=(8, 10),
    )
    assert torch.equal(painted, slow_painting(boxes, depth, image_index, 2, (8, 10)))


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_the_nearest_object_wins_whatever_the_order(order):
    boxes = torch.tensor([[0.0, 0, 4, 4], [2, 2, 6, 6]])[order]
    depth = torch.tensor([20.0, 10.0])[order]
    painted = paint_object_depth(boxes, depth, torch.zeros(2, dtype=torch.int64), 1, (6, 6))[0]
    assert painted[3, 3] == 10 and painted[1, 1] == 20 and painted[5, 5] == 10
    assert painted[0, 5] == 0
    assert (painted == 20).sum() == 12 and (painted == 10).sum() == 16


@pytest.mark.parametrize(
    ("left", "right", "columns"),
    [(1.0, 3.0, [1, 2]), (1.5, 3.5, [1, 2]), (1.51, 3.51, [2, 3]), (1.6, 2.4, []), (-5, 1, [0])],
)
def test_a_cell_is_covered_where_its_centre_is(left, right, columns):
    boxes = torch.tensor([[left, 0.0, right, 1.0]])
    painted = paint_object_depth(
        boxes, torch.tensor([7.0]), torch.zeros(1, dtype=torch.int64), 1, (1, 5)
    )
    assert painted[0, 0].nonzero().squeeze(1).tolist() == columns


def test_dense_depth_is_reduced_to_cells():
    maps = torch.arange(2 * 64 * 96.0).view(2, 64, 96)
    targets = flatten_objects([make_instances([])] * 2, STRIDE, (16, 24), maps)
    assert targets.dense_depth.shape == (2, 16, 24)
    assert targets.dense_depth[1, 3, 5] == maps[1, 12:16, 20:24].mean()
    assert flatten_objects([make_instances([])], STRIDE, (16, 24)).dense_depth is None


def test_targets_move_with_the_choice_made_on_the_host():
    targets = flatten_objects([make_instances([])], STRIDE, (16, 24))
    has_3d = torch.tensor([True, False, True])
    targets = replace(targets, has_3d=has_3d)
    assert targets.supervised.tolist() == [0, 2]
    moved = targets.to("meta")
    assert moved.supervised.is_meta and moved.supervised.shape == (2,)
    assert moved.cameras.projection.is_meta and moved.map_size == (16, 24)
    assert not targets.has_3d.is_meta
