"""MonoDLE with both additions equals the official code: outputs, losses, gradients, detections."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from qiml.losses.focal import heatmap_focal_loss
from qiml.modeling.box3d.monodle import REGRESSION_CHANNELS
from qiml.modeling.official_weights import convert_monodle
from qiml.modeling.targets import gaussian_radius, render_heatmap
from tests.modeling import region_golden


@pytest.fixture(scope="module")
def golden(golden_model):
    return golden_model("monodle")


@pytest.fixture(scope="module")
def model(golden, official_detector):
    both = ("MODEL.OBJECT_DEPTH.ENABLED", True, "MODEL.QUASI_ISOMETRIC.ENABLED", True)
    form = ("MODEL.QUASI_ISOMETRIC.FORM", "official")
    return official_detector(convert_monodle(golden.state), *both, *form)


@pytest.fixture(scope="module")
def features(model, golden):
    with torch.no_grad():
        return model.neck(model.backbone(golden.images))


@pytest.fixture(scope="module")
def affines(golden):
    """Original pixels → input pixels; the official ratio is that of the map."""
    ratio = golden.tensor("calib/ratio").float() / 4
    affines = torch.zeros(2, 2, 3)
    affines[:, 0, 0], affines[:, 1, 1] = 1 / ratio[:, 0], 1 / ratio[:, 1]
    return affines


@pytest.fixture(scope="module")
def targets(golden, affines):
    return golden.targets(golden.cameras.warp(affines), affines)


def losses(model, features, golden, targets):
    """Every term, with the golden's own heat map and bilinearly resized depth map as targets."""
    head = model.box3d_head
    painted = F.interpolate(
        golden.tensor("target/obj_depth")[:, None],
        features.shape[-2:],
        mode="bilinear",
        align_corners=True,
    )
    at_objects = head.regress(features, targets.image_index, targets.cells)
    terms = head.regression_losses(at_objects, targets)
    terms["loss_heatmap"] = heatmap_focal_loss(
        head.heatmap(features), golden.tensor("target/heatmap")
    )
    terms["loss_object_depth"] = model.object_depth_head.loss(features, painted.squeeze(1))
    terms["loss_metric"] = model.descriptor_loss(features, head(features), targets)
    return terms


OFFICIAL_TERMS = {
    **region_golden.OFFICIAL_TERMS,
    "qi": "loss_metric",
    "obj_depth": "loss_object_depth",
}


def test_neck_output(features, golden, relative_error):
    assert relative_error(features, golden.arrays["eval/feat"]) < 1e-4


@pytest.mark.parametrize("name", ["heatmap", *REGRESSION_CHANNELS])
def test_raw_head_output(model, features, golden, relative_error, name):
    output = model.box3d_head.get_submodule(name)(features)
    assert relative_error(output, golden.arrays[f"eval/{name}"]) < 1e-4
    np.testing.assert_allclose(output.detach(), golden.arrays[f"eval/{name}"], rtol=0, atol=1e-4)


def test_raw_object_depth_output(model, features, golden):
    output = model.object_depth_head(features)
    np.testing.assert_allclose(output.detach(), golden.arrays["eval/obj_depth"], rtol=0, atol=1e-4)


def test_branches_at_objects_equal_the_dense_map(model, features):
    """Borders and corners included."""
    height, width = features.shape[-2:]
    cells = torch.tensor(
        [[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1], [7, 11]]
    )
    image_index = torch.tensor([0, 1, 0, 1, 1])
    at_cells = model.box3d_head.regress(features, image_index, cells)
    for name in REGRESSION_CHANNELS:
        dense = model.box3d_head.get_submodule(name)(features)
        expected = dense[image_index, :, cells[:, 1], cells[:, 0]]
        torch.testing.assert_close(at_cells[name], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("official, ours", OFFICIAL_TERMS.items())
def test_loss_term(model, features, golden, targets, official, ours):
    value = losses(model, features, golden, targets)[ours].item()
    assert value == pytest.approx(float(golden.arrays[f"loss/{official}"]), rel=1e-4)


def test_loss_terms_in_train_mode(model, golden, targets, train_mode):
    with train_mode(model):
        terms = losses(model, model.neck(model.backbone(golden.images)), golden, targets)
        for official, ours in OFFICIAL_TERMS.items():
            expected = float(golden.arrays[f"train_loss/{official}"])
            assert terms[ours].item() == pytest.approx(expected, rel=1e-3), official


def test_gradients(model, golden, targets):
    """Gradient of the full loss at the neck output and at every parameter."""
    model.zero_grad()
    features = model.neck(model.backbone(golden.images))
    features.retain_grad()
    sum(losses(model, features, golden, targets).values()).backward()
    norm, _, largest = golden.arrays["grad/qi_obj_depth/neck"]
    assert features.grad.norm().item() == pytest.approx(norm, rel=1e-4)
    assert features.grad.abs().max().item() == pytest.approx(largest, rel=1e-4)

    parameters = dict(model.named_parameters())
    for name, (norm, _) in zip(
        golden.arrays["param_grad/names"], golden.arrays["param_grad/norm_sum"], strict=True
    ):
        (ours,) = convert_monodle({str(name): None})
        assert parameters[ours].grad.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-6), name
    model.zero_grad()


def test_heatmap_target(golden, targets):
    """Rendered Gaussians equal the official ones wherever the golden's radius is the rule's."""
    sizes = targets.boxes2d[:, 2:] - targets.boxes2d[:, :2]
    radius = gaussian_radius(sizes[:, 0], sizes[:, 1])
    image_index, slot = golden.tensor("target/mask_2d").nonzero(as_tuple=True)
    assert torch.equal(radius, golden.tensor("target/radius")[image_index, slot])
    np.testing.assert_allclose(
        render_heatmap(targets, num_classes=3), golden.arrays["target/heatmap"], rtol=0, atol=1e-6
    )


def test_detections(model, features, golden, affines):
    """Decoded boxes equal the official ones: pixels of the original image, metres, radians."""
    head = model.box3d_head
    image_sizes = [(int(h), int(w)) for w, h in golden.arrays["calib/img_size"]]
    head.score_threshold, threshold = -1.0, head.score_threshold
    with torch.no_grad():
        detections = head.inference(
            head(features), golden.cameras.warp(affines), affines, image_sizes
        )
    head.score_threshold = threshold

    for image, expected in zip(detections, golden.arrays["decode/boxes"], strict=True):
        assert image.pred_classes.tolist() == expected[:, 0].astype(int).tolist()
        location, dimensions, yaw = image.pred_boxes3d.to_kitti()
        angle_error = torch.stack([image.pred_alpha, yaw]) - torch.tensor(expected[:, [1, 12]].T)
        assert ((angle_error + math.pi) % (2 * math.pi) - math.pi).abs().max() < 1e-3
        for value, columns in [
            (image.pred_boxes.tensor, slice(2, 6)),
            (dimensions, slice(6, 9)),
            (location, slice(9, 12)),
            (image.scores, 13),
        ]:
            np.testing.assert_allclose(value, expected[:, columns], rtol=1e-4, atol=1e-3)
