"""Labels → targets → predictions → detections gives the labels back, on crops too; few objects or none."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn

from qiml.config import load_config
from qiml.data.kitti import load_kitti_format
from qiml.errors import ConfigError
from qiml.losses.heading import NUM_BINS, encode_heading
from qiml.modeling.box3d.centre_head import CentrePredictions
from qiml.modeling.box3d.gupnet import ROI_CHANNELS, GUPNetHead
from qiml.modeling.targets import flatten_objects, render_heatmap
from qiml.structures.boxes3d import rotation_y_to_alpha, wrap_angle
from qiml.structures.camera import Camera

MAP = (24, 80)
MEAN_SIZES = [[1.7, 0.6, 0.8], [1.5, 1.6, 3.9], [1.7, 0.6, 1.8]]
LOG_VARIANCE = -6.0


@pytest.fixture
def head():
    torch.manual_seed(0)
    return GUPNetHead(
        8, hidden_channels=8, num_classes=3, stride=4, top_k=10, score_threshold=0.5,
        mean_sizes=MEAN_SIZES, roi_size=7,
    )  # fmt: skip


@pytest.fixture
def labels(kitti_folder, read_samples):
    """Function (flip, crop) -> [(sample, its targets)], one image each."""

    def read(flip=0.0, crop=0.0):
        samples = read_samples(kitti_folder(), crop_depth="metric", flip=flip, crop=crop)
        return [(sample, flatten_objects([sample["instances"]], 4, MAP)) for sample in samples]

    return read


def perfect_2d(targets):
    boxes = targets.boxes2d
    return {
        "offset_2d": (boxes[:, :2] + boxes[:, 2:]) / 2 - targets.cells,
        "size_2d": boxes[:, 2:] - boxes[:, :2],
    }


def perfect_3d(frame, targets):
    """What the second stage's branches should say, from the *original* image's camera and boxes.

    Nothing of it depends on how the image was cropped.
    """
    labels = {annotation["category_id"]: annotation for annotation in frame["annotations"]}
    labels = [labels[int(c)] for c in targets.classes]
    heights = torch.tensor([a["bbox"][3] - a["bbox"][1] for a in labels])
    sizes = torch.tensor([a["box3d"][3:6] for a in labels])
    focal_length = frame["camera"][1][1]
    lacking = torch.tensor([a["box3d"][2] for a in labels]) - focal_length * sizes[:, 0] / heights
    assert (lacking > 0).all()
    columns = targets.boxes2d[:, [0, 2]].mean(dim=1, keepdim=True) * 4
    alpha = rotation_y_to_alpha(targets.yaw, targets.cameras.ray_angle(columns).squeeze(1))
    bins, residuals = encode_heading(alpha)
    rows = torch.arange(len(targets))
    heading = torch.zeros(len(targets), 2 * NUM_BINS)
    heading[rows, bins], heading[rows, NUM_BINS + bins] = 50.0, residuals
    means = torch.tensor(MEAN_SIZES)[targets.classes]
    constant = torch.full((len(targets), 1), LOG_VARIANCE)
    return {
        "size_3d": torch.cat([sizes - means, constant], dim=1),
        # sigmoid(raw) = 1 / (lacking + 1)
        "depth": torch.cat([-torch.log(lacking)[:, None], constant], dim=1),
        "offset_3d": targets.projected_centres - targets.cells,
        "heading": heading,
    }


class ByClass(nn.Module):
    """A branch that says what is written down for the class in its input's last channels."""

    def __init__(self, targets, values):
        super().__init__()
        self.order, self.values = targets.classes.argsort(), values

    def forward(self, regions):
        return self.values[self.order][regions[:, -3:, 0, 0].argmax(dim=1)]


class Always(nn.Module):
    """A branch that says the same of every region."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def forward(self, regions):
        return self.values.expand(len(regions), -1)


@pytest.fixture
def say(head, at_cells, monkeypatch):
    """Function (frame, targets): make the head's branches say the labels of one image."""

    def perfect(frame, targets):
        monkeypatch.setattr(head, "regress", at_cells(targets, perfect_2d(targets)))
        for name, values in perfect_3d(frame, targets).items():
            setattr(head, name, ByClass(targets, values))

    return perfect


@pytest.fixture
def frames(kitti_folder):
    return load_kitti_format(kitti_folder(), "train")


def detect(head, sample, targets):
    heatmap = render_heatmap(targets, 3).logit(eps=1e-5)
    (detections,) = head.inference(
        CentrePredictions(heatmap, torch.zeros(1, 8, *MAP)),
        Camera(sample["camera"][None]),
        sample["affine"][None],
        [(sample["height"], sample["width"])],
    )
    return detections


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("crop", [0.0, 1.0])
def test_labels_encoded_as_predictions_decode_to_themselves(head, labels, frames, say, flip, crop):
    for frame, (sample, targets) in zip(frames, labels(flip, crop), strict=True):
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
        assert (sigma > math.exp(LOG_VARIANCE / 2)).all()  # and the doubt about the height
        torch.testing.assert_close(found.scores, (1 - 1e-4) * torch.exp(-sigma))


def test_perfect_predictions_cost_nothing(head, labels, frames, say):
    sample, targets = labels(crop=1.0)[0]
    say(frames[0], targets)
    losses = head.losses(
        CentrePredictions(torch.zeros(1, 3, *MAP), torch.zeros(1, 8, *MAP)), targets
    )
    # What is left of size and depth is log σ, a third of it of the height.
    assert losses.pop("loss_size_3d").item() == pytest.approx(LOG_VARIANCE / 6, abs=1e-3)
    sigma = detect(head, sample, targets).pred_depth_sigma
    assert losses.pop("loss_depth").item() == pytest.approx(sigma.log().mean().item(), abs=0.05)
    losses.pop("loss_heatmap")
    assert all(loss < 1e-4 for loss in losses.values()), losses


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


# --- What is left out


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


def test_image_without_peaks(head):
    predictions = CentrePredictions(torch.full((2, 3, 6, 8), -9.0), torch.zeros(2, 8, 6, 8))
    camera = Camera(torch.eye(3, 4).expand(2, 3, 4))
    detections = head.eval().inference(
        predictions, camera, torch.eye(2, 3).expand(2, 2, 3), [(24, 32)] * 2
    )
    assert [len(image) for image in detections] == [0, 0]


@pytest.mark.parametrize("sizes", ["[[1.0, 1.0, 1.0]]", "[[1, 1, 1], [1, 1, 1], [1, 1]]"])
def test_mean_sizes_that_do_not_fit(sizes):
    cfg = load_config("", ["MODEL.BOX3D_HEAD.MEAN_SIZES", sizes])
    with pytest.raises(ConfigError, match=r"^MODEL\.BOX3D_HEAD\.MEAN_SIZES: found"):
        GUPNetHead(cfg, ShapeSpec(channels=8, stride=4))
