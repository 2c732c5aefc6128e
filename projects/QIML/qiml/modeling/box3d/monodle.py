"""MonoDLE's 3D box head: everything is regressed at the projected 3D centre.

    ┌ heatmap    Conv3×3 ─ ReLU ─ Conv1×1 → classes        every cell
    ├ offset_2d                           → 2D-box centre − cell          ┐
    ├ size_2d                             → 2D-box width, height          │
    ├ offset_3d                           → projected centre − cell       │ only at objects:
    ├ depth                               → inverse-sigmoid z, log σ      │ true cells in training,
    ├ size_3d                             → h, w, l in metres             │ heat-map peaks at inference
    └ heading                             → 12 bins, 12 residuals (alpha) ┘

Source: Ma et al., Delving into Localization Errors for Monocular 3D Object Detection (CVPR 2021);
official code `lib/models/centernet3d.py`, `lib/losses/centernet_loss.py`, `lib/helpers/decode_helper.py`.
"""

from dataclasses import dataclass

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from qiml.losses import (
    dimension_aware_l1_loss,
    heading_loss,
    heatmap_focal_loss,
    laplacian_uncertainty_loss,
)
from qiml.losses.heading import NUM_BINS, decode_heading
from qiml.losses.reduction import global_mean
from qiml.modeling.box3d.build import BOX3D_HEAD_REGISTRY
from qiml.modeling.branches import conv_branch, heatmap_branch
from qiml.modeling.decode import (
    boxes_of_the_original,
    detections_by_image,
    find_peaks,
    inverse_sigmoid_depth,
)
from qiml.modeling.sampling import apply_at_windows, gather_windows
from qiml.modeling.targets import ObjectTargets, render_heatmap
from qiml.structures.boxes3d import Boxes3D, alpha_to_rotation_y
from qiml.structures.camera import Camera

REGRESSION_CHANNELS = {
    "offset_2d": 2,
    "size_2d": 2,
    "depth": 2,
    "offset_3d": 2,
    "size_3d": 3,
    "heading": 2 * NUM_BINS,
}


@dataclass(frozen=True)
class MonoDLEPredictions:
    """What the head computes everywhere, and what it needs to compute the rest at objects.

    Attributes:
        heatmap: (B, classes, H, W) logits.
        features: (B, C, H, W) neck output.
    """

    heatmap: Tensor
    features: Tensor


@BOX3D_HEAD_REGISTRY.register()
class MonoDLEHead(nn.Module):
    """MonoDLE's head.

    Args:
        in_channels: channels of the neck's map.
        hidden_channels: width of every branch.
        num_classes: heat maps.
        stride: input pixels per cell.
        top_k: peaks decoded per image.
        score_threshold: least heat-map probability of a detection, before the depth confidence
            is multiplied in.
    """

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
        self.heatmap = heatmap_branch(in_channels, hidden_channels, num_classes)
        for name, channels in REGRESSION_CHANNELS.items():
            self.add_module(name, conv_branch(in_channels, hidden_channels, channels))

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

    def forward(self, features: Tensor) -> MonoDLEPredictions:
        """Neck output (B, C, H, W) to predictions; the regression branches wait for their cells."""
        return MonoDLEPredictions(self.heatmap(features), features)

    def regress(self, features: Tensor, image_index: Tensor, cells: Tensor) -> dict[str, Tensor]:
        """Regression branches at M cells: {name: (M, channels)} in float32."""
        windows = gather_windows(features, image_index, cells, size=3)
        branches = [self.get_submodule(name) for name in REGRESSION_CHANNELS]
        outputs = apply_at_windows(branches, windows)
        return {name: y.float() for name, y in zip(REGRESSION_CHANNELS, outputs, strict=True)}

    def losses(self, predictions: MonoDLEPredictions, targets: ObjectTargets) -> dict[str, Tensor]:
        """Seven terms of weight 1; depth, offset_3d and size_3d only where `targets.has_3d`."""
        heatmap = render_heatmap(targets, self.num_classes)
        at_objects = self.regress(predictions.features, targets.image_index, targets.cells)
        regression = self.regression_losses(at_objects, targets)
        return {"loss_heatmap": heatmap_focal_loss(predictions.heatmap, heatmap), **regression}

    def regression_losses(
        self, at_objects: dict[str, Tensor], targets: ObjectTargets
    ) -> dict[str, Tensor]:
        """The six terms read at objects.

        Args:
            at_objects: {name: (M, channels)} of :meth:`regress` at `targets.cells`.
            targets: M objects.
        """
        boxes, cells, has_3d = targets.boxes2d, targets.cells, targets.has_3d
        offset_2d = (boxes[:, :2] + boxes[:, 2:]) / 2 - cells
        offset_3d = targets.projected_centres - cells
        depth, log_sigma = at_objects["depth"][has_3d].unbind(dim=1)
        return {
            "loss_offset_2d": global_mean((at_objects["offset_2d"] - offset_2d).abs()),
            "loss_size_2d": global_mean(
                (at_objects["size_2d"] - (boxes[:, 2:] - boxes[:, :2])).abs()
            ),
            "loss_heading": heading_loss(at_objects["heading"], targets.alpha),
            "loss_offset_3d": global_mean((at_objects["offset_3d"] - offset_3d)[has_3d].abs()),
            "loss_depth": laplacian_uncertainty_loss(
                inverse_sigmoid_depth(depth), targets.depth[has_3d], log_sigma
            ),
            "loss_size_3d": dimension_aware_l1_loss(
                at_objects["size_3d"][has_3d], targets.dimensions[has_3d]
            ),
        }

    def inference(
        self,
        predictions: MonoDLEPredictions,
        cameras: Camera,
        affines: Tensor,
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """Detections of every image, in pixels of the original image and metres of its camera frame.

        Args:
            predictions: of B images.
            cameras: (B, 3, 4) cameras of the network's *input* images.
            affines: (B, 2, 3) original pixels → input pixels.
            image_sizes: (height, width) of the original images.

        Returns:
            Per image: pred_boxes, scores (heat · e^(−s)), pred_classes, pred_boxes3d,
            pred_depth_sigma (metres, e^s), pred_alpha; best heat-map score first.
        """
        peaks = find_peaks(predictions.heatmap, self.top_k)
        at_peaks = self.regress(predictions.features, peaks.image_index, peaks.cells)
        depth, log_sigma = at_peaks["depth"].unbind(dim=1)
        depth = inverse_sigmoid_depth(depth)
        centres = (peaks.cells + at_peaks["offset_3d"]) * self.stride
        camera = Camera(cameras.projection[peaks.image_index].to(centres))
        position = camera.back_project(centres[:, None], depth[:, None]).squeeze(1)
        alpha = decode_heading(at_peaks["heading"])
        yaw = alpha_to_rotation_y(alpha, camera.ray_angle(centres[:, :1]).squeeze(1))
        boxes3d = torch.cat([position, at_peaks["size_3d"], yaw[:, None]], dim=1)

        boxes2d = boxes_of_the_original(
            (peaks.cells + at_peaks["offset_2d"]) * self.stride,
            at_peaks["size_2d"] * self.stride,
            peaks.image_index,
            affines,
        )
        return detections_by_image(
            peaks.image_index,
            peaks.scores >= self.score_threshold,
            image_sizes,
            pred_boxes=Boxes(boxes2d),
            scores=peaks.scores * torch.exp(-log_sigma),
            pred_classes=peaks.classes,
            pred_boxes3d=Boxes3D(boxes3d),
            pred_depth_sigma=log_sigma.exp(),
            pred_alpha=alpha,
        )
