"""What heads share: a heat map and branches; in MonoDLE's family, read at projected 3D centres."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from qiml.losses.reduction import global_mean
from qiml.modeling.branches import conv_branch, heatmap_branch
from qiml.modeling.sampling import apply_at_windows, gather_windows
from qiml.modeling.targets import ObjectTargets


@dataclass(frozen=True)
class CentrePredictions:
    """What such a head computes everywhere, and what it needs to compute the rest at objects.

    Attributes:
        heatmap: (B, classes, H, W) logits.
        features: (B, C, H, W) neck output.
    """

    heatmap: Tensor
    features: Tensor


class HeatmapHead(nn.Module):
    """A heat map whose peaks are objects, and regression branches; how these are read, the subclass says.

    Args:
        in_channels: channels of the neck's map.
        hidden_channels: width of every branch.
        num_classes: heat maps.
        stride: input pixels per cell.
        top_k: peaks decoded per image.
        score_threshold: least score of a detection; which score, the subclass says.
    """

    regression_channels: ClassVar[Mapping[str, int]]
    """Branches read at objects, "offset_2d" and "size_2d" among them, and their output channels."""

    crop_depth = "virtual"
    """See ``BOX3D_HEAD_REGISTRY``."""

    make_branch = staticmethod(conv_branch)
    make_heatmap_branch = staticmethod(heatmap_branch)

    @configurable
    def __init__(
        self,
        in_channels: int,
        *,
        hidden_channels: int,
        num_classes: int,
        stride: int,
        top_k: int,
        score_threshold: float,
    ):
        super().__init__()
        self.num_classes, self.stride = num_classes, stride
        self.top_k, self.score_threshold = top_k, score_threshold
        self.heatmap = self.make_heatmap_branch(in_channels, hidden_channels, num_classes)
        for name, channels in self.regression_channels.items():
            self.add_module(name, self.make_branch(in_channels, hidden_channels, channels))

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        head = cfg.MODEL.BOX3D_HEAD
        return {
            "in_channels": input_shape.channels,
            "hidden_channels": head.HIDDEN_CHANNELS,
            "num_classes": head.NUM_CLASSES,
            "stride": input_shape.stride,
            "top_k": head.TOP_K,
            "score_threshold": head.SCORE_THRESHOLD,
        }


class CentreHead(HeatmapHead):
    """Heat map, 2D boxes, and whatever else a subclass reads at the projected 3D centre."""

    def forward(self, features: Tensor) -> CentrePredictions:
        """Neck output (B, C, H, W) to predictions; the regression branches wait for their cells."""
        return CentrePredictions(self.heatmap(features), features)

    def regress(self, features: Tensor, image_index: Tensor, cells: Tensor) -> dict[str, Tensor]:
        """Regression branches at M cells: {name: (M, channels)} in float32."""
        windows = gather_windows(features, image_index, cells, size=3)
        branches = [self.get_submodule(name) for name in self.regression_channels]
        outputs = apply_at_windows(branches, windows)
        return dict(zip(self.regression_channels, outputs, strict=True))


def box2d_losses(at_objects: Mapping[str, Tensor], targets: ObjectTargets) -> dict[str, Tensor]:
    """L1 losses of 2D centre and size, in cells.

    Args:
        at_objects: "offset_2d" and "size_2d" (M, 2) of :meth:`CentreHead.regress`.
        targets: M objects.
    """
    boxes = targets.boxes2d
    offset = (boxes[:, :2] + boxes[:, 2:]) / 2 - targets.cells
    size = boxes[:, 2:] - boxes[:, :2]
    return {
        "loss_offset_2d": global_mean((at_objects["offset_2d"] - offset).abs()),
        "loss_size_2d": global_mean((at_objects["size_2d"] - size).abs()),
    }
