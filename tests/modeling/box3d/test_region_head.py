"""Of every head with a second stage: labels as predictions decode to themselves; few objects or none."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn

from qiml.config import load_config
from qiml.data.kitti import load_kitti_format
from qiml.errors import ConfigError
from qiml.modeling.box3d.centre_head import CentrePredictions
from qiml.modeling.box3d.did_m3d import DIDM3DHead
from qiml.modeling.box3d.gupnet import GUPNetHead
from qiml.modeling.targets import flatten_objects
from qiml.structures.boxes3d import wrap_angle
from qiml.structures.camera import Camera
from tests.modeling.box3d import test_did_m3d, test_gupnet
from tests.modeling.box3d.region_labels import MAP, ByClass, detect, make_head, perfect_2d

PERFECT_3D = {
    GUPNetHead: test_gupnet.perfect_gupnet,
    DIDM3DHead: test_did_m3d.perfect_did_m3d,
}


@pytest.fixture(params=PERFECT_3D, ids=lambda head: head.__name__)
def head(request):
    return make_head(request.param)


@pytest.fixture
def labels(kitti_folder, read_samples):
    """Function (flip, crop) -> [(frame, sample, its targets)], one image each."""

    def read(flip=0.0, crop=0.0):
        root = kitti_folder()
        samples = read_samples(root, crop_depth="metric", flip=flip, crop=crop)
        targets = [flatten_objects([sample["instances"]], 4, MAP) for sample in samples]
        return list(zip(load_kitti_format(root, "train"), samples, targets, strict=True))

    return read


@pytest.fixture
def say(head, at_cells, monkeypatch):
    """Function (frame, targets): make the head's branches say the labels of one image."""

    def perfect(frame, targets):
        monkeypatch.setattr(head, "regress", at_cells(targets, perfect_2d(targets)))
        for name, values in PERFECT_3D[type(head)](frame, targets).items():
            setattr(head, name, ByClass(targets, values))

    return perfect


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("crop", [0.0, 1.0])
def test_labels_encoded_as_predictions_decode_to_themselves(head, labels, say, flip, crop):
    for frame, sample, targets in labels(flip, crop):
        say(frame, targets)
        found, truth = detect(head, sample, targets), sample["instances"]
        assert found.image_size == (96, 320)
        order, true_order = found.pred_classes.argsort(), truth.gt_classes.argsort()
        found, truth = found[order], truth[true_order]
        assert torch.equal(found.pred_classes, truth.gt_classes)
        error = found.pred_boxes3d.tensor - truth.gt_boxes3d.tensor
        assert error[:, :6].abs().max() < 2e-3
        assert wrap_angle(error[:, 6]).abs().max() < 1e-4
        expected = torch.tensor([a["bbox"] for a in frame["annotations"]])
        expected = expected[
            torch.tensor([a["category_id"] for a in frame["annotations"]]).argsort()
        ]
        if flip:
            expected = expected[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1])
            expected += torch.tensor([320, 0, 320, 0])
        torch.testing.assert_close(found.pred_boxes.tensor, expected, rtol=0, atol=1e-3)
        sigma = found.pred_depth_sigma
        assert (sigma > 0).all()
        torch.testing.assert_close(found.scores, (1 - 1e-4) * torch.exp(-sigma))


def test_perfect_predictions_cost_nothing_but_their_doubt(head, labels, say):
    frame, _, targets = labels(crop=1.0)[0]
    say(frame, targets)
    losses = head.losses(
        CentrePredictions(torch.zeros(1, 3, *MAP), torch.zeros(1, 8, *MAP)), targets
    )
    for name in ("loss_offset_2d", "loss_size_2d", "loss_offset_3d", "loss_heading"):
        assert losses[name] < 1e-4, name


DEPTH_BRANCH = {GUPNetHead: "depth", DIDM3DHead: "visual_depth"}


@pytest.mark.parametrize("training", [True, False])
def test_depth_is_read_from_its_descriptors(head, kitti_folder, read_samples, training):
    """And running statistics take up each batch once, whether or not a metric loss looks at it again."""
    objects = [sample["instances"] for sample in read_samples(kitti_folder())]
    targets = flatten_objects(objects, 4, MAP)
    branch = head.get_submodule(DEPTH_BRANCH[type(head)])
    answers = []
    branch.register_forward_hook(lambda _module, _inputs, answer: answers.append(answer))
    predictions = head.train(training)(torch.rand(2, 8, *MAP, requires_grad=True))
    head.losses(predictions, targets)
    before = {name: value.clone() for name, value in head.named_buffers()}
    descriptors = head.depth_descriptors(predictions, targets)
    assert all(torch.equal(value, before[name]) for name, value in head.named_buffers())
    (readout,) = (layer for layer in branch[1:] if isinstance(layer, nn.Conv2d))
    answer = answers[0].flatten(2).mean(dim=2) if answers[0].ndim == 4 else answers[0]
    said = descriptors @ readout.weight.flatten(1).T + readout.bias
    torch.testing.assert_close(said, answer)
    descriptors.sum().backward()
    trained = {name for name, p in head.named_parameters() if p.grad is not None}
    assert trained and all(name.startswith(f"{DEPTH_BRANCH[type(head)]}.") for name in trained)
    assert predictions.features.grad.any()


# --- Few objects or none


def outputs_of(head, targets):
    features = torch.rand(2, 8, *MAP, requires_grad=True)
    losses = head.losses(head(features), targets)
    sum(losses.values()).backward()
    return losses


@pytest.mark.parametrize("count", [0, 1])
def test_few_objects(head, kitti_folder, read_samples, count):
    """In train mode: finite losses, gradients and statistics, a gradient for every parameter."""
    objects = [sample["instances"] for sample in read_samples(kitti_folder())]
    targets = flatten_objects([objects[0][:count], objects[1][:0]], 4, MAP)
    assert len(targets) == count
    before = {name: value.clone() for name, value in head.named_buffers()}
    losses = outputs_of(head.train(), targets)
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    for name, value in head.named_buffers():
        moved = count > 0 and name != "mean_sizes"
        assert value.isfinite().all() and torch.equal(value, before[name]) != moved, name
    if not count:
        losses.pop("loss_heatmap")
        assert all(loss == 0 for loss in losses.values())


def test_objects_without_3d_supervision_train_2d_and_heading(head, kitti_folder, read_samples):
    objects = [sample["instances"] for sample in read_samples(kitti_folder(), crop=1.0)]
    losses = outputs_of(head, flatten_objects(objects, 4, MAP))
    skipped = {name for name, loss in losses.items() if loss == 0}
    assert skipped == {"loss_offset_3d", "loss_size_3d", "loss_depth"}


def test_image_without_peaks(head):
    predictions = CentrePredictions(torch.full((2, 3, 6, 8), -9.0), torch.zeros(2, 8, 6, 8))
    camera = Camera(torch.eye(3, 4).expand(2, 3, 4))
    detections = head.eval().inference(
        predictions, camera, torch.eye(2, 3).expand(2, 2, 3), [(24, 32)] * 2
    )
    assert [len(image) for image in detections] == [0, 0]


@pytest.mark.parametrize("sizes", ["[[1.0, 1.0, 1.0]]", "[[1, 1, 1], [1, 1, 1], [1, 1]]"])
def test_mean_sizes_that_do_not_fit(head, sizes):
    with pytest.raises(ConfigError, match=r"^MODEL\.BOX3D_HEAD\.MEAN_SIZES: found"):
        cfg = load_config("", ["MODEL.BOX3D_HEAD.MEAN_SIZES", sizes])
        type(head)(cfg, ShapeSpec(channels=8, stride=4))
