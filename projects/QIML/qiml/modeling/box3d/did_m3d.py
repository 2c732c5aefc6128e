"""DID-M3D's 3D box head: what is seen of an object lies so far off, and its centre so much further.

The second stage of :mod:`qiml.modeling.box3d.region_head`, with these branches:

    ├ size_3d    Conv3×3 ─ BN ─ ReLU ─ mean ─ Conv1×1 → h, w, l − class mean
    ├ offset_3d                                       → projected centre − cell
    ├ heading                                         → 12 bins, 12 residuals (alpha)
    ├ visual_depth     Conv3×3 ─ leaky ReLU ─ Conv1×1 → depth of what a cell shows      ┐
    ├ attribute_depth                                 → from there to the centre        │ of every
    ├ visual_log_variance                             → doubt of the first              │ cell
    └ attribute_log_variance                          → doubt of the second             ┘

Visual + attribute depth is the object's depth, said once a cell; the cells are merged by their confidence.

Source: Peng et al., DID-M3D: Decoupling Instance Depth for Monocular 3D Object Detection (ECCV 2022);
official code `lib/models/DID.py`, `lib/losses/loss_function.py`, `lib/helpers/decode_helper.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from torch import Tensor

from qiml.losses import laplacian_uncertainty_loss
from qiml.losses.heading import NUM_BINS
from qiml.losses.reduction import global_mean
from qiml.modeling.box3d.build import BOX3D_HEAD_REGISTRY
from qiml.modeling.box3d.region_head import Objects3D, RegionHead, Regions
from qiml.modeling.region_depth import object_depth_in_boxes, surface_depth_in_boxes
from qiml.modeling.roi_features import pool_regions
from qiml.modeling.targets import ObjectTargets

REGION_CHANNELS = {"size_3d": 3, "offset_3d": 2, "heading": 2 * NUM_BINS}
GRID_CHANNELS = {
    "visual_depth": 1,
    "attribute_depth": 1,
    "visual_log_variance": 1,
    "attribute_log_variance": 1,
}
# A cell further than this from its object's depth, in metres, shows something else.
NEARBY = 3.0


@dataclass(frozen=True, kw_only=True)
class DIDM3DObjects(Objects3D):
    """What the second stage says about M objects; S² cells each.

    Attributes:
        visual_depth: (M, S, S) metres, of what the cell shows.
        attribute_depth: (M, S, S) metres, from there to the object's centre.
        visual_log_variance, attribute_log_variance: (M, S, S) of Laplace distributions, log of square metres.
    """

    visual_depth: Tensor
    attribute_depth: Tensor
    visual_log_variance: Tensor
    attribute_log_variance: Tensor

    @property
    def instance_depth(self) -> Tensor:
        """(M, S, S) metres: each cell's opinion of the object's depth."""
        return self.visual_depth + self.attribute_depth

    @property
    def instance_log_variance(self) -> Tensor:
        """(M, S, S) of that opinion."""
        return torch.logaddexp(self.visual_log_variance, self.attribute_log_variance)

    @property
    def log_confidence(self) -> Tensor:
        """(M, S²) log p of each cell, p = e^(−e^(v/2)); in logs, since p of a poor cell is 0 in float32."""
        return -torch.exp(self.instance_log_variance / 2).flatten(1)

    @property
    def depth(self) -> Tensor:
        """(M,) metres: Σ p·z / Σ p."""
        return (self.log_confidence.softmax(dim=1) * self.instance_depth.flatten(1)).sum(dim=1)

    @property
    def depth_sigma(self) -> Tensor:
        """(M,) metres: σ of the merged confidence e^(−σ) = Σ p² / Σ p."""
        log_p = self.log_confidence
        return log_p.logsumexp(dim=1) - (2 * log_p).logsumexp(dim=1)


@BOX3D_HEAD_REGISTRY.register()
class DIDM3DHead(RegionHead):
    """DID-M3D's head; the threshold is the heat map's, before the confidence is multiplied in.

    What the visual depth learns from: dense maps where the data has them (`targets.dense_depth`, the
    official way), otherwise the labels. Their boxes' surfaces are about where the objects' are. The
    object-wise depth is that of the centre: the attribute depth then learns 0 but where a nearer object
    within 3 m covers it.

    Args:
        in_channels, region: as :class:`RegionHead`.
        visual_depth_of: without dense maps, "box", surfaces of the labels' 3D boxes; else object-wise depth.
    """

    region_channels = REGION_CHANNELS
    grid_channels = GRID_CHANNELS
    threshold_counts_depth = False

    @configurable
    def __init__(self, in_channels: int, *, visual_depth_of: str = "box", **region):
        super().__init__(in_channels, **region)
        self.visual_depth_of = visual_depth_of

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        base = super().from_config(cfg, input_shape)
        return {**base, "visual_depth_of": cfg.MODEL.BOX3D_HEAD.VISUAL_DEPTH}

    def read(self, raw: Mapping[str, Tensor], regions: Regions) -> DIDM3DObjects:
        grid = {name: raw[name].squeeze(1) for name in GRID_CHANNELS}
        # An object looks as large in a crop that magnifies it as another that is nearer. The official code
        # has the ratio of the predicted box's heights in both images, each at least a pixel: the same number,
        # but for smaller boxes, which it draws to the height that suits the depth.
        grid["visual_depth"] = torch.exp(-grid["visual_depth"]) * regions.zoom[:, None, None]
        return DIDM3DObjects(
            **grid,
            dimensions=self.mean_sizes[regions.classes] + raw["size_3d"],
            offset_3d=raw["offset_3d"],
            heading=raw["heading"],
        )

    def hidden_depth(self, seen: Tensor) -> Tensor:
        return self.visual_depth[:2](seen)

    def size_loss(self, objects: DIDM3DObjects, targets: ObjectTargets) -> Tensor:
        return global_mean((objects.dimensions - targets.dimensions)[targets.supervised].abs())

    def depth_loss(self, objects: DIDM3DObjects, targets: ObjectTargets) -> Tensor:
        surface = self.surface_depth(targets)
        nearby = (surface > 0) & ((surface - targets.depth[:, None, None]).abs() < NEARBY)
        return sum(self.depth_losses(objects, targets, surface, nearby))

    def surface_depth(self, targets: ObjectTargets) -> Tensor:
        """(M, S, S) metres, what the cells of the true 2D boxes show; 0 where that is not known."""
        if targets.dense_depth is None:
            if self.visual_depth_of == "box":
                return surface_depth_in_boxes(targets, self.roi_size, self.stride)
            return object_depth_in_boxes(targets, self.roi_size)
        maps = targets.dense_depth[:, None]
        return pool_regions(maps, targets.image_index, targets.boxes2d, self.roi_size).squeeze(1)

    def depth_losses(
        self, objects: DIDM3DObjects, targets: ObjectTargets, surface: Tensor, nearby: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of visual, attribute and instance depth; the last of every cell where `targets.has_3d`.

        Args:
            surface: (M, S, S) metres.
            nearby: (M, S, S) bool, cells whose surface is the object's: only these teach the first two.
        """
        depth = targets.depth[:, None, None].expand_as(surface)
        every = targets.has_3d[:, None, None].expand_as(nearby)
        nearby = nearby & every
        terms = (
            (objects.visual_depth, surface, objects.visual_log_variance, nearby),
            (objects.attribute_depth, depth - surface, objects.attribute_log_variance, nearby),
            (objects.instance_depth, depth, objects.instance_log_variance, every),
        )
        # The official losses are in log σ² = 2 log σ.
        return tuple(
            laplacian_uncertainty_loss(value, target, log_variance / 2, mask)
            for value, target, log_variance, mask in terms
        )
