"""Labels as perfect predictions of a head with a second stage: what the tests of several heads share."""

import torch
from torch import nn

from qiml.losses.heading import NUM_BINS, encode_heading
from qiml.modeling.box3d.centre_head import CentrePredictions
from qiml.modeling.targets import render_heatmap
from qiml.structures.boxes3d import rotation_y_to_alpha
from qiml.structures.camera import Camera

MAP = (24, 80)
MEAN_SIZES = [[1.7, 0.6, 0.8], [1.5, 1.6, 3.9], [1.7, 0.6, 1.8]]
LOG_VARIANCE = -6.0


def make_head(head_class):
    torch.manual_seed(0)
    return head_class(
        8, hidden_channels=8, num_classes=3, stride=4, top_k=10, score_threshold=0.5,
        mean_sizes=MEAN_SIZES, roi_size=7,
    )  # fmt: skip


def perfect_2d(targets):
    boxes = targets.boxes2d
    return {
        "offset_2d": (boxes[:, :2] + boxes[:, 2:]) / 2 - targets.cells,
        "size_2d": boxes[:, 2:] - boxes[:, :2],
    }


def perfect_3d(frame, targets):
    """What the branches of every such head should say; sizes are residuals to the class mean.

    Sizes and distance are those of the *original* image's labels: nothing depends on how it was cropped.
    """
    sizes, _, _ = labels_of(frame, targets)
    columns = targets.boxes2d[:, [0, 2]].mean(dim=1, keepdim=True) * 4
    alpha = rotation_y_to_alpha(targets.yaw, targets.cameras.ray_angle(columns).squeeze(1))
    bins, residuals = encode_heading(alpha)
    rows = torch.arange(len(targets))
    heading = torch.zeros(len(targets), 2 * NUM_BINS)
    heading[rows, bins], heading[rows, NUM_BINS + bins] = 50.0, residuals
    return {
        "size_3d": sizes - torch.tensor(MEAN_SIZES)[targets.classes],
        "offset_3d": targets.projected_centres - targets.cells,
        "heading": heading,
    }


def labels_of(frame, targets):
    """Sizes (M, 3), depth (M,) and height in pixels (M,) of the targets' labels in the original image."""
    labels = {annotation["category_id"]: annotation for annotation in frame["annotations"]}
    labels = [labels[int(c)] for c in targets.classes]
    box3d = torch.tensor([a["box3d"] for a in labels])
    heights = torch.tensor([a["bbox"][3] - a["bbox"][1] for a in labels])
    return box3d[:, 3:6], box3d[:, 2], heights


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
        return self.values.expand(len(regions), *self.values.shape)


def detect(head, sample, targets):
    heatmap = render_heatmap(targets, 3).logit(eps=1e-5)
    (detections,) = head.inference(
        CentrePredictions(heatmap, torch.zeros(1, 8, *MAP)),
        Camera(sample["camera"][None]),
        sample["affine"][None],
        [(sample["height"], sample["width"])],
    )
    return detections
