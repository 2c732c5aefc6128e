"""The auxiliary object-wise depth-map head: trained beside the box head, dropped at inference."""

from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.structures import Instances
from torch import Tensor, nn

from qiml.losses import laplacian_uncertainty_loss
from qiml.modeling.branches import conv_branch
from qiml.modeling.decode import inverse_sigmoid_depth
from qiml.modeling.region_depth import paint_surface_depth
from qiml.modeling.sampling import apply_at_windows, gather_windows
from qiml.modeling.targets import paint_object_depth
from qiml.structures.camera import Camera


class ObjectDepthHead(nn.Module):
    """Predicts, for every cell, the depth of the object that it shows.

    Source: DDML-M3DOD `lib/models/centernet3d.py` (head) and
    `lib/losses/centernet_loss.py::compute_obj_depth_loss`.

    Args:
        in_channels: channels of the neck's map.
        hidden_channels: width of the branch.
        weight: factor on the loss.
        target: what :meth:`paint` shows of an object: "object", the depth of its centre, as in the paper, or
            "box", that of its 3D box's surface.
    """

    @configurable
    def __init__(
        self, in_channels: int, *, hidden_channels: int, weight: float, target: str = "object"
    ):
        super().__init__()
        self.branch = conv_branch(in_channels, hidden_channels, 2)
        self.weight = weight
        self.target = target

    @classmethod
    def from_config(cls, cfg, in_channels: int) -> dict:
        return {
            "in_channels": in_channels,
            "hidden_channels": cfg.MODEL.OBJECT_DEPTH.HIDDEN_CHANNELS,
            "weight": cfg.MODEL.OBJECT_DEPTH.WEIGHT,
            "target": cfg.MODEL.OBJECT_DEPTH.TARGET,
        }

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 2, H, W): raw inverse-sigmoid depth and log σ, everywhere; to look at."""
        return self.branch(features)

    def paint(
        self, instances: Sequence[Instances], stride: int, map_size: tuple[int, int]
    ) -> Tensor:
        """Target of a batch: of all supervised objects, also those whose centre lies off the map.

        Args:
            instances: per image (see :func:`qiml.modeling.targets.flatten_objects`), on the host.
            stride: input pixels per cell.
            map_size: (H, W) in cells.

        Returns:
            (B, H, W) metres, 0 where there is nothing.
        """
        supervised = torch.cat([i.gt_has_3d for i in instances])
        objects = Instances.cat(list(instances))[supervised]
        counts = torch.tensor([len(i) for i in instances])
        image_index = torch.arange(len(instances)).repeat_interleave(counts)[supervised]
        boxes2d, depth = objects.gt_boxes.tensor / stride, objects.gt_apparent_depth
        place = (image_index, len(instances), map_size)
        if self.target == "object":
            return paint_object_depth(boxes2d, depth, *place)
        cameras = Camera(objects.gt_cameras)
        return paint_surface_depth(boxes2d, objects.gt_boxes3d, cameras, depth, *place, stride)

    def loss(self, features: Tensor, painted_depth: Tensor) -> Tensor:
        """Laplacian loss over the cells that some object covers.

        The branch is evaluated at these alone, a twentieth of a street's image or so: the same loss and
        gradient as of the whole map, at a fraction of its time.

        Args:
            features: (B, C, H, W) of the neck.
            painted_depth: (B, H, W) metres, 0 where no object is
                (:meth:`paint`). Best on the host: which cells are covered must be known there, and a GPU
                would be waited for.

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
