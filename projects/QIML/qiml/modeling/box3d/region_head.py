"""What heads with a second stage share: 2D boxes at peaks, then 3D from what each box shows.

    ┌ heatmap                Conv3×3 ─ ReLU ─ Conv1×1 → classes      every cell
    ├ offset_2d, size_2d                              → 2D box       at objects
    │        │
    │   S×S RoIAlign of that box + its coordinates in the view + its class
    │        │
    └ branches of the subclass, among them offset_3d, size_3d and heading

Depth is metric also on cropped and scaled images, since what it is read from is measured in the original one:
train with INPUT.AUGMENTATION.CROP_DEPTH "metric".

Source: Lu et al., Geometry Uncertainty Projection Network (GUPNet, ICCV 2021); official code
`lib/models/gupnet.py`, `lib/losses/loss_function.py`, `lib/helpers/decode_helper.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Instances
from torch import Tensor

from qiml.errors import ConfigError
from qiml.losses import heading_loss, heatmap_focal_loss
from qiml.losses.heading import decode_heading
from qiml.losses.reduction import global_mean
from qiml.modeling.box3d.centre_head import CentreHead, CentrePredictions, box2d_losses
from qiml.modeling.branches import grid_branch, roi_branch
from qiml.modeling.decode import detections_at_peaks, find_peaks
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


@dataclass(frozen=True)
class Regions:
    """Where the M boxes lie that a second stage looks into.

    Attributes:
        boxes: (M, 4) XYXY in pixels of the input.
        classes: (M,) int64.
        cameras: (M, 3, 4) of each object's input image.
        affines: (M, 2, 3) original pixels → input pixels of each object's image.
    """

    boxes: Tensor
    classes: Tensor
    cameras: Camera
    affines: Tensor

    @property
    def zoom(self) -> Tensor:
        """(M,) pixels of the input per pixel of the original image."""
        return self.affines[:, 1, 1]

    @property
    def original_height(self) -> Tensor:
        """(M,) pixels of the original image; less than one counts as one."""
        return ((self.boxes[:, 3] - self.boxes[:, 1]) / self.zoom).clamp(min=1.0)


@dataclass(frozen=True, kw_only=True)
class Objects3D:
    """What the second stage says about M objects; a subclass has `depth` and `depth_sigma` (M,), metres.

    Attributes:
        dimensions: (M, 3) h, w, l in metres.
        offset_3d: (M, 2) projected centre − cell, in cells.
        heading: (M, 24) 12 bin logits, 12 residuals.
    """

    dimensions: Tensor
    offset_3d: Tensor
    heading: Tensor


class RegionHead(CentreHead):
    """A head with a second stage; a subclass says how depth and sizes are read and what they cost.

    Args:
        in_channels: channels of the neck's map.
        hidden_channels, num_classes: as :class:`CentreHead`.
        mean_sizes: h, w, l in metres of each class; kept with the weights.
        roi_size: side of the pooled squares.
        centre: further arguments of :class:`CentreHead`.
    """

    regression_channels = REGRESSION_CHANNELS
    crop_depth = "metric"
    region_channels: ClassVar[Mapping[str, int]]
    """Branches with one answer a region, "offset_3d" and "heading" among them, and their output channels."""
    grid_channels: ClassVar[Mapping[str, int]] = {}
    """Branches with an answer for each cell of the pooled square."""
    threshold_counts_depth: ClassVar[bool]
    """Whether the score threshold is of heat · confidence in the depth, or of the heat map alone."""
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
        for make, outputs in (
            (roi_branch, self.region_channels),
            (grid_branch, self.grid_channels),
        ):
            for name, channels in outputs.items():
                self.add_module(name, make(roi_channels, hidden_channels, channels))

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

    def read(self, raw: Mapping[str, Tensor], regions: Regions) -> Objects3D:
        """From the branches' outputs, in float32, to metres."""
        raise NotImplementedError

    def hidden_depth(self, seen: Tensor) -> Tensor:
        """(M, hidden, S, S) hidden layer of the branch that reads the depth, from :meth:`look`."""
        raise NotImplementedError

    def size_loss(self, objects: Objects3D, targets: ObjectTargets) -> Tensor:
        """The loss of h, w, l where `targets.has_3d`."""
        raise NotImplementedError

    def depth_loss(self, objects: Objects3D, targets: ObjectTargets) -> Tensor:
        """The loss of the depth where `targets.has_3d`."""
        raise NotImplementedError

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
        regions = Regions(boxes * self.stride, classes, cameras, affines)
        seen = self.look(features, image_index, regions)
        names = (*self.region_channels, *self.grid_channels)
        return self.read({name: self.get_submodule(name)(seen) for name in names}, regions)

    def look(self, features: Tensor, image_index: Tensor, regions: Regions) -> Tensor:
        """(M, C', S, S) what the branches see of each region; `features` and `image_index` as above."""
        return torch.cat(
            [
                pool_regions(features, image_index, regions.boxes / self.stride, self.roi_size),
                coordinate_maps(regions.boxes, regions.cameras, self.roi_size),
                class_maps(regions.classes, self.num_classes, self.roi_size),
            ],
            dim=1,
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
        middle = targets.boxes2d[:, [0, 2]].mean(dim=1, keepdim=True) * self.stride
        alpha = rotation_y_to_alpha(targets.yaw, targets.cameras.ray_angle(middle).squeeze(1))
        offset_3d = targets.projected_centres - targets.cells
        offset_error = (objects.offset_3d - offset_3d)[targets.supervised].abs()
        return {
            "loss_offset_3d": global_mean(offset_error),
            "loss_size_3d": self.size_loss(objects, targets),
            "loss_heading": heading_loss(objects.heading, alpha),
            "loss_depth": self.depth_loss(objects, targets),
        }

    def roi_descriptors(self, predictions: CentrePredictions, targets: ObjectTargets) -> Tensor:
        """(M, C) pooled features of the predicted 2D boxes at the true cells, averaged over the box."""
        boxes = self._boxes_at_objects(predictions, targets)
        regions = pool_regions(predictions.features, targets.image_index, boxes, self.roi_size)
        return regions.mean(dim=(2, 3))

    def depth_descriptors(self, predictions: CentrePredictions, targets: ObjectTargets) -> Tensor:
        """(M, hidden) float32, hidden layer of the depth branch in the same boxes, averaged over each."""
        boxes = self._boxes_at_objects(predictions, targets) * self.stride
        regions = Regions(boxes, targets.classes, targets.cameras, targets.affines)
        seen = self.look(predictions.features, targets.image_index, regions)
        return self.hidden_depth(seen).float().mean(dim=(2, 3))

    @torch.no_grad()  # where it looks is not for a metric loss to learn
    def _boxes_at_objects(self, predictions: CentrePredictions, targets: ObjectTargets) -> Tensor:
        at_objects = self.regress(predictions.features, targets.image_index, targets.cells)
        return self.boxes2d(at_objects, targets.cells)

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
            (σ, metres), pred_alpha; best heat-map score first. Boxes with a negative size are left out.
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
        scores = peaks.scores * torch.exp(-objects.depth_sigma)
        kept = (objects.dimensions >= 0).all(dim=1)
        if self.threshold_counts_depth:
            kept &= scores >= self.score_threshold
        return detections_at_peaks(
            peaks,
            at_peaks,
            Boxes3D(torch.cat([position, objects.dimensions, yaw[:, None]], dim=1)),
            alpha=alpha,
            depth_sigma=objects.depth_sigma,
            scores=scores,
            kept=kept,
            stride=self.stride,
            affines=affines,
            image_sizes=image_sizes,
        )
