"""Labels → targets → predictions → detections gives the labels back; contexts train and then go."""

import numpy as np
import pytest
import torch

from qiml.modeling.box3d import head_for_inference
from qiml.modeling.box3d.monocon import MonoConHead, MonoConPredictions
from qiml.modeling.box3d.monocon_targets import flatten_labels
from qiml.modeling.targets import flatten_objects
from qiml.structures.boxes3d import wrap_angle
from qiml.structures.camera import Camera, invert_affine

MAP = (24, 80)
TERMS = {
    "loss_heatmap", "loss_offset_2d", "loss_size_2d", "loss_heading_bin", "loss_heading_residual",
    "loss_depth", "loss_size_3d", "loss_keypoints", "loss_keypoint_heatmap", "loss_keypoint_offset",
}  # fmt: skip


@pytest.fixture
def head():
    torch.manual_seed(0)
    return MonoConHead(8, hidden_channels=8, num_classes=3, stride=4, top_k=10, score_threshold=0.9)


@pytest.fixture
def perfect_regression(encode_regression):
    """What the branches should say at the objects' cells."""

    def encode(targets):
        return encode_regression(
            targets,
            centres=targets.centres,
            sizes=targets.sizes,
            projected_centres=targets.keypoints[:, -1],
        )

    return encode


def labels_of(batch):
    return flatten_labels([x["instances"] for x in batch], 4, MAP)


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_labels_encoded_as_predictions_decode_to_themselves(
    head, kitti_folder, read_samples, perfect_regression, at_cells, monkeypatch, flip, shift
):
    batch = read_samples(kitti_folder(), flip=flip, shift=shift, shift_pixels=10)
    targets = labels_of(batch)
    assert len(targets) == 6
    monkeypatch.setattr(head, "regress", at_cells(targets, perfect_regression(targets)))
    heatmap = targets.render_heatmap(3).logit(eps=1e-5)
    affines = torch.stack([x["affine"] for x in batch])
    detections = head.inference(
        MonoConPredictions(heatmap, {}, None),
        Camera(torch.stack([x["camera"] for x in batch])),
        affines,
        [(x["height"], x["width"]) for x in batch],
    )
    for image, sample, affine in zip(detections, batch, affines, strict=True):
        truth = sample["instances"]
        order, true_order = image.pred_classes.argsort(), truth.gt_classes.argsort()
        image, truth = image[order], truth[true_order]
        assert torch.equal(image.pred_classes, truth.gt_classes)
        error = image.pred_boxes3d.tensor - truth.gt_boxes3d.tensor
        assert error[:, :6].abs().max() < 1e-3
        assert wrap_angle(error[:, 6]).abs().max() < 1e-4
        # The label's own alpha is rounded to two decimals.
        assert wrap_angle(image.pred_alpha - truth.gt_boxes3d.alpha).abs().max() < 1e-4
        inverse = invert_affine(affine)
        corners = truth.gt_boxes.tensor.reshape(-1, 2, 2) @ inverse[:, :2].T + inverse[:, 2]
        torch.testing.assert_close(image.pred_boxes.tensor, corners.flatten(1), rtol=0, atol=1e-3)
        torch.testing.assert_close(image.pred_depth_sigma, torch.full((3,), np.exp(-3.0)).float())
        torch.testing.assert_close(image.scores, torch.full((3,), (1 - 1e-4) * np.exp(3.0)).float())


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_keypoints_are_where_the_input_camera_sees_the_box(kitti_folder, read_samples, flip, shift):
    batch = read_samples(kitti_folder(), flip=flip, shift=shift, shift_pixels=10)
    targets = labels_of(batch)
    keypoints = iter(targets.keypoints)
    for sample in batch:
        boxes, camera = sample["instances"].gt_boxes3d, Camera(sample["camera"])
        pixels, _ = camera.project(boxes.corners())
        for own in pixels:
            torch.testing.assert_close(next(keypoints)[:8] * 4, own, rtol=0, atol=2e-3)
        # Unshifted labels' 2D boxes are the hulls of their key points.
    if not shift:
        hull = torch.cat([targets.keypoints.amin(dim=1), targets.keypoints.amax(dim=1)], dim=1)
        torch.testing.assert_close(hull, targets.boxes2d, rtol=0, atol=5e-3)
    assert targets.keypoint_mask.all()


def test_keypoints_are_float32_under_autocast(kitti_folder, read_samples):
    batch = read_samples(kitti_folder())
    with torch.autocast("cpu", torch.bfloat16):
        targets = labels_of(batch)
    assert torch.equal(targets.keypoints, labels_of(batch).keypoints)


def test_perfect_predictions_cost_nothing(head, kitti_folder, read_samples, perfect_regression):
    targets = labels_of(read_samples(kitti_folder())[:1])
    losses = head.regression_losses(perfect_regression(targets), targets)
    assert losses.pop("loss_depth").item() == pytest.approx(-3, abs=0.05)  # log σ alone is left
    # Eleven of twelve sigmoids say no where they are given 0, not −50.
    assert losses.pop("loss_heading_bin").item() == pytest.approx(11 / 12 * np.log(2), rel=1e-4)
    assert all(loss < 1e-5 for loss in losses.values()), losses
    losses = head.auxiliary_losses(
        targets.render_keypoint_heatmap().logit(eps=1e-6),
        targets.keypoints - targets.cells[:, None],
        targets.keypoint_offsets,
        targets,
    )
    assert losses["loss_keypoints"] == losses["loss_keypoint_offset"] == 0
    assert losses["loss_keypoint_heatmap"] < 0.5  # the flanks of the Gaussians


def test_objects_without_3d_supervision_have_no_key_points(head, kitti_folder, read_samples):
    instances = [x["instances"] for x in read_samples(kitti_folder())]
    for image in instances:
        image.gt_has_3d[1:] = False

    def losses(targets):
        predictions = [torch.full((len(targets), 9, 2), 0.1) for _ in range(2)]
        heatmap = targets.render_keypoint_heatmap()
        return head.auxiliary_losses(torch.zeros_like(heatmap), *predictions, targets)

    both = losses(flatten_labels(instances, 4, MAP))
    assert both == losses(flatten_labels([image[:1] for image in instances], 4, MAP))
    assert both["loss_keypoint_offset"] > 0


def test_objects_whose_3d_centre_is_outside_train_too(kitti_folder, read_samples):
    """Their 2D box's centre is inside; points behind the camera are not supervised."""
    instances = [x["instances"] for x in read_samples(kitti_folder())]
    for image in instances:
        image.gt_projected_centres[0] = -100
        image.gt_boxes3d.tensor[1, 2] = 0.2  # half of it behind the camera
    targets = flatten_objects(instances, 4, MAP)
    assert len(targets) == 4
    own = flatten_labels(targets.instances, 4, MAP)
    assert len(own) == 6
    assert own.keypoint_mask[1].any() and not own.keypoint_mask[1].all()
    assert own.keypoints.isfinite().all()


@pytest.mark.parametrize("kind", ["ordinary", "empty", "cropped", "one image"])
def test_losses_and_gradients_are_finite(head, kitti_folder, read_samples, kind):
    instances = [x["instances"] for x in read_samples(kitti_folder())]
    if kind == "empty":
        instances = [image[:0] for image in instances]
    elif kind == "one image":
        instances = instances[:1]
    elif kind == "cropped":
        for image in instances:
            image.gt_has_3d[:] = False
    features = torch.randn(len(instances), 8, *MAP, requires_grad=True)
    losses = head.train().losses(head(features), flatten_objects(instances, 4, MAP))
    assert losses.keys() == TERMS
    assert all(loss.isfinite() for loss in losses.values()), losses
    sum(losses.values()).backward()
    for name, parameter in head.named_parameters():
        # Every one has a gradient: several workers would wait for ever for one that never comes.
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    of_3d = {"loss_depth", "loss_size_3d", "loss_keypoints"}
    for name in of_3d:
        assert (losses[name] != 0) == (kind in ("ordinary", "one image")), name
    if kind == "cropped":
        assert all(losses[name] > 0 for name in ("loss_size_2d", "loss_heading_bin"))


def test_predicted_sizes_near_zero_cost_a_finite_loss(head, kitti_folder, read_samples):
    """As an untrained head's are."""
    targets = labels_of(read_samples(kitti_folder()))
    values = {name: torch.zeros(6, n) for name, n in (("offset_2d", 2), ("size_2d", 2), ("depth", 2),
              ("size_3d", 3), ("heading", 24))}  # fmt: skip
    values["size_3d"].requires_grad_()
    loss = head.regression_losses(values, targets)["loss_size_3d"]
    loss.backward()
    assert loss.item() == pytest.approx(targets.dimensions.mean().item(), rel=1e-4)
    gradient = values["size_3d"].grad
    assert gradient.isfinite().all() and (gradient < 0).all()  # all too small


def test_auxiliary_parts_are_gone_at_inference(head):
    head.eval()
    called = []
    for part in head.auxiliary.modules():
        part.register_forward_hook(lambda *_: called.append(1))
    features = torch.randn(2, 8, *MAP)
    arguments = (
        Camera(torch.eye(3, 4).expand(2, 3, 4)),
        torch.eye(2, 3).expand(2, 2, 3),
        [MAP] * 2,
    )
    head.score_threshold = 0.0
    slim = head_for_inference(head)
    with torch.no_grad():
        whole, lean = (h.inference(h(features), *arguments) for h in (head, slim))
    assert not called
    for image, expected in zip(lean, whole, strict=True):
        assert len(image) == 10
        assert torch.equal(image.pred_boxes3d.tensor, expected.pred_boxes3d.tensor)
    names = {name for name, _ in slim.named_parameters()}
    own = dict(head.named_parameters())
    assert own.keys() - names == {name for name in own if name.startswith("auxiliary.")} != set()
    assert all(own[name] is parameter for name, parameter in slim.named_parameters())
    assert head.auxiliary is not None and slim.auxiliary is None


def test_the_threshold_is_of_the_product(head, monkeypatch):
    heatmap = torch.full((1, 3, 6, 8), -9.0)
    heatmap[0, 1, 2, 2] = heatmap[0, 2, 4, 6] = 5.0  # probability 0.993
    values = {name: torch.zeros(2, n) for name, n in (("offset_2d", 2), ("size_2d", 2), ("depth", 2),
              ("offset_3d", 2), ("size_3d", 3), ("heading", 24))}  # fmt: skip

    def regress(_predictions, image_index, cells):
        zeros = {name: value[:1].expand(len(cells), -1).clone() for name, value in values.items()}
        zeros["depth"][:, 1] = torch.where(cells[:, 0] == 2, 0.05, 0.2)  # log σ
        return zeros

    monkeypatch.setattr(head, "regress", regress)
    camera = Camera(torch.tensor([[[180.0, 0, 16, 0], [0, 180, 12, 0], [0, 0, 1, 0]]]))
    predictions = MonoConPredictions(heatmap, {}, None)
    (image,) = head.inference(predictions, camera, torch.eye(2, 3)[None], [(24, 32)])
    assert image.pred_classes.tolist() == [1]
    assert image.scores.item() == pytest.approx(0.9933 * np.exp(-0.05), rel=1e-3)


def test_depth_is_read_from_its_descriptors(head, kitti_folder, read_samples):
    """In the 2D boxes' middle, though the targets of all heads are at the projected centres."""
    batch = read_samples(kitti_folder())
    objects, targets = labels_of(batch), flatten_objects([x["instances"] for x in batch], 4, MAP)
    assert not torch.equal(objects.cells, targets.cells)
    torch.nn.init.normal_(head.depth[0].weight)  # it starts too small to tell cells apart
    head.eval()
    predictions = head(torch.randn(2, 8, *MAP))
    depth = head.regress(predictions, objects.image_index, objects.cells)["depth"]
    descriptors = head.depth_descriptors(predictions, targets)
    torch.testing.assert_close(descriptors @ head.depth[-1].weight.flatten(1).T, depth)
