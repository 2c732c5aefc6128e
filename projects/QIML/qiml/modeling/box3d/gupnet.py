"""GUPNet's 3D box head: depth from an object's height in metres and in pixels, with the doubt of both.

The second stage of :mod:`qiml.modeling.box3d.region_head`, with these branches:

    ├ size_3d    Conv3×3 ─ BN ─ ReLU ─ mean ─ Conv1×1 → h, w, l − class mean; log variance of h
    ├ depth                                           → what f · h / pixels lacks; its log variance
    ├ offset_3d                                       → projected centre − cell
    └ heading                                         → 12 bins, 12 residuals (alpha)

Source: Lu et al., Geometry Uncertainty Projection Network for Monocular 3D Object Detection (ICCV 2021);
official code `lib/models/gupnet.py`, `lib/losses/loss_function.py`, `lib/helpers/decode_helper.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qiml.losses import laplacian_uncertainty_loss
from qiml.losses.heading import NUM_BINS
from qiml.losses.reduction import global_mean
from qiml.modeling.box3d.build import BOX3D_HEAD_REGISTRY
from qiml.modeling.box3d.region_head import REGRESSION_CHANNELS, Objects3D, RegionHead, Regions
from qiml.modeling.decode import inverse_sigmoid_depth
from qiml.modeling.targets import ObjectTargets

__all__ = ["REGRESSION_CHANNELS", "ROI_CHANNELS", "GUPNetHead", "GUPNetObjects"]

ROI_CHANNELS = {"size_3d": 4, "depth": 2, "offset_3d": 2, "heading": 2 * NUM_BINS}


@dataclass(frozen=True, kw_only=True)
class GUPNetObjects(Objects3D):
    """What the second stage says about M objects.

    Attributes:
        depth: (M,) metres.
        depth_log_variance: (M,) of a Laplace distribution, log of square metres.
        height_log_variance: (M,) of h, as that of the depth.
    """

    depth: Tensor
    depth_log_variance: Tensor
    height_log_variance: Tensor

    @property
    def depth_sigma(self) -> Tensor:
        """(M,) metres, e^(v/2) of the log variance v."""
        return torch.exp(self.depth_log_variance / 2)


@BOX3D_HEAD_REGISTRY.register()
class GUPNetHead(RegionHead):
    """GUPNet's head; the threshold is that of the final score, with the confidence in the depth."""

    region_channels = ROI_CHANNELS
    threshold_counts_depth = True

    def read(self, raw: Mapping[str, Tensor], regions: Regions) -> GUPNetObjects:
        residuals, height_log_variance = raw["size_3d"].split([3, 1], dim=1)
        dimensions = self.mean_sizes[regions.classes] + residuals
        metres_per_metre = regions.cameras.fy / regions.zoom / regions.original_height
        bias, bias_log_variance = raw["depth"].unbind(dim=1)
        projected_log_variance = height_log_variance.squeeze(1) + 2 * metres_per_metre.log()
        return GUPNetObjects(
            depth=dimensions[:, 0] * metres_per_metre + inverse_sigmoid_depth(bias),
            depth_log_variance=torch.logaddexp(bias_log_variance, projected_log_variance),
            dimensions=dimensions,
            height_log_variance=height_log_variance.squeeze(1),
            offset_3d=raw["offset_3d"],
            heading=raw["heading"],
        )

    def hidden_depth(self, seen: Tensor) -> Tensor:
        conv, norm, relu = self.depth[:3]
        return relu(norm.again(conv(seen)))

    # The official losses are in log σ² = 2 log σ.

    def size_loss(self, objects: GUPNetObjects, targets: ObjectTargets) -> Tensor:
        kept = targets.supervised
        height_loss = laplacian_uncertainty_loss(
            objects.dimensions[kept, 0],
            targets.dimensions[kept, 0],
            objects.height_log_variance[kept] / 2,
        )
        width_length_error = (objects.dimensions - targets.dimensions)[kept, 1:].abs()
        return global_mean(width_length_error) * 2 / 3 + height_loss / 3

    def depth_loss(self, objects: GUPNetObjects, targets: ObjectTargets) -> Tensor:
        kept = targets.supervised
        return laplacian_uncertainty_loss(
            objects.depth[kept],
            targets.depth[kept],
            objects.depth_log_variance[kept] / 2,
        )
