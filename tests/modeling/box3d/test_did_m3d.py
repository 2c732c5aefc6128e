"""What DID-M3D does by itself; what it shares is tested in test_region_head.py."""

import math
from dataclasses import replace

import pytest
import torch

from qiml.data.kitti import load_kitti_format
from qiml.modeling.box3d.centre_head import CentrePredictions
from qiml.modeling.box3d.did_m3d import GRID_CHANNELS, REGION_CHANNELS, DIDM3DHead, DIDM3DObjects
from qiml.modeling.region_depth import surface_depth_in_boxes
from qiml.modeling.targets import flatten_objects
from qiml.structures.camera import Camera
from tests.modeling.box3d.region_labels import (
    LOG_VARIANCE,
    MAP,
    Always,
    ByClass,
    labels_of,
    make_head,
    perfect_2d,
    perfect_3d,
)

AHEAD = 1.25  # metres from what is seen to the centre


@pytest.fixture
def head():
    return make_head(DIDM3DHead)


def perfect_did_m3d(frame, targets):
    """What the branches should say of a frame's labels, if every cell shows what lies `AHEAD` of it."""
    _, depth, _ = labels_of(frame, targets)
    # Seen in a crop that magnifies it, a surface looks nearer than it is.
    apparent = (depth - AHEAD) / targets.affines[:, 1, 1]
    values = {
        "visual_depth": -torch.log(apparent),
        "attribute_depth": torch.full_like(depth, AHEAD),
        "visual_log_variance": torch.full_like(depth, LOG_VARIANCE),
        "attribute_log_variance": torch.full_like(depth, LOG_VARIANCE),
    }
    cells = {name: v[:, None, None, None].expand(-1, 1, 7, 7) for name, v in values.items()}
    return {**perfect_3d(frame, targets), **cells}


def objects_with(*, visual=0.0, attribute=0.0, log_variance=0.0):
    """Of one object, everything given broadcast to 7×7 cells."""
    grid = [torch.as_tensor(x, dtype=torch.float32) for x in (visual, attribute, log_variance)]
    visual, attribute, log_variance = (x.expand(1, 7, 7) for x in grid)
    return DIDM3DObjects(
        visual_depth=visual,
        attribute_depth=attribute,
        visual_log_variance=log_variance,
        attribute_log_variance=torch.full((1, 7, 7), -200.0),
        dimensions=torch.ones(1, 3),
        offset_3d=torch.zeros(1, 2),
        heading=torch.zeros(1, 24),
    )


# --- Merging


def test_cells_are_merged_by_confidence():
    visual = torch.full((1, 7, 7), 10.0)
    visual[0, 0, 0] = 30.0
    log_variance = torch.full((1, 7, 7), 2 * math.log(2.0))
    log_variance[0, 0, 0] = 2 * math.log(0.5)
    objects = objects_with(visual=visual, attribute=1.5, log_variance=log_variance)
    sure, others = math.exp(-0.5), 48 * [math.exp(-2.0)]
    total = sure + sum(others)
    assert objects.depth.item() == pytest.approx((31.5 * sure + 11.5 * sum(others)) / total)
    confidence = (sure**2 + sum(p**2 for p in others)) / total
    assert math.exp(-objects.depth_sigma.item()) == pytest.approx(confidence, rel=1e-5)


@pytest.mark.parametrize("log_variance", [-80.0, 0.0, 12.0, 40.0])
def test_merging_is_finite_whatever_the_doubt(log_variance):
    """Of cells in the extreme, p is 1 or 0 in float32."""
    objects = objects_with(visual=10.0, attribute=1.0, log_variance=log_variance)
    assert objects.depth.item() == pytest.approx(11.0)
    # Equal cells: the confidence of all is that of each.
    assert objects.depth_sigma.item() == pytest.approx(
        math.exp(log_variance / 2), rel=1e-4, abs=1e-5
    )


# --- What the visual depth learns from


@pytest.fixture
def street(kitti_folder, read_samples):
    """Function (crop) -> frame, sample and targets of an image with a car, a pedestrian and a cyclist."""

    def read(crop=0.0, dense_depth=None):
        root = kitti_folder(frames=1)
        (sample,) = read_samples(root, crop_depth="metric", crop=crop)
        maps = None if dense_depth is None else dense_depth[None]
        targets = flatten_objects([sample["instances"]], 4, MAP, maps)
        return load_kitti_format(root, "train")[0], sample, targets

    return read


def test_surfaces_of_the_labels_boxes(head, street):
    """Within half a diagonal of the centre, and before it."""
    _, _, targets = street()
    surface = head.surface_depth(targets)
    torch.testing.assert_close(surface, surface_depth_in_boxes(targets, 7, 4))
    reach = targets.dimensions.norm(dim=1) / 2
    ahead = targets.depth - surface.amax(dim=(1, 2))
    assert ((ahead > -reach) & (surface.flatten(1).median(dim=1).values < targets.depth)).all()


def test_object_wise_depth_of_the_labels(head, street):
    _, _, targets = street()
    head.visual_depth_of = "object"
    surface = head.surface_depth(targets)
    depth = targets.depth[:, None, None]
    assert surface.shape == (3, 7, 7)
    assert ((surface == depth) | (surface < depth)).all() and (surface > 0).all()
    assert (surface == depth).any(dim=(1, 2)).all()


def test_dense_depth_of_the_image(head, street):
    """Cells are means of 4×4 pixels; the true box is read, in bilinear samples."""
    x = torch.arange(320) + 0.5
    _, _, targets = street(dense_depth=(10 + x / 32).expand(96, 320))
    surface = head.surface_depth(targets)
    boxes = targets.boxes2d
    steps = (torch.arange(7) + 0.5) / 7
    columns = torch.lerp(boxes[:, :1], boxes[:, 2:3], steps)
    # Without the half-cell offset, position c is read as the middle of cell c.
    expected = 10 + (columns * 4 + 2) / 32
    torch.testing.assert_close(surface, expected[:, None].expand(-1, 7, -1), rtol=0, atol=2e-3)


@pytest.mark.parametrize("dense", [False, True])
def test_perfect_predictions_cost_their_doubt(head, street, at_cells, monkeypatch, dense):
    """On a crop, too. What is left is log σ, of visual, attribute and instance depth."""
    frame, _, targets = street(crop=1.0)
    surface = targets.depth[:, None, None].expand(-1, 7, 7) - (AHEAD if dense else 0)
    monkeypatch.setattr(head, "surface_depth", lambda _: surface)
    monkeypatch.setattr(head, "regress", at_cells(targets, perfect_2d(targets)))
    for name, values in perfect_did_m3d(frame, targets).items():
        setattr(head, name, ByClass(targets, values))
    losses = head.losses(
        CentrePredictions(torch.zeros(1, 3, *MAP), torch.zeros(1, 8, *MAP)), targets
    )
    assert losses["loss_size_3d"] < 1e-5
    doubt = 3 * LOG_VARIANCE / 2 + math.log(2) / 2
    if dense:
        assert losses["loss_depth"].item() == pytest.approx(doubt, abs=1e-2)
    else:  # the surface is then 1.25 m from where it is said to be, and so is what lies behind it
        error = 2 * 1.4142 * math.exp(-LOG_VARIANCE / 2) * AHEAD
        assert losses["loss_depth"].item() == pytest.approx(doubt + error, rel=1e-3)


def test_only_cells_that_show_the_object_teach_visual_and_attribute_depth(head, street):
    _, _, targets = street()
    surface = torch.zeros(3, 7, 7)  # unknown
    surface[0, 0] = targets.depth[0] - 2.9
    surface[1, 0] = targets.depth[1] - 3.1
    surface[2, 0] = targets.depth[2] + 3.1
    seen = []
    head.surface_depth = lambda _: surface
    head.depth_losses = lambda *arguments: seen.append(arguments[-1]) or (0, 0, 0)
    head.depth_loss(None, targets)
    assert seen[0].sum() == 7 and seen[0][0, 0].all()


def test_objects_without_3d_supervision_teach_nothing(head, street):
    _, _, targets = street()
    targets = replace(targets, has_3d=torch.arange(len(targets)) != 1)
    objects = head.regress_3d(
        torch.zeros(1, 8, *MAP), targets.image_index, targets.boxes2d, targets.classes,
        targets.cameras, targets.affines,
    )  # fmt: skip
    losses = head.losses_3d(objects, targets)
    targets.depth[1] += 1.0
    targets.dimensions[1] += 1.0
    again = head.losses_3d(objects, targets)
    assert all(torch.equal(losses[name], again[name]) for name in losses)


# --- Detections


def test_threshold_is_that_of_the_heatmap(head):
    """Before the confidence in the depth is multiplied in."""
    for name, channels in REGION_CHANNELS.items():
        setattr(head, name, Always(torch.zeros(channels)))
    for name in GRID_CHANNELS:
        setattr(head, name, Always(torch.zeros(1, 7, 7)))
    heatmap = torch.full((1, 3, 6, 8), -9.0)
    heatmap[0, 1, 2, 2], heatmap[0, 1, 4, 6] = 5.0, -0.002  # probabilities 0.993 and 0.4995
    camera = Camera(torch.tensor([[[180.0, 0, 16, 0], [0, 180, 12, 0], [0, 0, 1, 0]]]))
    arguments = (camera, torch.eye(2, 3)[None], [(24, 32)])
    predictions = CentrePredictions(heatmap, torch.zeros(1, 8, 6, 8))
    (image,) = head.inference(predictions, *arguments)
    # Two log variances of 0 add to log 2.
    assert image.scores.tolist() == pytest.approx([0.9933 * math.exp(-math.sqrt(2))], rel=1e-3)

    head.size_3d = Always(torch.tensor([0.0, -1.7, 0]))
    (image,) = head.inference(predictions, *arguments)
    assert len(image) == 0  # a negative width
