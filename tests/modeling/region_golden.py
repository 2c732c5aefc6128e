"""What the golden tests of heads with a second stage share."""

import contextlib

import numpy as np
import pytest
import torch

from qiml.losses.focal import heatmap_focal_loss
from qiml.modeling.box3d.centre_head import CentrePredictions, box2d_losses
from qiml.modeling.box3d.region_head import REGRESSION_CHANNELS
from qiml.modeling.decode import find_peaks
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


def affines_of(golden, name):
    """Original → input pixels (320×96) of the image region that the official code calls its coord_range."""
    first, last = golden.tensor(f"calib/coord_range_{name}").unbind(dim=1)
    zoom = torch.tensor([320.0, 96.0]) / (last - first)
    return torch.cat([zoom[:, :, None] * torch.eye(2), -(zoom * first)[:, :, None]], dim=2)


def targets_of(golden):
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


@contextlib.contextmanager
def outputs_of(head, names):
    """Direct outputs of branches, filled as they run; gradients are kept."""
    outputs, handles = {}, []

    def note(name):
        def hook(_module, _inputs, output):
            outputs[name] = output
            if output.requires_grad:
                output.retain_grad()

        return hook

    for name in names:
        handles.append(head.get_submodule(name).register_forward_hook(note(name)))
    yield outputs
    for handle in handles:
        handle.remove()


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


def second_stage_at_targets(model, features, golden, targets, relative_error):
    """Objects in the golden's order, and the mean sizes of their classes; what they see is checked."""
    head = model.box3d_head
    with torch.no_grad():
        _, boxes, objects = second_stage(head, features, targets)
    where = (targets.image_index, boxes, targets.cameras)
    check_regions(golden, "train_path", head, features, *where, relative_error)
    return objects, head.mean_sizes[targets.classes]


def second_stage_at_peaks(model, features, golden, relative_error):
    """The same at the heat map's peaks, which come first."""
    head, affines = model.box3d_head, affines_of(golden, "full")
    with torch.no_grad():
        peaks = find_peaks(head.heatmap(features), 50)
        index = peaks.image_index
        assert peaks.classes.tolist() == golden.arrays["roi/top_class"].flatten().tolist()
        boxes = head.boxes2d(head.regress(features, index, peaks.cells), peaks.cells)
        cameras = Camera(golden.cameras.warp(affines).projection[index])
        objects = head.regress_3d(features, index, boxes, peaks.classes, cameras, affines[index])
    check_regions(golden, "roi", head, features, index, boxes, cameras, relative_error)
    return peaks, objects, head.mean_sizes[peaks.classes]


def check_running_statistics(state, golden, rename):
    """After a pass in training mode."""
    names, expected = (golden.arrays[f"train/bn_after/{x}"] for x in ("names", "norm_sum"))
    for name, (norm, total) in zip(names, expected, strict=True):
        if (ours := rename(str(name))) is not None:
            assert state[ours].norm().item() == pytest.approx(norm, rel=1e-3), name
            assert state[ours].sum().item() == pytest.approx(total, rel=1e-3, abs=1e-3 * norm), name


def check_gradients(model, golden, targets, raw, monkeypatch, rename, official_names):
    """Of the total at the neck, at every raw output and at every parameter.

    Args:
        raw: of :func:`outputs_of` the second stage's branches.
        rename: official name of a parameter -> ours.
        official_names: {our name of a branch: official}, where they differ.
    """
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

    gradients = {official_names.get(n, n): v.grad for n, v in {**maps, **raw}.items()}
    for name, gradient in {**gradients, "feat_up": features.grad}.items():
        norm, total, largest = golden.arrays[f"grad/{name}"]
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-4), name
        rounding = 5e-6 * gradient.abs().sum().item()  # processors differ by it
        assert gradient.sum().item() == pytest.approx(total, abs=rounding), name
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


def check_gradients_of_training(model, golden, targets, rename):
    """With the 2D branches computed at objects only."""
    model.zero_grad()
    features = model.neck(model.backbone(golden.images))
    features.retain_grad()
    sum(model.box3d_head.losses(model.box3d_head(features), targets).values()).backward()
    assert features.grad.norm().item() == pytest.approx(golden.arrays["grad/feat_up"][0], rel=1e-4)
    check_parameter_gradients(model, golden, rename)
    model.zero_grad()


def detect(model, features, golden, monkeypatch):
    """Detections of whole images, whatever their score; and (height, width) of those."""
    monkeypatch.setattr(model.box3d_head, "score_threshold", -1.0)
    affines = affines_of(golden, "full")
    image_sizes = [(int(h), int(w)) for w, h in golden.arrays["calib/img_size"]]
    with torch.no_grad():
        predictions = model.box3d_head(features)
        cameras = golden.cameras.warp(affines)
        return model.box3d_head.inference(predictions, cameras, affines, image_sizes), image_sizes


def check_detections(golden, detections, image_sizes):
    """Pixels of the original image, metres, radians."""
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
