"""DID-M3D equals the official code: outputs, second stage, losses, gradients, detections."""

import numpy as np
import pytest
import torch

from qiml.modeling.box3d.did_m3d import GRID_CHANNELS, REGION_CHANNELS
from qiml.modeling.box3d.region_head import REGRESSION_CHANNELS
from qiml.modeling.official_weights import convert_did_m3d, rename_did_m3d
from tests.modeling.region_golden import (
    OFFICIAL_TERMS,
    check_detections,
    check_gradients,
    check_gradients_of_training,
    check_running_statistics,
    detect,
    losses,
    outputs_of,
    second_stage,
    second_stage_at_peaks,
    second_stage_at_targets,
    targets_of,
)

OFFICIAL_NAMES = {
    "visual_depth": "vis_depth",
    "attribute_depth": "att_depth",
    "visual_log_variance": "vis_depth_uncer",
    "attribute_log_variance": "att_depth_uncer",
    "instance_depth": "ins_depth",
    "instance_log_variance": "ins_depth_uncer",
}
PARTS = ("vis", "att", "ins")


@pytest.fixture(scope="module")
def golden(golden_model):
    return golden_model("did_m3d")


@pytest.fixture(scope="module")
def model(golden, official_detector):
    """Its visual depth learns from the golden's own 7×7 surfaces."""
    state = convert_did_m3d(golden.state)
    model = official_detector(state, "MODEL.BOX3D_HEAD.NAME", "DIDM3DHead")
    model.box3d_head.surface_depth = lambda _targets: surface(golden)
    return model


def surface(golden):
    """Where it is not the object's, the golden has 0."""
    kept = golden.tensor("target/mask_2d").bool()
    depth, nearby = (golden.tensor(f"target/{name}")[kept] for name in ("vis_depth", "depth_mask"))
    return depth * nearby


@pytest.fixture(scope="module")
def features(model, golden):
    with torch.no_grad():
        return model.neck(model.backbone(golden.images))


@pytest.fixture(scope="module")
def targets(golden):
    return targets_of(golden)


@pytest.fixture
def raw(model):
    with outputs_of(model.box3d_head, (*REGION_CHANNELS, *GRID_CHANNELS)) as outputs:
        yield outputs


def read_values(objects, mean_sizes):
    """What the second stage says, by official names."""
    values = {official: getattr(objects, ours) for ours, official in OFFICIAL_NAMES.items()}
    sizes = objects.dimensions - mean_sizes
    return {**values, "offset_3d": objects.offset_3d, "size_3d": sizes, "heading": objects.heading}


# --- Outputs


def test_neck_output(features, golden, relative_error):
    assert relative_error(features, golden.arrays["eval/feat"]) < 1e-4


@pytest.mark.parametrize("name", ["heatmap", *REGRESSION_CHANNELS])
def test_raw_head_output(model, features, golden, relative_error, name):
    output = model.box3d_head.get_submodule(name)(features)
    assert relative_error(output, golden.arrays[f"eval/{name}"]) < 1e-4


def check_second_stage(golden, group, raw, objects, relative_error, mean_sizes):
    """Raw and final values of objects in the golden's order."""
    values = {"raw_vis_depth": raw["visual_depth"].squeeze(1), **read_values(objects, mean_sizes)}
    for name, value in values.items():
        assert relative_error(value, golden.arrays[f"{group}/{name}"]) < 1e-4, name


def test_second_stage_at_targets(model, features, golden, targets, raw, relative_error):
    objects, means = second_stage_at_targets(model, features, golden, targets, relative_error)
    check_second_stage(golden, "train_path", raw, objects, relative_error, means)


def test_second_stage_at_peaks(model, features, golden, raw, relative_error):
    """And how its cells are merged."""
    _, objects, means = second_stage_at_peaks(model, features, golden, relative_error)
    check_second_stage(golden, "roi", raw, objects, relative_error, means)
    depth, confidence = golden.arrays["decode/dets"].reshape(100, -1)[:, -2:].T
    assert relative_error(objects.depth, depth) < 1e-4
    assert relative_error(torch.exp(-objects.depth_sigma), confidence) < 1e-4


# --- Losses and gradients


def check_losses(golden, group, terms, parts, tolerance):
    for official, ours in OFFICIAL_TERMS.items():
        expected = float(golden.arrays[f"{group}/{official}_loss"])
        assert terms[ours].item() == pytest.approx(expected, rel=tolerance), official
    for name, value in zip(PARTS, parts, strict=True):
        expected = float(golden.arrays[f"{group}/{name}_depth_part"])
        assert value.item() == pytest.approx(expected, rel=tolerance), name


def depth_parts(golden, head, features, targets):
    _, _, objects = second_stage(head, features, targets)
    nearby = golden.tensor("target/depth_mask")[golden.tensor("target/mask_2d").bool()]
    return head.depth_losses(objects, targets, surface(golden), nearby)


def test_loss_terms(model, features, golden, targets):
    with torch.no_grad():
        terms = losses(model.box3d_head, features, golden, targets)
        parts = depth_parts(golden, model.box3d_head, features, targets)
    check_losses(golden, "loss", terms, parts, 1e-4)


def test_targets_of_the_attribute_depth(golden, targets):
    """The golden's attribute depth is what lies between the object and its surface."""
    kept = golden.tensor("target/mask_2d").bool()
    attribute, nearby = (golden.tensor(f"target/{n}")[kept] for n in ("att_depth", "depth_mask"))
    expected = targets.depth[:, None, None] - surface(golden)
    torch.testing.assert_close(attribute[nearby], expected[nearby], rtol=0, atol=1e-5)


def test_whole_loss_renders_the_golden_heatmap(model, features, golden, targets):
    head = model.box3d_head
    with torch.no_grad():
        total = sum(head.losses(head(features), targets).values())
    assert total.item() == pytest.approx(float(golden.arrays["loss/total"]), rel=1e-4)


def test_train_mode(model, golden, targets, train_mode, relative_error):
    """Loss terms, outputs, and the running statistics after one pass."""
    with train_mode(model), torch.no_grad():
        head = model.box3d_head
        features = model.neck(model.backbone(golden.images))
        _, _, objects = second_stage(head, features, targets)
        after = {name: value.clone() for name, value in model.state_dict().items()}
        terms = losses(head, features, golden, targets)
        parts = depth_parts(golden, head, features, targets)
        maps = {name: head.get_submodule(name)(features) for name in REGRESSION_CHANNELS}
    check_losses(golden, "train_loss", terms, parts, 1e-3)
    outputs = {f"{name}_sub4": value[..., ::4, ::4] for name, value in maps.items()}
    outputs["feat_sub4"] = features[..., ::4, ::4]
    outputs |= read_values(objects, head.mean_sizes[targets.classes])
    for name, value in outputs.items():
        assert relative_error(value, golden.arrays[f"train/{name}"]) < 1e-3, name
    check_running_statistics(after, golden, rename_did_m3d)


def test_gradients(model, golden, targets, raw, monkeypatch):
    check_gradients(model, golden, targets, raw, monkeypatch, rename_did_m3d, OFFICIAL_NAMES)


def test_gradients_as_training_takes_them(model, golden, targets):
    check_gradients_of_training(model, golden, targets, rename_did_m3d)


# --- Detections


def test_detections(model, features, golden, monkeypatch):
    """And how their scores come about."""
    detections, image_sizes = detect(model, features, golden, monkeypatch)
    check_detections(golden, detections, image_sizes)
    heat = golden.arrays["decode/dets"][..., 1]
    sigmas = np.stack([image.pred_depth_sigma for image in detections])
    scores = np.stack([image.scores for image in detections])
    np.testing.assert_allclose(scores, heat * np.exp(-sigmas), rtol=1e-4)
