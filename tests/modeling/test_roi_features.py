import torch

from qiml.modeling.roi_features import class_maps, coordinate_maps, pool_regions
from qiml.structures.camera import Camera


def test_regions_of_a_linear_map_are_linear():
    """Bins average what they cover: of a ramp, the values at their middles."""
    ramp = torch.arange(40.0).expand(2, 3, 24, 40).clone()
    ramp[1] += 100
    boxes = torch.tensor([[8.0, 4.0, 22.0, 18.0], [5.5, 6.0, 12.5, 9.0]])
    regions = pool_regions(ramp, torch.tensor([0, 1]), boxes, size=7)
    assert regions.shape == (2, 3, 7, 7)
    middles = (torch.arange(7) + 0.5) / 7
    torch.testing.assert_close(regions[0, 1, 3], 8 + 14 * middles)
    torch.testing.assert_close(regions[1, 2, 0], 100 + 5.5 + 7 * middles)


def test_regions_are_float32_inside_mixed_precision():
    features = torch.rand(1, 3, 8, 8)
    boxes = torch.tensor([[1.0, 1.0, 5.0, 6.0]])
    with torch.autocast("cpu", torch.bfloat16):
        regions = pool_regions(features.bfloat16(), torch.tensor([0]), boxes, size=7)
    assert regions.dtype == torch.float32
    expected = pool_regions(features.bfloat16().float(), torch.tensor([0]), boxes, size=7)
    torch.testing.assert_close(regions, expected)


def test_coordinates_are_rays_and_do_not_depend_on_a_crop():
    camera = Camera(torch.tensor([[[700.0, 0, 600, 45], [0, 700, 180, -0.3], [0, 0, 1, 0]]]))
    box = torch.tensor([[530.0, 110.0, 670.0, 390.0]])
    maps = coordinate_maps(box, camera, size=7)
    assert maps.shape == (1, 2, 7, 7)
    left, right, top, bottom = -0.1 - 45 / 700, 0.1 - 45 / 700, -0.1 + 0.3 / 700, 0.3 + 0.3 / 700
    torch.testing.assert_close(maps[0, 0, 2], torch.linspace(left, right, 7))
    torch.testing.assert_close(maps[0, 1, :, 5], torch.linspace(top, bottom, 7))

    affine = torch.tensor([[0.3, 0, -20], [0, 0.3, 11]])
    cropped = box.view(1, 2, 2) * 0.3 + affine[:, 2]
    seen = coordinate_maps(cropped.flatten(1), camera.warp(affine), size=7)
    torch.testing.assert_close(seen, maps, rtol=0, atol=1e-5)


def test_classes_are_one_hot_maps():
    maps = class_maps(torch.tensor([2, 0]), num_classes=3, size=7)
    assert maps.shape == (2, 3, 7, 7)
    assert maps[:, :, 6, 0].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert (maps == maps[:, :, :1, :1]).all()


def test_no_objects():
    nothing = torch.zeros(0, 4)
    index = torch.zeros(0, dtype=torch.int64)
    assert pool_regions(torch.rand(2, 3, 8, 8), index, nothing, 7).shape == (0, 3, 7, 7)
    assert coordinate_maps(nothing, Camera(torch.zeros(0, 3, 4)), 7).shape == (0, 2, 7, 7)
    assert class_maps(index, 3, 7).shape == (0, 3, 7, 7)
