"""Labels → targets → predictions → detections gives the labels back."""

import numpy as np
import pytest
import torch

from qiml.modeling.box3d.centre_head import CentrePredictions
from qiml.modeling.box3d.monodle import MonoDLEHead
from qiml.modeling.targets import flatten_objects, render_heatmap
from qiml.structures.boxes3d import wrap_angle
from qiml.structures.camera import Camera, invert_affine

MAP = (24, 80)


@pytest.fixture
def head():
    torch.manual_seed(0)
    return MonoDLEHead(8, hidden_channels=8, num_classes=3, stride=4, top_k=10, score_threshold=0.9)


@pytest.fixture
def perfect_regression(encode_regression):
    """What the branches should say at the objects' cells."""

    def encode(targets):
        boxes = targets.boxes2d
        return encode_regression(
            targets,
            centres=(boxes[:, :2] + boxes[:, 2:]) / 2,
            sizes=boxes[:, 2:] - boxes[:, :2],
            projected_centres=targets.projected_centres,
        )

    return encode


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("crop", [0.0, 1.0])
def test_labels_encoded_as_predictions_decode_to_themselves(
    head, kitti_folder, read_samples, perfect_regression, at_cells, monkeypatch, flip, crop
):
    batch = read_samples(kitti_folder(), flip=flip, crop=crop)
    targets = flatten_objects([x["instances"] for x in batch], 4, MAP)
    assert len(targets) == 6
    monkeypatch.setattr(head, "regress", at_cells(targets, perfect_regression(targets)))
    predictions = CentrePredictions(render_heatmap(targets, 3).logit(eps=1e-5), torch.zeros(2))
    affines = torch.stack([x["affine"] for x in batch])
    detections = head.inference(
        predictions,
        Camera(torch.stack([x["camera"] for x in batch])),
        affines,
        [(x["height"], x["width"]) for x in batch],
    )
    for image, sample, affine in zip(detections, batch, affines, strict=True):
        truth = sample["instances"]
        assert image.image_size == (96, 320)
        order, true_order = image.pred_classes.argsort(), truth.gt_classes.argsort()
        image, truth = image[order], truth[true_order]
        assert torch.equal(image.pred_classes, truth.gt_classes)
        error = image.pred_boxes3d.tensor - truth.gt_boxes3d.tensor
        assert error[:, :6].abs().max() < 1e-3
        # As in the official code the yaw is found along the pixel's ray. P2's fourth column moves that
        # by 9 px / 180 px · 1 m = 5 cm from the ray of the camera frame's origin, which alpha is about.
        assert (wrap_angle(error[:, 6]).abs() < 0.05 / truth.gt_depth + 3e-3).all()
        torch.testing.assert_close(image.pred_alpha, truth.gt_alpha, rtol=0, atol=1e-4)
        inverse = invert_affine(affine)
        corners = truth.gt_boxes.tensor.reshape(-1, 2, 2) @ inverse[:, :2].T + inverse[:, 2]
        torch.testing.assert_close(image.pred_boxes.tensor, corners.flatten(1), rtol=0, atol=1e-3)
        torch.testing.assert_close(image.pred_depth_sigma, torch.full((3,), np.exp(-3.0)).float())
        torch.testing.assert_close(image.scores, torch.full((3,), (1 - 1e-4) * np.exp(3.0)).float())


def test_perfect_predictions_cost_nothing(head, kitti_folder, read_samples, perfect_regression):
    sample = read_samples(kitti_folder())[0]
    targets = flatten_objects([sample["instances"]], 4, MAP)
    losses = head.regression_losses(perfect_regression(targets), targets)
    assert losses.pop("loss_depth").item() == pytest.approx(-3, abs=0.05)  # log σ alone is left
    assert all(loss < 1e-5 for loss in losses.values()), losses


def test_detections_below_the_threshold_are_left_out(head):
    """The threshold is the heat map's, before the confidence in the depth is multiplied in."""
    torch.nn.init.constant_(head.depth[2].bias, 2.0)  # log σ
    heatmap = torch.full((1, 3, 6, 8), -9.0)
    heatmap[0, 1, 2, 2], heatmap[0, 1, 4, 6] = 5.0, 1.0  # probabilities 0.993 and 0.73
    predictions = CentrePredictions(heatmap, torch.zeros(1, 8, 6, 8))
    camera = Camera(torch.tensor([[[180.0, 0, 16, 0], [0, 180, 12, 0], [0, 0, 1, 0]]]))
    (image,) = head.inference(predictions, camera, torch.eye(2, 3)[None], [(24, 32)])
    assert image.pred_classes.tolist() == [1]
    assert image.scores.item() == pytest.approx(0.9933 * np.exp(-2), rel=0.01)


def test_depth_is_read_from_its_descriptors(head, kitti_folder, read_samples):
    batch = read_samples(kitti_folder())
    targets = flatten_objects([x["instances"] for x in batch], 4, MAP)
    torch.nn.init.normal_(head.depth[0].weight)  # it starts too small to tell cells apart
    predictions = head(torch.randn(2, 8, *MAP))
    depth = head.regress(predictions.features, targets.image_index, targets.cells)["depth"]
    descriptors = head.depth_descriptors(predictions, targets)
    torch.testing.assert_close(descriptors @ head.depth[-1].weight.flatten(1).T, depth)
