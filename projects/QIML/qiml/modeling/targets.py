"""Training targets from the objects of a batch."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Self

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor

from qiml.structures.boxes3d import Boxes3D
from qiml.structures.camera import Camera

NOTHING = -1
"""Radius of a Gaussian that is not drawn; leaving it out by a mask would wait for the device."""


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """Targets of M objects.

    Attributes:
        has_3d: (M,) bool; False: only the heat map, 2D box and heading are supervised.
        supervised: (M',) int64, the objects with `has_3d`; found where the targets are made. On a GPU,
            selecting by a mask waits until it is idle, by indices does not.
    """

    has_3d: Tensor
    supervised: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "supervised", self.has_3d.nonzero().squeeze(1))

    def to(self, device: torch.device) -> Self:
        """The same on another device; nothing is waited for."""
        moved = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor | Camera):
                object.__setattr__(moved, name, value.to(device, non_blocking=True))
        return moved


@dataclass(frozen=True)
class ObjectTargets(Supervision):
    """The M objects of a batch, flattened over images; positions and 2D sizes in cells of the map.

    Attributes:
        image_index: (M,) int64, image within the batch.
        classes: (M,) int64.
        cells: (M, 2) int64 x, y of the cell that holds the projected 3D centre.
        projected_centres: (M, 2) projected 3D centre.
        boxes2d: (M, 4) XYXY.
        depth: (M,) metres.
        apparent_depth: (M,) metres, as the input shows it: the depth at which the uncropped camera would see
            the object as large. Equal to `depth` but for crops that keep metric depth.
        dimensions: (M, 3) h, w, l in metres.
        yaw: (M,) rotation about +y.
        alpha: (M,) observation angle.
        cameras: (M, 3, 4), of each object's input image.
        affines: (M, 2, 3) original pixels → input pixels of each object's image.
        num_images: batch size B.
        map_size: (H, W) of the map.
        instances: per image, the labels all this comes from, in pixels of the input, also of objects whose
            projected centre lies off the map; for heads that read elsewhere.
        dense_depth: (B, H, W) metres of all that the images show, 0 where that is unknown; None where the
            data has no such maps.
    """

    image_index: Tensor
    classes: Tensor
    cells: Tensor
    projected_centres: Tensor
    boxes2d: Tensor
    depth: Tensor
    apparent_depth: Tensor
    dimensions: Tensor
    yaw: Tensor
    alpha: Tensor
    cameras: Camera
    affines: Tensor
    num_images: int
    map_size: tuple[int, int]
    instances: Sequence[Instances] = ()
    dense_depth: Tensor | None = None

    def __len__(self) -> int:
        return len(self.classes)


def on_map(positions: Tensor, map_size: tuple[int, int]) -> Tensor:
    """Whether (..., 2) x, y in cells lie on a map of (H, W)."""
    (x, y), (height, width) = positions.unbind(dim=-1), map_size
    return (x >= 0) & (x < width) & (y >= 0) & (y < height)


def flatten_objects(
    instances: list[Instances],
    stride: int,
    map_size: tuple[int, int],
    dense_depth: Tensor | None = None,
) -> ObjectTargets:
    """Targets of all objects whose projected 3D centre lies on the map.

    Args:
        instances: per image, in pixels of the network's input: gt_boxes, gt_classes,
            gt_projected_centres (M, 2), gt_depth (M,), gt_apparent_depth (M,), gt_boxes3d, gt_alpha (M,),
            gt_has_3d (M,), gt_cameras (M, 3, 4), gt_affines (M, 2, 3).
        stride: input pixels per cell.
        map_size: (H, W) in cells.
        dense_depth: (B, stride · H, stride · W) metres of the input's pixels, 0 where unknown; its cells
            become their pixels' mean, as the official DID-M3D reduces it.
    """
    counts = torch.tensor([len(i) for i in instances])
    device = instances[0].gt_depth.device
    image_index = torch.arange(len(instances)).repeat_interleave(counts).to(device)
    centres = torch.cat([i.gt_projected_centres for i in instances]) / stride
    # Truncation towards zero, as the official int(): centres in (−1, 0) still fall into cell 0.
    cells = centres.long()
    kept = on_map(cells, map_size).nonzero().squeeze(1)

    def column(name: str) -> Tensor:
        return torch.cat([i.get(name) for i in instances])[kept]

    boxes3d = Boxes3D.cat([i.gt_boxes3d for i in instances])[kept]
    return ObjectTargets(
        image_index=image_index[kept],
        classes=column("gt_classes"),
        cells=cells[kept],
        projected_centres=centres[kept],
        boxes2d=torch.cat([i.gt_boxes.tensor for i in instances])[kept] / stride,
        depth=column("gt_depth"),
        apparent_depth=column("gt_apparent_depth"),
        dimensions=boxes3d.dimensions,
        yaw=boxes3d.yaw,
        alpha=column("gt_alpha"),
        has_3d=column("gt_has_3d"),
        cameras=Camera(column("gt_cameras")),
        affines=column("gt_affines"),
        num_images=len(instances),
        map_size=map_size,
        instances=instances,
        dense_depth=None if dense_depth is None else F.avg_pool2d(dense_depth, stride),
    )


def gaussian_radius(width: Tensor, height: Tensor, min_overlap: float = 0.7) -> Tensor:
    """Heat-map radius within which a shifted box still overlaps the true one by `min_overlap`.

    CornerNet's three cases as every CenterNet descendant writes them, `(b + √(b² − 4ac)) / 2` without the
    division by a: larger than derived, and what published weights were trained with.

    Args:
        width, height: (M,) 2D box size in cells.

    Returns:
        (M,) int64 cells.
    """
    area, total = width * height, width + height
    cases = (
        (1.0, total, area * (1 - min_overlap) / (1 + min_overlap)),
        (4.0, 2 * total, (1 - min_overlap) * area),
        (4 * min_overlap, -2 * min_overlap * total, (min_overlap - 1) * area),
    )
    roots = [(b + (b**2 - 4 * a * c).clamp(min=0).sqrt()) / 2 for a, b, c in cases]
    return torch.stack(roots).amin(dim=0).clamp(min=0).long()


def render_heatmap(objects: ObjectTargets, num_classes: int, min_overlap: float = 0.7) -> Tensor:
    """One truncated Gaussian per object at its cell, the largest value where they overlap.

    Returns:
        (B, num_classes, H, W) in [0, 1], exactly 1 at object cells.
    """
    sizes = objects.boxes2d[:, 2:] - objects.boxes2d[:, :2]
    radius = gaussian_radius(sizes[:, 0], sizes[:, 1], min_overlap)
    rows = objects.image_index * num_classes + objects.classes
    heatmaps = draw_gaussians(
        rows, objects.cells, radius, objects.num_images * num_classes, objects.map_size
    )
    return heatmaps.unflatten(0, (objects.num_images, num_classes))


def draw_gaussians(
    rows: Tensor, cells: Tensor, radius: Tensor, num_maps: int, map_size: tuple[int, int]
) -> Tensor:
    """Truncated Gaussians on several maps at once, σ a sixth of the diameter.

    Args:
        rows: (M,) int64, the map each one is drawn on.
        cells: (M, 2) int64 x, y of its middle.
        radius: (M,) int64 cells; `NOTHING`: not drawn.
        num_maps, map_size: of the result.

    Returns:
        (num_maps, H, W), the largest value where several overlap.
    """
    height, width = map_size
    radius = radius[:, None]
    sigma = (2 * radius + 1) / 6
    # A Gaussian is the outer product of its profiles: M·(H + W) exponentials instead of M·H·W.
    dx = torch.arange(width, device=cells.device) - cells[:, :1]
    dy = torch.arange(height, device=cells.device) - cells[:, 1:]
    along_x = torch.exp(-(dx**2) / (2 * sigma**2)) * (dx.abs() <= radius)
    along_y = torch.exp(-(dy**2) / (2 * sigma**2)) * (dy.abs() <= radius)
    blobs = (along_y[:, :, None] * along_x[:, None, :]).flatten(1)
    maps = torch.zeros(num_maps, height * width, device=cells.device)
    maps.scatter_reduce_(0, rows[:, None].expand_as(blobs), blobs, "amax")
    return maps.view(num_maps, height, width)


def paint_object_depth(
    boxes2d: Tensor, depth: Tensor, image_index: Tensor, num_images: int, map_size: tuple[int, int]
) -> Tensor:
    """Object-wise depth map: every 2D box filled with its object's depth, nearer objects in front.

    A cell takes the depth at its centre (nearest sampling): interpolation, as in the official code,
    would blend depths of neighbours, and of objects with the background's 0, into depths nothing has.
    Source of the target: DDML-M3DOD `make_obj_depth.py`.

    Args:
        boxes2d: (M, 4) XYXY in cells.
        depth: (M,) metres.
        image_index: (M,) image within the batch.

    Returns:
        (B, H, W) metres; 0 where no object is.
    """
    index, y, x = cells_in_boxes(boxes2d, map_size).nonzero(as_tuple=True)
    return paint_nearest(depth[index], image_index[index], y, x, num_images, map_size)


def paint_nearest(
    depth: Tensor,
    image_index: Tensor,
    y: Tensor,
    x: Tensor,
    num_images: int,
    map_size: tuple[int, int],
) -> Tensor:
    """Map of the nearest of N depths, infinite where there is nothing, at their cells.

    Args:
        depth: (N,) metres.
        image_index, y, x: (N,) int64, image within the batch and cell.

    Returns:
        (B, H, W) metres; 0 where there is nothing.
    """
    height, width = map_size
    painted = torch.full((num_images * height * width,), torch.inf, device=depth.device)
    cells = (image_index * height + y) * width + x
    painted.scatter_reduce_(0, cells, depth.to(painted.dtype), "amin")
    return painted.nan_to_num(posinf=0.0).view(num_images, height, width)


def cells_in_boxes(boxes2d: Tensor, map_size: tuple[int, int]) -> Tensor:
    """(M, H, W) bool: whether the middle of a cell lies in boxes (M, 4) XYXY in cells."""
    height, width = map_size
    x = torch.arange(width, device=boxes2d.device) + 0.5
    y = torch.arange(height, device=boxes2d.device) + 0.5
    in_x = (x >= boxes2d[:, 0:1]) & (x < boxes2d[:, 2:3])
    in_y = (y >= boxes2d[:, 1:2]) & (y < boxes2d[:, 3:4])
    return in_y[:, :, None] & in_x[:, None, :]
