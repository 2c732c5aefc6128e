"""What a second stage sees of an object: pooled features, where in the view it is, and its class."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from qiml.structures.camera import Camera

COORDINATE_CHANNELS = 2


def pool_regions(features: Tensor, image_index: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Features inside 2D boxes, sampled to squares by RoIAlign in float32.

    As the official code calls it: without the half-cell offset of `aligned=True`, as many samples a bin as
    the box has cells there. Gradients reach the features, not the boxes.

    Args:
        features: (B, C, H, W).
        image_index: (M,) int64.
        boxes: (M, 4) XYXY in cells; those smaller than a cell count as one cell large.
        size: side S of the result.

    Returns:
        (M, C, S, S).
    """
    rows = torch.cat([image_index[:, None].to(boxes), boxes], dim=1)
    return roi_align(features.float(), rows, size, sampling_ratio=-1, aligned=False)


def coordinate_maps(boxes: Tensor, cameras: Camera, size: int) -> Tensor:
    """Where each cell of a pooled box lies in the view, in metres at 1 m depth.

    They do not depend on how the image was cropped or scaled: pooled features alone lack that.

    Args:
        boxes: (M, 4) XYXY in pixels of the images that `cameras` see.
        cameras: (M, 3, 4).
        size: side S of the result; its outer cells lie on the box's edges.

    Returns:
        (M, 2, S, S) x to the right, y down.
    """
    corners = boxes.unflatten(1, (2, 2))
    first, last = cameras.back_project(corners, torch.ones_like(corners[..., 0])).unbind(dim=1)
    steps = torch.linspace(0, 1, size, dtype=boxes.dtype, device=boxes.device)
    x, y = torch.lerp(first[:, :2, None], last[:, :2, None], steps).unbind(dim=1)
    return torch.stack(
        [x[:, None, :].expand(-1, size, size), y[:, :, None].expand(-1, size, size)], dim=1
    )


def class_maps(classes: Tensor, num_classes: int, size: int) -> Tensor:
    """One-hot classes as constant maps: (M,) int64 to (M, num_classes, S, S) float32."""
    one_hot = F.one_hot(classes, num_classes).float()
    return one_hot[:, :, None, None].expand(-1, -1, size, size)
