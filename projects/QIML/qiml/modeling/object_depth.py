"""The auxiliary object-wise depth-map head: trained beside the box head, dropped at inference."""

import torch
from detectron2.config import configurable
from torch import Tensor, nn

from qiml.losses import laplacian_uncertainty_loss
from qiml.modeling.branches import conv_branch
from qiml.modeling.decode import inverse_sigmoid_depth
from qiml.modeling.sampling import apply_at_windows, gather_windows


class ObjectDepthHead(nn.Module):
    """Predicts, for every cell, the depth of the object whose 2D box covers it.

    Source: DDML-M3DOD `lib/models/centernet3d.py` (head) and
    `lib/losses/centernet_loss.py::compute_obj_depth_loss`.

    Args:
        in_channels: channels of the neck's map.
        hidden_channels: width of the branch.
        weight: factor on the loss.
    """

    @configurable
    def __init__(self, in_channels: int, *, hidden_channels: int, weight: float):
        super().__init__()
        self.branch = conv_branch(in_channels, hidden_channels, 2)
        self.weight = weight

    @classmethod
    def from_config(cls, cfg, in_channels: int) -> dict:
        return {
            "in_channels": in_channels,
            "hidden_channels": cfg.MODEL.OBJECT_DEPTH.HIDDEN_CHANNELS,
            "weight": cfg.MODEL.OBJECT_DEPTH.WEIGHT,
        }

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 2, H, W): raw inverse-sigmoid depth and log σ, everywhere; to look at."""
        return self.branch(features)

    def loss(self, features: Tensor, painted_depth: Tensor) -> Tensor:
        """Laplacian loss over the cells that some object covers.

        The branch is evaluated at these alone, a twentieth of a street's image or so: the same loss and
        gradient as of the whole map, at a fraction of its time.

        Args:
            features: (B, C, H, W) of the neck.
            painted_depth: (B, H, W) metres, 0 where no object is
                (:func:`qiml.modeling.targets.paint_object_depth`). Best on the host: which cells are covered
                must be known there, and a GPU would be waited for.

        Returns:
            Scalar; 0 where nothing is painted.
        """
        image_index, y, x = painted_depth.nonzero(as_tuple=True)
        covered = (image_index, torch.stack([x, y], dim=1), painted_depth[image_index, y, x])
        image_index, cells, target = (
            column.to(features.device, non_blocking=True) for column in covered
        )
        windows = gather_windows(features, image_index, cells, size=3)
        (prediction,) = apply_at_windows([self.branch], windows)
        depth, log_sigma = prediction.float().unbind(dim=1)
        loss = laplacian_uncertainty_loss(inverse_sigmoid_depth(depth), target, log_sigma)
        return self.weight * loss
