"""GUPNet's 3D box head: depth from an object's height in metres and in pixels, with the doubt of both.

    ┌ heatmap                Conv3×3 ─ ReLU ─ Conv1×1 → classes      every cell
    ├ offset_2d, size_2d                              → 2D box       at objects
    │        │
    │   7×7 RoIAlign of that box + its coordinates in the view + its class
    │        │
    ├ size_3d    Conv3×3 ─ BN ─ ReLU ─ mean ─ Conv1×1 → h, w, l − class mean; log variance of h
    ├ depth                                           → what f · h / pixels lacks; its log variance
    ├ offset_3d                                       → projected centre − cell
    └ heading                                         → 12 bins, 12 residuals (alpha)

Depth is metric also on cropped and scaled images, since heights are measured in pixels of the original one:
train with INPUT.AUGMENTATION.CROP_DEPTH "metric".

Source: Lu et al., Geometry Uncertainty Projection Network for Monocular 3D Object Detection (ICCV 2021);
official code `lib/models/gupnet.py`, `lib/losses/loss_function.py`, `lib/helpers/decode_helper.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances
from torch import Tensor

from qiml.errors import ConfigError
from qiml.losses import heading_loss, heatmap_focal_loss, laplacian_uncertainty_loss
from qiml.losses.heading import NUM_BINS, decode_heading
from qiml.losses.reduction import global_mean
from qiml.modeling.box3d.build import BOX3D_HEAD_REGISTRY
from qiml.modeling.box3d.centre_head import CentreHead, CentrePredictions, box2d_losses
from qiml.modeling.branches import roi_branch
from qiml.modeling.decode import (
    boxes_of_the_original,
    detections_by_image,
    find_peaks,
    inverse_sigmoid_depth,
)
from qiml.modeling.roi_features import (
    COORDINATE_CHANNELS,
    class_maps,
    coordinate_maps,
    pool_regions,
)
from qiml.modeling.targets import ObjectTargets, render_heatmap
from qiml.structures.boxes3d import Boxes3D, alpha_to_rotation_y, rotation_y_to_alpha
from qiml.structures.camera import Camera

REGRESSION_CHANNELS = {"offset_2d": 2, "size_2d": 2}
ROI_CHANNELS = {"size_3d": 4, "depth": 2, "offset_3d": 2, "heading": 2 * NUM_BINS}


@dataclass(frozen=True)
class Objects3D:
    """What the second stage says about M objects.

    Attributes:
        depth: (M,) metres.
        depth_log_variance: (M,) of a Laplace distribution, log of square metres.
        dimensions: (M, 3) h, w, l in metres.
        height_log_variance: (M,) of h, as that of the depth.
        offset_3d: (M, 2) projected centre − cell, in cells.
        heading: (M, 24) 12 bin logits, 12 residuals.
    """

    depth: Tensor
    depth_log_variance: Tensor
    dimensions: Tensor
    height_log_variance: Tensor
    offset_3d: Tensor
    heading: Tensor


@BOX3D_HEAD_REGISTRY.register()
class GUPNetHead(CentreHead):
    """GUPNet's head; the threshold is that of the final score, with the confidence in the depth.

    Args:
        in_channels: channels of the neck's map.
        hidden_channels, num_classes: as :class:`CentreHead`.
        mean_sizes: h, w, l in metres of each class; kept with the weights.
        roi_size: side of the pooled squares.
        centre: further arguments of :class:`CentreHead`.
    """

    regression_channels = REGRESSION_CHANNELS
    task_graph: ClassVar[dict[str, tuple[str, ...]]] = {
        "loss_heatmap": (),
        "loss_offset_2d": (),
        "loss_size_2d": (),
        "loss_offset_3d": ("loss_offset_2d", "loss_size_2d"),
        "loss_size_3d": ("loss_offset_2d", "loss_size_2d"),
        "loss_heading": ("loss_offset_2d", "loss_size_2d"),
        "loss_depth": ("loss_offset_2d", "loss_size_2d", "loss_size_3d"),
    }

    @configurable
    def __init__(
        self,
        in_channels: int,
        *,
        hidden_channels: int,
        num_classes: int,
        mean_sizes: Sequence[Sequence[float]],
        roi_size: int,
        **centre,
    ):
        super().__init__(
            in_channels, hidden_channels=hidden_channels, num_classes=num_classes, **centre
        )
        self.roi_size = roi_size
        self.register_buffer("mean_sizes", torch.tensor(mean_sizes, dtype=torch.float32))
        roi_channels = in_channels + COORDINATE_CHANNELS + num_classes
        for name, channels in ROI_CHANNELS.items():
            self.add_module(name, roi_branch(roi_channels, hidden_channels, channels))

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        head = cfg.MODEL.BOX3D_HEAD
        sizes = [list(size) for size in head.MEAN_SIZES]
        if len(sizes) != head.NUM_CLASSES or any(len(s) != 3 or min(s) <= 0 for s in sizes):
            raise ConfigError(
                "MODEL.BOX3D_HEAD.MEAN_SIZES",
                found=f"{sizes} with MODEL.BOX3D_HEAD.NUM_CLASSES {head.NUM_CLASSES}",
                expected="height, width and length in metres of each class",
                mend="give one (h, w, l) for every class of the data set, in its order",
            )
        base = super().from_config(cfg, input_shape)
        return {**base, "mean_sizes": sizes, "roi_size": head.ROI_SIZE}

    def boxes2d(self, at_cells: dict[str, Tensor], cells: Tensor) -> Tensor:
        """(M, 4) XYXY boxes in cells, from :meth:`regress` at cells (M, 2)."""
        centres, half = cells + at_cells["offset_2d"], at_cells["size_2d"] / 2
        return torch.cat([centres - half, centres + half], dim=1)

    def regress_3d(
        self,
        features: Tensor,
        image_index: Tensor,
        boxes: Tensor,
        classes: Tensor,
        cameras: Camera,
        affines: Tensor,
    ) -> Objects3D:
        """The second stage.

        Args:
            features: (B, C, H, W) neck output.
            image_index: (M,) int64.
            boxes: (M, 4) XYXY in cells.
            classes: (M,) int64.
            cameras: (M, 3, 4) of each object's input image.
            affines: (M, 2, 3) original pixels → input pixels of each object's image.
        """
        pixels = boxes * self.stride
        regions = torch.cat(
            [
                pool_regions(features, image_index, boxes, self.roi_size),
                coordinate_maps(pixels, cameras, self.roi_size),
                class_maps(classes, self.num_classes, self.roi_size),
            ],
            dim=1,
        )
        raw = {name: self.get_submodule(name)(regions).float() for name in ROI_CHANNELS}
        residuals, height_log_variance = raw["size_3d"].split([3, 1], dim=1)
        dimensions = self.mean_sizes[classes] + residuals
        # Both in pixels of the original image; less than one of them counts as one.
        zoom = affines[:, 1, 1]
        height_2d = ((pixels[:, 3] - pixels[:, 1]) / zoom).clamp(min=1.0)
        metres_per_metre = cameras.fy / zoom / height_2d
        bias, bias_log_variance = raw["depth"].unbind(dim=1)
        projected_log_variance = height_log_variance.squeeze(1) + 2 * metres_per_metre.log()
        return Objects3D(
            depth=dimensions[:, 0] * metres_per_metre + inverse_sigmoid_depth(bias),
            depth_log_variance=torch.logaddexp(bias_log_variance, projected_log_variance),
            dimensions=dimensions,
            height_log_variance=height_log_variance.squeeze(1),
            offset_3d=raw["offset_3d"],
            heading=raw["heading"],
        )

    def losses(self, predictions: CentrePredictions, targets: ObjectTargets) -> dict[str, Tensor]:
        """Seven terms of weight 1; depth, offset_3d and size_3d only where `targets.has_3d`.

        The second stage reads the predicted 2D boxes at the true cells.
        """
        heatmap = render_heatmap(targets, self.num_classes)
        at_objects = self.regress(predictions.features, targets.image_index, targets.cells)
        objects = self.regress_3d(
            predictions.features,
            targets.image_index,
            self.boxes2d(at_objects, targets.cells),
            targets.classes,
            targets.cameras,
            targets.affines,
        )
        return {
            "loss_heatmap": heatmap_focal_loss(predictions.heatmap, heatmap),
            **box2d_losses(at_objects, targets),
            **self.losses_3d(objects, targets),
        }

    def losses_3d(self, objects: Objects3D, targets: ObjectTargets) -> dict[str, Tensor]:
        """The four terms of the second stage's M objects.

        Alpha is the yaw seen along the ray through the 2D box's centre, as :meth:`inference` undoes it.
        """
        has_3d = targets.has_3d
        middle = targets.boxes2d[:, [0, 2]].mean(dim=1, keepdim=True) * self.stride
        alpha = rotation_y_to_alpha(targets.yaw, targets.cameras.ray_angle(middle).squeeze(1))
        offset_3d = targets.projected_centres - targets.cells
        # The official terms are in log σ² = 2 log σ.
        height_loss = laplacian_uncertainty_loss(
            objects.dimensions[has_3d, 0],
            targets.dimensions[has_3d, 0],
            objects.height_log_variance[has_3d] / 2,
        )
        width_length_error = (objects.dimensions - targets.dimensions)[has_3d, 1:].abs()
        return {
            "loss_offset_3d": global_mean((objects.offset_3d - offset_3d)[has_3d].abs()),
            "loss_size_3d": global_mean(width_length_error) * 2 / 3 + height_loss / 3,
            "loss_heading": heading_loss(objects.heading, alpha),
            "loss_depth": laplacian_uncertainty_loss(
                objects.depth[has_3d],
                targets.depth[has_3d],
                objects.depth_log_variance[has_3d] / 2,
            ),
        }

    def roi_descriptors(self, predictions: CentrePredictions, targets: ObjectTargets) -> Tensor:
        """(M, C) pooled features of the predicted 2D boxes at the true cells, averaged over the box."""
        at_objects = self.regress(predictions.features, targets.image_index, targets.cells)
        boxes = self.boxes2d(at_objects, targets.cells)
        regions = pool_regions(predictions.features, targets.image_index, boxes, self.roi_size)
        return regions.mean(dim=(2, 3))

    def inference(
        self,
        predictions: CentrePredictions,
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
            Per image: pred_boxes, scores (heat · e^(−σ)), pred_classes, pred_boxes3d, pred_depth_sigma
            (metres, σ = e^(v/2) of the log variance v), pred_alpha; best heat-map score first. Boxes with a
            negative size are left out.
        """
        peaks = find_peaks(predictions.heatmap, self.top_k)
        # The confidence is at most 1: the second stage need not look at peaks that are too low already.
        peaks = peaks[peaks.scores >= self.score_threshold]
        at_peaks = self.regress(predictions.features, peaks.image_index, peaks.cells)
        camera = Camera(cameras.projection[peaks.image_index].float())
        objects = self.regress_3d(
            predictions.features,
            peaks.image_index,
            self.boxes2d(at_peaks, peaks.cells),
            peaks.classes,
            camera,
            affines[peaks.image_index].float(),
        )
        centres = (peaks.cells + objects.offset_3d) * self.stride
        middle = (peaks.cells + at_peaks["offset_2d"]) * self.stride
        position = camera.back_project(centres[:, None], objects.depth[:, None]).squeeze(1)
        alpha = decode_heading(objects.heading)
        yaw = alpha_to_rotation_y(alpha, camera.ray_angle(middle[:, :1]).squeeze(1))
        boxes2d = boxes_of_the_original(
            middle, at_peaks["size_2d"] * self.stride, peaks.image_index, affines
        )
        sigma = torch.exp(objects.depth_log_variance / 2)
        scores = peaks.scores * torch.exp(-sigma)
        return detections_by_image(
            peaks.image_index,
            (scores >= self.score_threshold) & (objects.dimensions >= 0).all(dim=1),
            image_sizes,
            pred_boxes=Boxes(boxes2d),
            scores=scores,
            pred_classes=peaks.classes,
            pred_boxes3d=Boxes3D(torch.cat([position, objects.dimensions, yaw[:, None]], dim=1)),
            pred_depth_sigma=sigma,
            pred_alpha=alpha,
        )
