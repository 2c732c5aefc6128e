"""MonoCon equals the official code: outputs, targets, losses, gradients, statistics, detections."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from qiml.modeling.attentive_norm import AttentiveBatchNorm2d
from qiml.modeling.box3d import monocon
from qiml.modeling.box3d.monocon_targets import MonoConTargets
from qiml.modeling.decode import inverse_sigmoid_depth
from qiml.modeling.official_weights import convert_monocon, rename_monocon
from qiml.structures.boxes3d import wrap_angle
from qiml.structures.camera import Camera

STRIDE = 4
# Of the official channels, ours: Pedestrian, Car, Cyclist; h, w, l; Boxes3D.corners, then the centre.
CLASSES = [0, 2, 1]
SIZES = [1, 2, 0]
KEYPOINTS = [6, 7, 3, 2, 5, 4, 0, 1, 8]
COORDINATES = [2 * k + axis for k in KEYPOINTS for axis in (0, 1)]
# Official head: our branch, and the order of its channels.
HEADS = {
    "heatmap_head": ("heatmap", CLASSES),
    "wh_head": ("size_2d", [0, 1]),
    "offset_head": ("offset_2d", [0, 1]),
    "dim_head": ("size_3d", SIZES),
    "depth_head": ("depth", [0, 1]),
    "kpt_heatmap_head": ("auxiliary.keypoint_heatmap", KEYPOINTS),
    "kpt_heatmap_offset_head": ("auxiliary.keypoint_offset", [0, 1]),
}
OFFICIAL_TERMS = {
    "center_heatmap": "loss_heatmap",
    "wh": "loss_size_2d",
    "offset": "loss_offset_2d",
    "dim": "loss_size_3d",
    "center2kpt_offset": "loss_keypoints",
    "kpt_heatmap": "loss_keypoint_heatmap",
    "kpt_heatmap_offset": "loss_keypoint_offset",
    "alpha_cls": "loss_heading_bin",
    "alpha_reg": "loss_heading_residual",
    "depth": "loss_depth",
}


@pytest.fixture(scope="module")
def golden(golden_model):
    return golden_model("monocon")


@pytest.fixture(scope="module")
def model(golden, official_detector):
    state = convert_monocon(golden.state)
    keys = ("MODEL.BOX3D_HEAD.NAME", "MonoConHead", "MODEL.BOX3D_HEAD.HIDDEN_CHANNELS", 64)
    return official_detector(state, *keys, "MODEL.BOX3D_HEAD.TOP_K", 30)


@pytest.fixture(scope="module")
def features(model, golden):
    with torch.no_grad():
        return model.neck(model.backbone(golden.images))


@pytest.fixture(scope="module")
def targets(golden):
    """The golden's padded labels as flat objects."""
    image_index, slot = golden.tensor("label/mask").nonzero(as_tuple=True)

    def column(name):
        return golden.tensor(f"label/{name}")[image_index, slot]

    keypoints = column("gt_kpts_2d").unflatten(1, (9, 2))[:, KEYPOINTS] / STRIDE
    return MonoConTargets(
        image_index=image_index,
        classes=torch.tensor(CLASSES)[column("gt_labels").long()],
        boxes2d=column("gt_bboxes") / STRIDE,
        keypoints=keypoints,
        keypoint_mask=column("gt_kpts_valid_mask")[:, KEYPOINTS] > 0,
        depth=column("depths"),
        dimensions=column("gt_bboxes_3d")[:, 3:6][:, SIZES],
        alpha=column("gt_bboxes_3d")[:, 6],
        has_3d=torch.ones(len(slot), dtype=torch.bool),
        num_images=2,
        map_size=tuple(golden.arrays["target/center_heatmap_target"].shape[-2:]),
    )


def losses(head, predictions, targets):
    """As the head itself, with targets given."""
    at_objects = head.regress(predictions, targets.image_index, targets.cells)
    heatmap = targets.render_heatmap(num_classes=3)
    return {
        "loss_heatmap": monocon.heatmap_focal_loss(predictions.heatmap, heatmap),
        **head.regression_losses(at_objects, targets),
        **head.auxiliary_losses(
            predictions.keypoint_heatmap,
            head.regress_keypoints(predictions, targets),
            head.regress_keypoint_offsets(predictions, targets),
            targets,
        ),
    }


def predict(head, features):
    """With the auxiliary outputs of training, and the norms as they are."""
    head.training = True
    try:
        return head(features)
    finally:
        head.training = False


def test_neck_output(features, golden, relative_error):
    assert relative_error(features, golden.arrays["eval/feat"]) < 1e-4


# --- Raw outputs


def raw_outputs(head, features):
    """Every map, by official name and in our channel order."""
    outputs = {
        official: head.get_submodule(ours)(features) for official, (ours, _) in HEADS.items()
    }
    hidden = head.offset_3d[:-1](features)
    outputs["center2kpt_offset_head"] = torch.cat(
        [head.auxiliary["corners"](hidden), head.offset_3d[-1](hidden)], dim=1
    )
    outputs["dir_cls"], outputs["dir_reg"] = head.heading(features).chunk(2, dim=1)
    return outputs


def in_our_order(official, array):
    if official == "center2kpt_offset_head":
        return array[:, COORDINATES]
    return array[:, HEADS[official][1]] if official in HEADS else array


@pytest.mark.parametrize("official", [*HEADS, "center2kpt_offset_head", "dir_cls", "dir_reg"])
def test_raw_head_output(model, features, golden, official):
    with torch.no_grad():
        output = raw_outputs(model.box3d_head, features)[official]
    expected = in_our_order(official, golden.arrays[f"eval/{official}"])
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-4)


def test_readouts_at_cells_equal_the_dense_maps(model, features):
    head = model.box3d_head
    height, width = features.shape[-2:]
    cells = torch.tensor(
        [[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1], [7, 11]]
    )
    image_index = torch.tensor([0, 1, 0, 1, 1])
    with torch.no_grad():
        at_cells = head.regress(head(features), image_index, cells)
        for name, values in at_cells.items():
            dense = head.get_submodule(name)(features)
            expected = dense[image_index, :, cells[:, 1], cells[:, 0]]
            torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("official", [*HEADS, "center2kpt_offset_head", "dir_feat"])
def test_attentive_norm(model, features, golden, relative_error, official):
    ours = {**HEADS, "center2kpt_offset_head": ("offset_3d", 0), "dir_feat": ("heading", 0)}
    conv, norm = model.box3d_head.get_submodule(ours[official][0])[:2]
    assert isinstance(norm, AttentiveBatchNorm2d)
    with torch.no_grad():
        x = conv(features)
        mixture, normalised = norm.mixture(x), norm(x)
    assert relative_error(mixture, golden.arrays[f"attn/{official}"]) < 1e-4
    statistics = {
        "mean": normalised.mean(dim=(0, 2, 3)),
        "rms": normalised.square().mean(dim=(0, 2, 3)).sqrt(),
    }
    for name, value in statistics.items():
        assert relative_error(value, golden.arrays[f"attn_norm/{official}/{name}"]) < 1e-4


# --- Targets


def slots(golden, name):
    """The golden's targets: slots without holes, in the order of the labels."""
    mask = golden.tensor("target/mask_target")
    return golden.tensor(f"target/{name}").reshape(*mask.shape, -1)[mask].squeeze(-1)


def test_heatmap_targets(golden, targets):
    for value, expected in [
        (targets.render_heatmap(3), golden.tensor("target/center_heatmap_target")[:, CLASSES]),
        (
            targets.render_keypoint_heatmap(),
            golden.tensor("target/kpt_heatmap_target")[:, KEYPOINTS],
        ),
    ]:
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)
        assert torch.equal(value == 1, expected == 1)


def test_targets_at_objects(golden, targets):
    width = targets.map_size[1]
    assert len(targets) == golden.tensor("target/mask_target").sum()
    assert torch.equal(targets.cells @ torch.tensor([1, width]), slots(golden, "indices"))
    bins, residuals = monocon.encode_heading(targets.alpha)
    assert torch.equal(bins, slots(golden, "alpha_cls_target").long())
    for value, name in [
        (targets.sizes, "wh_target"),
        (targets.centres - targets.cells, "offset_target"),
        (targets.depth, "depth_target"),
        (residuals, "alpha_offset_target"),
    ]:
        torch.testing.assert_close(value, slots(golden, name), rtol=0, atol=1e-5)
    torch.testing.assert_close(targets.dimensions, slots(golden, "dim_target")[:, SIZES])


def test_targets_of_keypoints(golden, targets):
    width = targets.map_size[1]
    mask = slots(golden, "mask_center2kpt_offset")[:, COORDINATES].bool().view(-1, 9, 2)
    assert torch.equal(targets.keypoint_mask, mask[..., 0])
    relative = (targets.keypoints - targets.cells[:, None]).where(mask, 0).flatten(1)
    expected = slots(golden, "center2kpt_offset_target")[:, COORDINATES]
    torch.testing.assert_close(relative, expected, rtol=0, atol=1e-5)

    on_map = slots(golden, "mask_kpt_heatmap_offset")[:, COORDINATES].bool().view(-1, 9, 2)
    assert torch.equal(targets.keypoint_on_map, on_map[..., 0])
    expected = slots(golden, "kpt_heatmap_offset_target")[:, COORDINATES]
    torch.testing.assert_close(targets.keypoint_offsets.flatten(1), expected, rtol=0, atol=1e-5)
    index = targets.keypoint_cells @ torch.tensor([1, width])
    assert torch.equal(index, slots(golden, "indices_kpt")[:, KEYPOINTS])


# --- Losses and gradients


@pytest.mark.parametrize("official, ours", OFFICIAL_TERMS.items())
def test_loss_term(model, features, golden, targets, official, ours):
    with torch.no_grad():
        value = losses(model.box3d_head, predict(model.box3d_head, features), targets)[ours]
    assert value.item() == pytest.approx(float(golden.arrays[f"loss/loss_{official}"]), rel=1e-4)


def test_train_mode(model, golden, targets, train_mode, relative_error):
    """Loss terms, outputs, and the running statistics after one pass."""
    with train_mode(model), torch.no_grad():
        features = model.neck(model.backbone(golden.images))
        terms = losses(model.box3d_head, model.box3d_head(features), targets)
        after = model.state_dict()
        names, expected = (golden.arrays[f"train/bn_after/{x}"] for x in ("names", "norm_sum"))
        for name, (norm, total) in zip(names, expected, strict=True):
            ours = rename_monocon(str(name))
            if ours is None:
                continue  # of a layer that is never used
            assert after[ours].norm().item() == pytest.approx(norm, rel=1e-3), name
            assert after[ours].sum().item() == pytest.approx(total, rel=1e-3, abs=1e-3 * norm), name
    for official, ours in OFFICIAL_TERMS.items():
        expected = float(golden.arrays[f"train_loss/loss_{official}"])
        assert terms[ours].item() == pytest.approx(expected, rel=1e-3), official
    assert relative_error(features[..., ::4, ::4], golden.arrays["train/feat_sub4"]) < 1e-3


TRAIN_OUTPUTS = {
    "center_heatmap_pred": "heatmap_head",
    "kpt_heatmap_pred": "kpt_heatmap_head",
    "wh_pred": "wh_head",
    "offset_pred": "offset_head",
    "kpt_heatmap_offset_pred": "kpt_heatmap_offset_head",
    "center2kpt_offset_pred": "center2kpt_offset_head",
    "dim_pred": "dim_head",
    "depth_pred": "depth_head",
    "alpha_cls_pred": "dir_cls",
    "alpha_offset_pred": "dir_reg",
}


def test_train_mode_outputs(model, golden, train_mode, relative_error):
    with train_mode(model), torch.no_grad():
        features = model.neck(model.backbone(golden.images))
        outputs = raw_outputs(model.box3d_head, features)
    for recorded, official in TRAIN_OUTPUTS.items():
        output = outputs[official][..., ::4, ::4]
        if "heatmap_pred" in recorded:
            output = output.sigmoid().clamp(1e-4, 1 - 1e-4)
        elif recorded == "depth_pred":
            output[:, 0] = inverse_sigmoid_depth(output[:, 0], monocon.DEPTH_EPS)
        expected = in_our_order(official, golden.arrays[f"train/{recorded}_sub4"])
        assert relative_error(output, expected) < 1e-3, recorded


class TotalLoss(nn.Module):
    """The official total as a module: gradients can be taken at official weights."""

    def __init__(self, model, targets):
        super().__init__()
        self.model, self.targets = model, targets

    def forward(self, images):
        features = self.model.neck(self.model.backbone(images))
        predictions = predict(self.model.box3d_head, features)
        terms = losses(self.model.box3d_head, predictions, self.targets)
        return sum(terms.values()), features, predictions


def test_gradients_at_every_official_weight(model, golden, targets):
    weights = {
        name: value.clone().requires_grad_(value.is_floating_point() and "running" not in name)
        for name, value in golden.state.items()
    }
    state = {f"model.{name}": value for name, value in convert_monocon(weights).items()}
    total, features, _ = functional_call(TotalLoss(model, targets), state, golden.images)
    assert total.item() == pytest.approx(float(golden.arrays["loss/total"]), rel=1e-4)
    features.retain_grad()
    total.backward()
    norm, _, largest = golden.arrays["grad/neck"]
    assert features.grad.norm().item() == pytest.approx(norm, rel=1e-4)
    assert features.grad.abs().max().item() == pytest.approx(largest, rel=1e-4)
    expected = dict(
        zip(golden.arrays["param_grad/names"], golden.arrays["param_grad/norm_sum"], strict=True)
    )
    for name, (norm, total) in expected.items():
        gradient = weights[name].grad
        if gradient is None:
            assert norm == 0 and rename_monocon(name) is None, name
            continue
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-6), name
        slack = 1e-3 * norm * gradient.numel() ** 0.5 + 1e-6
        assert gradient.sum().item() == pytest.approx(total, abs=slack), name


def test_gradients_at_raw_outputs(model, features, golden, targets, monkeypatch):
    """Read from dense maps here: two readers of a cell add up there."""
    maps = {}

    def read_densely(hidden, readout, image_index, cells):
        key = id(readout)
        if key not in maps:
            maps[key] = readout(hidden)
            maps[key].retain_grad()
        return maps[key][image_index, :, cells[:, 1], cells[:, 0]]

    monkeypatch.setattr(monocon, "_read", read_densely)
    head = model.box3d_head
    predictions = predict(head, features)
    dense = {"heatmap_head": predictions.heatmap, "kpt_heatmap_head": predictions.keypoint_heatmap}
    dense["dir_feat"] = predictions.hidden["heading"]
    for value in dense.values():
        value.retain_grad()
    sum(losses(head, predictions, targets).values()).backward()
    gradients = {name: value.grad for name, value in dense.items()}
    for official, (ours, _) in HEADS.items():
        if official not in gradients:
            gradients[official] = maps[id(head.get_submodule(ours)[-1])].grad
    centre, corners = (maps[id(x)].grad for x in (head.offset_3d[-1], head.auxiliary["corners"]))
    gradients["center2kpt_offset_head"] = torch.cat([corners, centre], dim=1)
    gradients["dir_cls"], gradients["dir_reg"] = maps[id(head.heading[-1])].grad.chunk(2, dim=1)
    for official, gradient in gradients.items():
        norm, total, largest = golden.arrays[f"grad/{official}"]
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-4), official
        assert gradient.sum().item() == pytest.approx(total, abs=1e-3 * norm), official
        assert gradient.abs().max().item() == pytest.approx(largest, rel=1e-4), official
    model.zero_grad()


# --- Detections


@pytest.fixture(scope="module")
def detections(model, features, golden):
    head = model.box3d_head
    head.score_threshold, threshold = -1.0, head.score_threshold
    cameras = Camera(golden.tensor("calib/P2"))
    image_sizes = [(int(h), int(w)) for h, w in golden.arrays["calib/ori_shape"]]
    with torch.no_grad():
        result = head.inference(
            head(features), cameras, torch.eye(2, 3).expand(2, 2, 3), image_sizes
        )
    head.score_threshold = threshold
    return result


def test_detections(detections, golden):
    for image, boxes2d, boxes3d, labels in zip(
        detections,
        *(golden.arrays[f"decode/{name}"] for name in ("boxes_2d", "boxes_3d", "labels")),
        strict=True,
    ):
        assert image.pred_classes.tolist() == np.array(CLASSES)[labels].tolist()
        location, dimensions, yaw = image.pred_boxes3d.to_kitti()
        for value, expected in [
            (image.pred_boxes.tensor, boxes2d[:, :4]),
            (image.scores, boxes2d[:, 4]),
            (location, boxes3d[:, :3]),
            (dimensions, boxes3d[:, 3:6][:, SIZES]),
            (wrap_angle(yaw - torch.tensor(boxes3d[:, 6])), np.zeros(30)),
        ]:
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-3)


def test_alpha_of_detections(detections, golden):
    """From yaw and position; the official rows lack boxes that project outside the image."""
    rows = torch.tensor(golden.arrays["decode/kitti"]).float()
    assert len(rows) > 50
    for index, image in enumerate(detections):
        expected = rows[rows[:, 0] == index]
        location, _, _ = image.pred_boxes3d.to_kitti()
        nearest = (expected[:, None, 10:13] - location).norm(dim=2).min(dim=1)
        assert nearest.values.max() < 1e-3
        error = wrap_angle(image.pred_alpha[nearest.indices] - expected[:, 2])
        assert error.abs().max() < 1e-3 < math.pi
