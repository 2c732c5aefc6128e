import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qiml.data.kitti_format import read_calibration, read_objects
from qiml.structures.boxes3d import (
    BOX_EDGES,
    NEAR_PLANE,
    Boxes3D,
    alpha_to_rotation_y,
    clip_segments,
    pairwise_iou_3d,
    rotation_y_to_alpha,
    wrap_angle,
)
from qiml.structures.camera import Camera

PI = math.pi
WIDTH, HEIGHT = 1242, 375
CAMERA = Camera(
    torch.tensor(
        [[721.5377, 0, 609.5593, 44.85728], [0, 721.5377, 172.854, 0.21638], [0, 0, 1, 0.0027459]],
        dtype=torch.float64,
    )
)
CAR_AHEAD = [2.0, 1.0, 20.0, 1.5, 1.6, 4.0, 0.0]
seeds = st.integers(0, 2**31)


def random_boxes(seed: int, count: int = 8, nearest: float = 6.0) -> Boxes3D:
    unit = torch.rand(count, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    low = torch.tensor([-15.0, -1.0, nearest, 1.0, 0.5, 0.5, -PI])
    high = torch.tensor([15.0, 2.0, 60.0, 3.0, 3.0, 9.0, PI])
    return Boxes3D(low + unit * (high - low))


def iou_2d(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    areas = (a[:, 2:] - a[:, :2]).prod(-1) + (b[:, 2:] - b[:, :2]).prod(-1)
    return overlap.prod(-1) / (areas - overlap.prod(-1))


def test_behaves_as_an_instances_field():
    boxes = random_boxes(0)
    mask = boxes.depth > boxes.depth.median()
    assert len(boxes) == 8 and boxes.device.type == "cpu"
    assert torch.equal(boxes[3].tensor, boxes.tensor[3:4])
    assert torch.equal(boxes[2:5].tensor, boxes.tensor[2:5])
    assert torch.equal(boxes[mask].tensor, boxes.tensor[mask])
    assert torch.equal(boxes[torch.tensor([5, 1])].tensor, boxes.tensor[[5, 1]])
    assert torch.equal(Boxes3D.cat([boxes[:3], boxes[3:]]).tensor, boxes.tensor)
    assert boxes.to(torch.float32).tensor.dtype == torch.float32


def test_no_boxes_work_everywhere():
    empty = Boxes3D([])
    assert len(empty) == len(Boxes3D.cat([])) == len(empty.flip()) == 0
    assert empty.corners().shape == (0, 8, 3)
    assert empty.project(CAMERA.to(torch.float32)).shape == (0, 4)
    assert empty.volume().shape == empty.alpha.shape == (0,)


def test_a_tensor_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(N, 7\), got \(2, 6\)"):
        Boxes3D(torch.zeros(2, 6))


def test_corner_order_is_the_documented_one():
    x, y, z, height, width, length, _ = CAR_AHEAD
    # At yaw 0 the front looks along +x, and the driver's left is away from the camera.
    front, rear = x + length / 2, x - length / 2
    left, right = z + width / 2, z - width / 2
    footprint = [(front, left), (front, right), (rear, right), (rear, left)]
    levels = (y + height / 2, y - height / 2)
    expected = torch.tensor([[fx, level, fz] for level in levels for fx, fz in footprint])
    torch.testing.assert_close(Boxes3D([CAR_AHEAD]).corners()[0], expected)


def test_edges_are_the_twelve_sides():
    corners = Boxes3D([CAR_AHEAD]).corners()[0]
    lengths = [(corners[start] - corners[end]).norm().item() for start, end in set(BOX_EDGES)]
    assert sorted(lengths) == pytest.approx([1.5] * 4 + [1.6] * 4 + [4.0] * 4)


def test_yaw_of_minus_a_quarter_turn_looks_away_from_the_camera():
    box = Boxes3D([[0, 1, 20, 1.5, 1.6, 4, -PI / 2]])
    front = box.corners()[0, [0, 1, 4, 5]]
    torch.testing.assert_close(front[:, 2], torch.full((4,), 22.0))
    assert front[0, 0] < front[1, 0], "the left front corner is on the left of the image"


@given(seeds)
def test_corners_span_the_box(seed):
    boxes = random_boxes(seed)
    corners = boxes.corners()
    torch.testing.assert_close(corners.mean(dim=1), boxes.centres)
    spans = torch.stack([corners[:, i] - corners[:, 1] for i in (5, 0, 2)], dim=1)
    torch.testing.assert_close(spans.norm(dim=-1), boxes.dimensions)
    torch.testing.assert_close(torch.linalg.det(spans).abs(), boxes.volume())


@given(seeds)
def test_from_kitti_moves_the_origin_to_the_geometric_centre_and_back(seed):
    boxes = random_boxes(seed)
    location, dimensions, rotation_y = boxes.to_kitti()
    torch.testing.assert_close(location[:, 1], boxes.corners()[:, :4, 1].mean(dim=1))
    restored = Boxes3D.from_kitti(location, dimensions, rotation_y)
    torch.testing.assert_close(restored.tensor, boxes.tensor)


@given(seeds)
def test_flipped_boxes_are_seen_at_mirrored_pixels(seed):
    boxes = random_boxes(seed)
    pixels, _ = CAMERA.project(boxes.corners())
    flipped, _ = CAMERA.flip(WIDTH).project(boxes.flip().corners())
    # Mirroring swaps left and right: corners 0 1 2 3 become 1 0 3 2.
    mirrored = torch.stack([WIDTH - pixels[..., 0], pixels[..., 1]], dim=-1)
    torch.testing.assert_close(flipped, mirrored[:, [1, 0, 3, 2, 5, 4, 7, 6]])
    torch.testing.assert_close(boxes.flip().flip().tensor, boxes.tensor)
    torch.testing.assert_close(wrap_angle(boxes.flip().alpha + boxes.alpha - PI), boxes.alpha * 0)


@given(seeds)
def test_projected_box_bounds_every_corner_in_front(seed):
    boxes = random_boxes(seed)
    pixels, _ = CAMERA.project(boxes.corners())
    expected = torch.cat([pixels.amin(dim=1), pixels.amax(dim=1)], dim=-1)
    torch.testing.assert_close(boxes.project(CAMERA), expected)
    per_box = Camera(CAMERA.projection.expand(len(boxes), 3, 4))
    torch.testing.assert_close(boxes.project(per_box), expected)


def test_projection_clamps_to_the_image():
    box = random_boxes(0, nearest=2.0).project(CAMERA, image_size=(HEIGHT, WIDTH))
    assert box.min() >= 0 and box[:, [0, 2]].max() <= WIDTH and box[:, [1, 3]].max() <= HEIGHT


def test_projection_of_a_box_that_reaches_behind_the_camera():
    # A wall at the right of the camera, from 10 m behind to 10 m ahead, 2 m away.
    wall = Boxes3D(torch.tensor([[3.0, 0, 0, 2, 2, 20, PI / 2]], dtype=torch.float64))
    x1, y1, x2, y2 = wall.project(CAMERA, image_size=(HEIGHT, WIDTH))[0].tolist()
    far_edge, _ = CAMERA.project(torch.tensor([[2.0, 0, 10]], dtype=torch.float64))
    assert x1 == pytest.approx(far_edge[0, 0].item())
    assert (y1, x2, y2) == (0, WIDTH, HEIGHT)


def test_projection_of_a_box_behind_the_camera_is_empty():
    boxes = Boxes3D(torch.tensor([[0, 0, -20.0, 2, 2, 4, 0], [0, 0, 20, 2, 2, 4, 0]]).double())
    behind, ahead = boxes.project(CAMERA)
    assert behind.tolist() == [0, 0, 0, 0]
    assert ahead.isfinite().all() and (ahead[2:] > ahead[:2]).all()


def test_clipped_segments_stay_on_their_line_and_in_front():
    starts = torch.tensor([[0.0, 0, -2], [1, 1, 5], [0, 0, -1], [3, 0, 4]])
    ends = torch.tensor([[4.0, 0, 2], [1, 1, 5], [0, 1, -1], [3, 0, -4]])
    new_starts, new_ends, visible = clip_segments(starts, ends, near=NEAR_PLANE)
    assert visible.tolist() == [True, True, False, True]
    torch.testing.assert_close(new_starts[0], torch.tensor([2 + NEAR_PLANE, 0, NEAR_PLANE]))
    assert torch.equal(new_ends[0], ends[0])
    assert torch.equal(new_starts[1], starts[1]) and torch.equal(new_ends[1], ends[1])
    torch.testing.assert_close(new_ends[3], torch.tensor([3, 0, NEAR_PLANE]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wrap_angle_is_half_open(dtype):
    pi = torch.tensor(PI, dtype=dtype)
    zero = torch.zeros((), dtype=dtype)
    edges = torch.stack([pi, -pi, torch.nextafter(-pi, -2 * pi), torch.nextafter(pi, zero), zero])
    for turns in range(-3, 4):
        wrapped = wrap_angle(edges + 2 * PI * turns)
        assert (wrapped >= -pi).all() and (wrapped < pi).all()
    assert wrap_angle(pi) == -pi and wrap_angle(zero) == 0


@given(seeds)
def test_wrap_angle_changes_by_whole_turns_only(seed):
    generator = torch.Generator().manual_seed(seed)
    angles = 100 * torch.randn(50, generator=generator, dtype=torch.float64)
    turns = (angles - wrap_angle(angles)) / (2 * PI)
    torch.testing.assert_close(turns, turns.round())


@given(seeds)
def test_alpha_and_rotation_y_are_inverse(seed):
    boxes = random_boxes(seed)
    ray = torch.atan2(boxes.centres[:, 0], boxes.depth)
    restored = alpha_to_rotation_y(boxes.alpha, ray)
    assert (boxes.alpha >= -PI).all() and (boxes.alpha < PI).all()
    torch.testing.assert_close(restored, boxes.yaw)
    torch.testing.assert_close(rotation_y_to_alpha(restored, ray), boxes.alpha)


def test_pairwise_iou_of_shifted_and_turned_boxes():
    boxes = Boxes3D([CAR_AHEAD, [4.0, *CAR_AHEAD[1:]], [*CAR_AHEAD[:6], PI / 2]])
    turned = 1.6 * 1.6 / (2 * 4.0 * 1.6 - 1.6 * 1.6)
    iou = pairwise_iou_3d(boxes[0], boxes)
    torch.testing.assert_close(iou, torch.tensor([[1.0, 1 / 3, turned]]), atol=1e-5, rtol=0)


def test_real_boxes_project_onto_their_labelled_2d_boxes(real_data):
    ious, alpha_errors = [], []
    root = real_data / "kitti" / "training"
    for label_file in sorted((root / "label_2").glob("*.txt")):
        objects = read_objects(label_file, scored=False)
        cars = objects[(objects.types == "Car") & (objects.truncation == 0)]
        columns = (cars.location, cars.dimensions, cars.rotation_y)
        boxes = Boxes3D.from_kitti(*(torch.from_numpy(column) for column in columns))
        projection = read_calibration(root / "calib" / label_file.name)
        projected = boxes.project(Camera(torch.from_numpy(projection)), (HEIGHT, WIDTH))
        ious.append(iou_2d(projected, torch.from_numpy(cars.bbox)))
        alpha_errors.append(wrap_angle(boxes.alpha - torch.from_numpy(cars.alpha)).abs())
    assert len(torch.cat(ious)) > 50
    assert torch.cat(ious).median() > 0.95
    assert torch.cat(alpha_errors).median() < 0.02
