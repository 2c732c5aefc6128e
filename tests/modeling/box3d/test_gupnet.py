"""What GUPNet does by itself; what it shares is tested in test_region_head.py."""

import math

import pytest
import torch

from qiml.data.kitti import load_kitti_format
from qiml.modeling.box3d.centre_head import CentrePredictions
from qiml.modeling.box3d.gupnet import ROI_CHANNELS, GUPNetHead
from qiml.modeling.targets import flatten_objects
from qiml.structures.camera import Camera
from tests.modeling.box3d.region_labels import (
    LOG_VARIANCE,
    MAP,
    Always,
    ByClass,
    detect,
    labels_of,
    make_head,
    perfect_2d,
    perfect_3d,
)


@pytest.fixture
def head():
    return make_head(GUPNetHead)


def perfect_gupnet(frame, targets):
    """What the branches should say of a frame's labels."""
    sizes, depth, heights = labels_of(frame, targets)
    lacking = depth - frame["camera"][1][1] * sizes[:, 0] / heights
    assert (lacking > 0).all()
    constant = torch.full((len(targets), 1), LOG_VARIANCE)
    common = perfect_3d(frame, targets)
    return {
        **common,
        "size_3d": torch.cat([common["size_3d"], constant], dim=1),
        # sigmoid(raw) = 1 / (lacking + 1)
        "depth": torch.cat([-torch.log(lacking)[:, None], constant], dim=1),
    }


def test_perfect_predictions_cost_their_doubt(
    head, kitti_folder, read_samples, at_cells, monkeypatch
):
    """Of size and depth log σ is left, a third of it of the height; σ is also of the height's doubt."""
    root = kitti_folder()
    sample = read_samples(root, crop_depth="metric", crop=1.0)[0]
    targets = flatten_objects([sample["instances"]], 4, MAP)
    monkeypatch.setattr(head, "regress", at_cells(targets, perfect_2d(targets)))
    for name, values in perfect_gupnet(load_kitti_format(root, "train")[0], targets).items():
        setattr(head, name, ByClass(targets, values))
    losses = head.losses(
        CentrePredictions(torch.zeros(1, 3, *MAP), torch.zeros(1, 8, *MAP)), targets
    )
    assert losses["loss_size_3d"].item() == pytest.approx(LOG_VARIANCE / 6, abs=1e-3)
    sigma = detect(head, sample, targets).pred_depth_sigma
    assert (sigma > math.exp(LOG_VARIANCE / 2)).all()
    assert losses["loss_depth"].item() == pytest.approx(sigma.log().mean().item(), abs=0.05)


def test_depth_follows_from_heights_and_focal_length(head):
    """Twice as high in the image is half as far, with half the doubt that the height brings."""
    for name, channels in ROI_CHANNELS.items():
        setattr(head, name, Always(torch.zeros(channels)))
    boxes = torch.tensor([[10.0, 2.0, 14.0, 7.0], [10.0, 2.0, 14.0, 12.0], [10.0, 2.0, 14.0, 1.0]])
    classes = torch.tensor([1, 1, 1])
    camera = Camera(
        torch.tensor([[350.0, 0, 160, 0], [0, 350, 48, 0], [0, 0, 1, 0]]).expand(3, 3, 4)
    )
    affines = torch.tensor([[0.5, 0, 0], [0, 0.5, 0]]).expand(3, 2, 3)
    with torch.no_grad():
        objects = head.regress_3d(
            torch.zeros(1, 8, *MAP), torch.zeros(3).long(), boxes, classes, camera, affines
        )
    # 20 px of the input are 40 of the original, whose focal length is 700 px; below a pixel counts as one.
    ratio = torch.tensor([700 / 40, 700 / 80, 700.0])
    torch.testing.assert_close(objects.depth, 1.5 * ratio + 1)
    variance = 1 + ratio**2
    torch.testing.assert_close(objects.depth_log_variance, variance.log())


def test_detections_below_the_threshold_are_left_out(head):
    """The threshold is that of the product with the confidence in the depth."""
    for name, channels in ROI_CHANNELS.items():
        setattr(head, name, Always(torch.full((channels,), -9.0)))
    head.size_3d = Always(torch.tensor([0.0, 0, 0, -40]))
    heatmap = torch.full((1, 3, 6, 8), -9.0)
    heatmap[0, 1, 2, 2], heatmap[0, 1, 4, 6] = 5.0, 0.002  # probabilities 0.993 and 0.5005
    camera = Camera(torch.tensor([[[180.0, 0, 16, 0], [0, 180, 12, 0], [0, 0, 1, 0]]]))
    arguments = (camera, torch.eye(2, 3)[None], [(24, 32)])
    predictions = CentrePredictions(heatmap, torch.zeros(1, 8, 6, 8))
    (image,) = head.inference(predictions, *arguments)
    # σ = e^(−9 / 2) = 0.011
    assert image.scores.tolist() == pytest.approx([0.9933 * math.exp(-0.0111)], rel=1e-3)

    head.size_3d = Always(torch.tensor([0.0, -1.7, 0, -40]))
    (image,) = head.inference(predictions, *arguments)
    assert len(image) == 0  # a negative width
