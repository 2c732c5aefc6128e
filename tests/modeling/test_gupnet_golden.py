"""GUPNet, and DEVIANT with its heads, equal the official code.

Outputs, second stage, losses, gradients, detections, task weights.
"""

import numpy as np
import pytest
import torch

from qiml.engine.task_learning import task_weights
from qiml.losses.focal import heatmap_focal_loss
from qiml.modeling.box3d.centre_head import CentrePredictions, box2d_losses
from qiml.modeling.box3d.gupnet import REGRESSION_CHANNELS, ROI_CHANNELS, GUPNetHead
from qiml.modeling.decode import find_peaks
from qiml.modeling.official_weights import (
    convert_deviant,
    convert_gupnet,
    rename_deviant,
    rename_gupnet,
)
from qiml.modeling.roi_features import coordinate_maps, pool_regions
from qiml.structures.boxes3d import wrap_angle
from qiml.structures.camera import Camera

OFFICIAL_TERMS = {
    "seg": "loss_heatmap",
    "offset2d": "loss_offset_2d",
    "size2d": "loss_size_2d",
    "offset3d": "loss_offset_3d",
    "depth": "loss_depth",
    "size3d": "loss_size_3d",
    "heading": "loss_heading",
}


CODES = {
    "gupnet": (convert_gupnet, rename_gupnet, ()),
    "deviant": (
        convert_deviant,
        rename_deviant,
        ("MODEL.BACKBONE.NAME", "SteerableDLA", "MODEL.BACKBONE.STEERABLE.OFFICIAL", True),
    ),
}


@pytest.fixture(scope="module", params=CODES)
def code(request):
    return request.param


@pytest.fixture(scope="module")
def golden(golden_model, code):
    return golden_model(code)


@pytest.fixture(scope="module")
def rename(code):
    return CODES[code][1]


@pytest.fixture(scope="module")
def model(golden, official_detector, code):
    convert, _, changes = CODES[code]
    head = ("MODEL.BOX3D_HEAD.NAME", "GUPNetHead")
    return official_detector(convert(golden.state), *head, *changes)


@pytest.fixture(scope="module")
def features(model, golden):
    with torch.no_grad():
        return model.neck(model.backbone(golden.images))


def affines_of(golden, name):
    """Original → input pixels (320×96) of the image region that the official code calls its coord_range."""
    first, last = golden.tensor(f"calib/coord_range_{name}").unbind(dim=1)
    zoom = torch.tensor([320.0, 96.0]) / (last - first)
    return torch.cat([zoom[:, :, None] * torch.eye(2), -(zoom * first)[:, :, None]], dim=2)


@pytest.fixture(scope="module")
def targets(golden):
    """Sizes there are residuals to the class mean."""
    affines = affines_of(golden, "crop")
    targets = golden.targets(golden.cameras.warp(affines), affines)
    targets.dimensions.add_(golden.tensor("kept/mean_size")[targets.classes])
    return targets


def second_stage(head, features, targets):
    """(2D branches, boxes in cells, objects) at the targets."""
    at_objects = head.regress(features, targets.image_index, targets.cells)
    boxes = head.boxes2d(at_objects, targets.cells)
    place = (targets.classes, targets.cameras, targets.affines)
    return at_objects, boxes, head.regress_3d(features, targets.image_index, boxes, *place)


def losses(head, features, golden, targets):
    """Every term, with the golden's own heat map as target."""
    at_objects, _, objects = second_stage(head, features, targets)
    heatmap = golden.tensor("target/heatmap")
    return {
        "loss_heatmap": heatmap_focal_loss(head.heatmap(features), heatmap),
        **box2d_losses(at_objects, targets),
        **head.losses_3d(objects, targets),
    }


@pytest.fixture
def raw(model):
    """Direct outputs of the second stage's branches, filled as they run; gradients are kept."""
    outputs, handles = {}, []

    def note(name):
        def hook(_module, _inputs, output):
            outputs[name] = output
            if output.requires_grad:
                output.retain_grad()

        return hook

    for name in ROI_CHANNELS:
        branch = model.box3d_head.get_submodule(name)
        handles.append(branch.register_forward_hook(note(name)))
    yield outputs
    for handle in handles:
        handle.remove()


# --- Outputs


def test_neck_output(features, golden, relative_error):
    assert relative_error(features, golden.arrays["eval/feat"]) < 1e-4


@pytest.mark.parametrize("name", ["heatmap", *REGRESSION_CHANNELS])
def test_raw_head_output(model, features, golden, relative_error, name):
    output = model.box3d_head.get_submodule(name)(features)
    assert relative_error(output, golden.arrays[f"eval/{name}"]) < 1e-4


def check_second_stage(golden, group, raw, objects, relative_error, mean_sizes):
    """Raw and final values of objects in the golden's order."""
    values = {f"raw_{name}": output for name, output in raw.items()}
    values |= {
        "depth": torch.stack([objects.depth, objects.depth_log_variance], dim=1),
        "offset_3d": objects.offset_3d,
        "size_3d": objects.dimensions - mean_sizes,
        "heading": objects.heading,
        "h3d_log_variance": objects.height_log_variance[:, None],
    }
    for name, value in values.items():
        assert relative_error(value, golden.arrays[f"{group}/{name}"]) < 1e-4, name


def check_regions(golden, group, head, features, image_index, boxes, cameras, relative_error):
    """What the second stage sees."""
    regions = pool_regions(features, image_index, boxes, head.roi_size)
    maps = coordinate_maps(boxes * head.stride, cameras, head.roi_size)
    for name, value in {
        "box2d_cells": torch.cat([image_index[:, None], boxes], dim=1),
        "roi_feature_rms": regions.square().mean(dim=(0, 2, 3)).sqrt(),
        "roi_feature_center": regions[:, :, 3, 3],
        "coord_maps": maps[:, :, ::6, ::6],
    }.items():
        assert relative_error(value, golden.arrays[f"{group}/{name}"]) < 1e-4, name


def test_second_stage_at_targets(model, features, golden, targets, raw, relative_error):
    head = model.box3d_head
    with torch.no_grad():
        _, boxes, objects = second_stage(head, features, targets)
    where = (targets.image_index, boxes, targets.cameras)
    check_regions(golden, "train_path", head, features, *where, relative_error)
    means = head.mean_sizes[targets.classes]
    check_second_stage(golden, "train_path", raw, objects, relative_error, means)


def test_second_stage_at_peaks(model, features, golden, raw, relative_error):
    head = model.box3d_head
    affines = affines_of(golden, "full")
    with torch.no_grad():
        peaks = find_peaks(head.heatmap(features), 50)
        index = peaks.image_index
        assert peaks.classes.tolist() == golden.arrays["roi/top_class"].flatten().tolist()
        flat = peaks.cells @ torch.tensor([1, features.shape[-1]])
        assert flat.tolist() == golden.arrays["roi/top_index"].flatten().tolist()
        assert relative_error(peaks.scores, golden.arrays["roi/top_heat"].flatten()) < 1e-4
        boxes = head.boxes2d(head.regress(features, index, peaks.cells), peaks.cells)
        cameras = Camera(golden.cameras.warp(affines).projection[index])
        objects = head.regress_3d(features, index, boxes, peaks.classes, cameras, affines[index])
    check_regions(golden, "roi", head, features, index, boxes, cameras, relative_error)
    means = head.mean_sizes[peaks.classes]
    check_second_stage(golden, "roi", raw, objects, relative_error, means)


# --- Losses and gradients


@pytest.mark.parametrize("official, ours", OFFICIAL_TERMS.items())
def test_loss_term(model, features, golden, targets, official, ours):
    with torch.no_grad():
        value = losses(model.box3d_head, features, golden, targets)[ours].item()
    assert value == pytest.approx(float(golden.arrays[f"loss/{official}_loss"]), rel=1e-4)


def test_whole_loss_renders_the_golden_heatmap(model, features, golden, targets):
    head = model.box3d_head
    with torch.no_grad():
        total = sum(head.losses(head(features), targets).values())
    assert total.item() == pytest.approx(float(golden.arrays["loss/total"]), rel=1e-4)


def test_train_mode(model, golden, targets, train_mode, relative_error, rename):
    """Loss terms, outputs, and the running statistics after one pass."""
    with train_mode(model), torch.no_grad():
        head = model.box3d_head
        features = model.neck(model.backbone(golden.images))
        _, _, objects = second_stage(head, features, targets)
        after = {name: value.clone() for name, value in model.state_dict().items()}
        terms = losses(head, features, golden, targets)
        maps = {name: head.get_submodule(name)(features) for name in REGRESSION_CHANNELS}
    for official, ours in OFFICIAL_TERMS.items():
        expected = float(golden.arrays[f"train_loss/{official}_loss"])
        assert terms[ours].item() == pytest.approx(expected, rel=1e-3), official
    outputs = {f"{name}_sub4": value[..., ::4, ::4] for name, value in maps.items()}
    outputs |= {
        "feat_sub4": features[..., ::4, ::4],
        "depth": torch.stack([objects.depth, objects.depth_log_variance], dim=1),
        "offset_3d": objects.offset_3d,
        "size_3d": objects.dimensions - head.mean_sizes[targets.classes],
        "heading": objects.heading,
    }
    for name, value in outputs.items():
        assert relative_error(value, golden.arrays[f"train/{name}"]) < 1e-3, name
    names, expected = (golden.arrays[f"train/bn_after/{x}"] for x in ("names", "norm_sum"))
    for name, (norm, total) in zip(names, expected, strict=True):
        if (ours := rename(str(name))) is not None:
            assert after[ours].norm().item() == pytest.approx(norm, rel=1e-3), name
            assert after[ours].sum().item() == pytest.approx(total, rel=1e-3, abs=1e-3 * norm), name


def test_gradients(model, golden, targets, raw, monkeypatch, rename):
    """Of the total at the neck, at every raw output and at every parameter."""
    model.zero_grad()
    head = model.box3d_head
    features = model.neck(model.backbone(golden.images))
    features.retain_grad()
    maps = {name: head.get_submodule(name)(features) for name in REGRESSION_CHANNELS}
    maps["heatmap"] = head.heatmap(features)
    for value in maps.values():
        value.retain_grad()

    def read_densely(_features, image_index, cells):
        return {n: maps[n][image_index, :, cells[:, 1], cells[:, 0]] for n in REGRESSION_CHANNELS}

    monkeypatch.setattr(head, "regress", read_densely)
    sum(head.losses(CentrePredictions(maps["heatmap"], features), targets).values()).backward()

    gradients = {name: value.grad for name, value in {**maps, **raw}.items()}
    for name, gradient in {**gradients, "feat_up": features.grad}.items():
        norm, total, largest = golden.arrays[f"grad/{name}"]
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-4), name
        assert gradient.sum().item() == pytest.approx(total, abs=1e-3 * norm), name
        assert gradient.abs().max().item() == pytest.approx(largest, rel=1e-4), name
    check_parameter_gradients(model, golden, rename)
    model.zero_grad()


def check_parameter_gradients(model, golden, rename):
    parameters = dict(model.named_parameters())
    names = golden.arrays["param_grad/names"]
    assert len(names) == len(parameters)
    for name, (norm, _) in zip(names, golden.arrays["param_grad/norm_sum"], strict=True):
        gradient = parameters[rename(str(name))].grad
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-6), name


def test_gradients_as_training_takes_them(model, golden, targets, rename):
    """With the 2D branches computed at objects only."""
    model.zero_grad()
    features = model.neck(model.backbone(golden.images))
    features.retain_grad()
    sum(model.box3d_head.losses(model.box3d_head(features), targets).values()).backward()
    assert features.grad.norm().item() == pytest.approx(golden.arrays["grad/feat_up"][0], rel=1e-4)
    check_parameter_gradients(model, golden, rename)
    model.zero_grad()


# --- Detections


def test_detections(model, features, golden, monkeypatch):
    """Decoded boxes equal the official ones: pixels of the original image, metres, radians."""
    head = model.box3d_head
    monkeypatch.setattr(head, "score_threshold", -1.0)
    affines = affines_of(golden, "full")
    image_sizes = [(int(h), int(w)) for w, h in golden.arrays["calib/img_size"]]
    with torch.no_grad():
        detections = head.inference(
            head(features), golden.cameras.warp(affines), affines, image_sizes
        )
    check_detections(golden, detections, image_sizes)


def check_detections(golden, detections, image_sizes):
    for index, image in enumerate(detections):
        rows = golden.arrays["decode/boxes"]
        expected = torch.tensor(rows[rows[:, 0] == index, 1:]).float()
        assert image.image_size == image_sizes[index]
        assert image.pred_classes.tolist() == expected[:, 0].tolist()
        location, dimensions, yaw = image.pred_boxes3d.to_kitti()
        angle_error = torch.stack([image.pred_alpha, yaw]) - expected[:, [1, 12]].T
        assert wrap_angle(angle_error).abs().max() < 1e-3
        for value, columns in [
            (image.pred_boxes.tensor, slice(2, 6)),
            (dimensions, slice(6, 9)),
            (location, slice(9, 12)),
            (image.scores, 13),
        ]:
            np.testing.assert_allclose(value, expected[:, columns], rtol=1e-4, atol=1e-3)


def test_task_weights(golden):
    """The weights of epoch e follow from the losses before it."""
    terms = [OFFICIAL_TERMS[t.removesuffix("_loss")] for t in golden.arrays["task_weights/terms"]]
    graph = {term: GUPNetHead.task_graph[term] for term in terms}
    history = golden.tensor("task_weights/loss_history")
    for epoch, expected in enumerate(golden.arrays["task_weights/weights"]):
        weights = task_weights(graph, history[:epoch], num_epochs=140)
        np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-6)
