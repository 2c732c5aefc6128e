import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qiml.structures.camera import Camera, _homogeneous, invert_affine

KITTI_P2 = [
    [721.5377, 0.0, 609.5593, 44.85728],
    [0.0, 721.5377, 172.854, 0.2163791],
    [0.0, 0.0, 1.0, 0.002745884],
]
WIDTH = 1242.0
seeds = st.integers(0, 2**31)


@pytest.fixture
def kitti_camera() -> Camera:
    return Camera(torch.tensor(KITTI_P2, dtype=torch.float64))


def make_generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_points(generator: torch.Generator, *shape: int) -> torch.Tensor:
    unit = torch.rand(*shape, 3, generator=generator, dtype=torch.float64)
    return unit * torch.tensor([40.0, 6.0, 80.0]) + torch.tensor([-20.0, -3.0, 2.0])


def random_projection(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """A camera with every entry off its textbook value: skew, tilted last row, last column."""
    noise = torch.rand(*shape, 3, 4, generator=generator, dtype=torch.float64) - 0.5
    scale = torch.tensor([[20, 20, 20, 50], [20, 20, 20, 5], [1e-3, 1e-3, 1e-3, 0.01]])
    return torch.tensor(KITTI_P2, dtype=torch.float64) + noise * scale


def random_affine(generator: torch.Generator, *shape: int) -> torch.Tensor:
    noise = torch.rand(*shape, 2, 3, generator=generator, dtype=torch.float64) - 0.5
    return torch.eye(2, 3, dtype=torch.float64) + noise * torch.tensor([0.6, 0.6, 200.0])


def apply(affine: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    return pixels @ affine[..., :2].mT + affine[..., 2][..., None, :]


def test_project_is_the_devkit_formula(kitti_camera):
    point = torch.tensor([[2.0, 1.5, 10.0]], dtype=torch.float64)
    pixels, depth = kitti_camera.project(point)
    divisor = 10.0 + 0.002745884
    expected = [
        (721.5377 * 2 + 609.5593 * 10 + 44.85728) / divisor,
        (721.5377 * 1.5 + 172.854 * 10 + 0.2163791) / divisor,
    ]
    torch.testing.assert_close(pixels[0], torch.tensor(expected, dtype=torch.float64))
    assert depth.item() == 10.0


@given(seeds)
def test_back_project_inverts_project(seed):
    generator = make_generator(seed)
    camera = Camera(random_projection(generator))
    points = random_points(generator, 20)
    torch.testing.assert_close(camera.back_project(*camera.project(points)), points)


def test_float32_is_accurate_to_a_millimetre(kitti_camera):
    camera = kitti_camera.to(torch.float32)
    points = random_points(make_generator(0), 1000).float()
    torch.testing.assert_close(
        camera.back_project(*camera.project(points)), points, atol=1e-3, rtol=0
    )


def test_without_the_last_entry_both_formulas_are_those_of_the_monodle_family(kitti_camera):
    kitti_camera.projection[2, 3] = 0
    u, v, z = 300.0, 200.0, 20.0
    pixel = torch.tensor([[u, v]], dtype=torch.float64)
    depth = torch.tensor([z], dtype=torch.float64)
    fx, cx, cy, offset = 721.5377, 609.5593, 172.854, (44.85728, 0.2163791)
    x = (u - cx) * z / fx - offset[0] / fx
    y = (v - cy) * z / fx - offset[1] / fx
    expected = torch.tensor([[x, y, z]], dtype=torch.float64)
    torch.testing.assert_close(kitti_camera.back_project(pixel, depth), expected)


@given(seeds)
def test_a_batch_is_its_cameras_one_by_one(seed):
    generator = make_generator(seed)
    projections = random_projection(generator, 3)
    points = random_points(generator, 3, 5)
    pixels, depth = Camera(projections).project(points)
    restored = Camera(projections).back_project(pixels, depth)
    angles = Camera(projections).ray_angle(pixels[..., 0])
    for i, projection in enumerate(projections):
        torch.testing.assert_close(pixels[i], Camera(projection).project(points[i])[0])
        torch.testing.assert_close(restored[i], points[i])
        torch.testing.assert_close(angles[i], Camera(projection).ray_angle(pixels[i, :, 0]))


def test_one_camera_broadcasts_over_batches_of_points(kitti_camera):
    points = random_points(make_generator(0), 2, 3, 4)
    pixels, depth = kitti_camera.project(points)
    assert pixels.shape == (2, 3, 4, 2) and depth.shape == (2, 3, 4)
    torch.testing.assert_close(kitti_camera.back_project(pixels, depth), points)


@given(seeds)
def test_warping_the_camera_is_warping_its_pixels(seed):
    generator = make_generator(seed)
    camera, affine = Camera(random_projection(generator, 2)), random_affine(generator, 2)
    points = random_points(generator, 2, 10)
    pixels, depth = camera.project(points)
    warped_pixels, warped_depth = camera.warp(affine).project(points)
    torch.testing.assert_close(warped_pixels, apply(affine, pixels))
    torch.testing.assert_close(warped_depth, depth)


@given(seeds)
def test_flip_mirrors_scene_and_image_together(seed):
    generator = make_generator(seed)
    camera, points = Camera(random_projection(generator)), random_points(generator, 10)
    pixels, depth = camera.project(points)
    flipped = camera.flip(WIDTH)
    flipped_pixels, flipped_depth = flipped.project(points * torch.tensor([-1, 1, 1]))
    mirror = torch.tensor([[-1, 0, WIDTH], [0, 1, 0]], dtype=torch.float64)
    torch.testing.assert_close(flipped_pixels, apply(mirror, pixels))
    torch.testing.assert_close(flipped_depth, depth)
    torch.testing.assert_close(flipped.flip(WIDTH).projection, camera.projection)


def test_flip_keeps_the_focal_lengths_and_mirrors_the_principal_point(kitti_camera):
    flipped = kitti_camera.flip(WIDTH)
    assert flipped.fx == kitti_camera.fx > 0 and flipped.fy == kitti_camera.fy > 0
    assert flipped.cx == WIDTH - kitti_camera.cx and flipped.cy == kitti_camera.cy


def test_ray_angle_is_the_direction_of_the_back_projected_ray():
    camera = Camera(torch.tensor([[700.0, 0, 600, 0], [0, 720, 180, 0], [0, 0, 1, 0]]))
    columns = torch.tensor([0.0, 600.0, 1300.0])
    pixels = torch.stack([columns, columns * 0], dim=-1)
    points = camera.back_project(pixels, torch.full((3,), 30.0))
    angles = camera.ray_angle(columns)
    torch.testing.assert_close(angles, torch.atan2(points[:, 0], points[:, 2]))
    torch.testing.assert_close(angles[1:], torch.tensor([0.0, math.pi / 4]))


@given(seeds)
def test_invert_affine_composes_to_the_identity(seed):
    generator = make_generator(seed)
    affine = random_affine(generator, 4)
    pixels = torch.rand(4, 10, 2, generator=generator, dtype=torch.float64) * 1000
    torch.testing.assert_close(apply(invert_affine(affine), apply(affine, pixels)), pixels)


def test_a_matrix_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(\.\.\., 3, 4\), got \(3, 3\)"):
        Camera(torch.eye(3))


def test_inverse_affine_is_exact_under_autocast():
    affine = torch.tensor([[[0.9, 0.1, 333.3], [-0.1, 0.8, -77.7]]])
    with torch.autocast("cpu", torch.bfloat16):
        inverse = invert_affine(affine)
    there_and_back = _homogeneous(inverse) @ _homogeneous(affine)
    torch.testing.assert_close(there_and_back, torch.eye(3)[None], rtol=0, atol=1e-4)
