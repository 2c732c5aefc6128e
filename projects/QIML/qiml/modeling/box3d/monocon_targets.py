"""Training targets of MonoCon: objects in the cell of their 2D box's centre, with nine key points each."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from torch import Tensor

from qiml.modeling.targets import NOTHING, Supervision, draw_gaussians, on_map
from qiml.structures.boxes3d import NEAR_PLANE, Boxes3D, rotation_y_to_alpha
from qiml.structures.camera import Camera

NUM_CORNERS = 8
NUM_KEYPOINTS = NUM_CORNERS + 1
"""Projected corners in the order of :meth:`Boxes3D.corners`, then the projected 3D centre."""


@dataclass(frozen=True)
class MonoConTargets(Supervision):
    """The M objects of a batch, flattened over images; positions and 2D sizes in cells of the map.

    Attributes:
        image_index: (M,) int64, image within the batch.
        classes: (M,) int64.
        boxes2d: (M, 4) XYXY.
        keypoints: (M, 9, 2).
        keypoint_mask: (M, 9) bool; False: not supervised, as of points behind the camera.
        depth: (M,) metres along the optical axis, as the projection divides by it.
        dimensions: (M, 3) h, w, l in metres.
        alpha: (M,) observation angle from the ray through the projected 3D centre.
        num_images: batch size B.
        map_size: (H, W) of the map.
    """

    image_index: Tensor
    classes: Tensor
    boxes2d: Tensor
    keypoints: Tensor
    keypoint_mask: Tensor
    depth: Tensor
    dimensions: Tensor
    alpha: Tensor
    num_images: int
    map_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def centres(self) -> Tensor:
        """(M, 2) of the 2D boxes."""
        return (self.boxes2d[:, :2] + self.boxes2d[:, 2:]) / 2

    @property
    def sizes(self) -> Tensor:
        """(M, 2) width and height of the 2D boxes."""
        return self.boxes2d[:, 2:] - self.boxes2d[:, :2]

    @property
    def cells(self) -> Tensor:
        """(M, 2) int64 x, y of the cell that holds the centre."""
        return self.centres.long()

    @property
    def keypoint_on_map(self) -> Tensor:
        """(M, 9) bool: supervised, and in a cell of the map."""
        # Truncation towards zero, as the official int(): coordinates in (−1, 0) still fall into cell 0.
        return self.keypoint_mask & on_map(self.keypoints.long(), self.map_size)

    @property
    def keypoint_cells(self) -> Tensor:
        """(M, 9, 2) int64 x, y; cell (0, 0) for key points off the map, as in the official code."""
        return self.keypoints.long().where(self.keypoint_on_map[..., None], 0)

    @property
    def keypoint_offsets(self) -> Tensor:
        """(M, 9, 2) key point − its cell; 0 for key points off the map."""
        offsets = self.keypoints - self.keypoint_cells
        return offsets.where(self.keypoint_on_map[..., None], 0)

    def render_heatmap(self, num_classes: int) -> Tensor:
        """(B, num_classes, H, W): a Gaussian at every object's cell."""
        rows = self.image_index * num_classes + self.classes
        maps = draw_gaussians(
            rows, self.cells, self._radius(), self.num_images * num_classes, self.map_size
        )
        return maps.unflatten(0, (self.num_images, num_classes))

    def render_keypoint_heatmap(self) -> Tensor:
        """(B, 9, H, W): a Gaussian of the object's size at every key point on the map."""
        rows = self.image_index[:, None] * NUM_KEYPOINTS + torch.arange(
            NUM_KEYPOINTS, device=self.keypoints.device
        )
        radius = self._radius()[:, None].where(self.keypoint_on_map, NOTHING)
        maps = draw_gaussians(
            rows.flatten(),
            self.keypoint_cells.flatten(0, 1),
            radius.flatten(),
            self.num_images * NUM_KEYPOINTS,
            self.map_size,
        )
        return maps.unflatten(0, (self.num_images, NUM_KEYPOINTS))

    def _radius(self) -> Tensor:
        return gaussian_radius(*self.sizes.unbind(dim=1))


def flatten_labels(
    instances: Sequence[Instances], stride: int, map_size: tuple[int, int]
) -> MonoConTargets:
    """Targets of all objects whose 2D box's centre lies on the map.

    Key points nearer to the camera plane than ``NEAR_PLANE`` are not supervised: they project to infinity.

    Args:
        instances: per image, in pixels of the network's input: gt_boxes, gt_classes,
            gt_boxes3d, gt_depth (M,), gt_has_3d (M,), gt_cameras (M, 3, 4).
        stride: input pixels per cell.
        map_size: (H, W) in cells.
    """
    counts = torch.tensor([len(i) for i in instances])
    boxes2d = torch.cat([i.gt_boxes.tensor for i in instances]) / stride
    image_index = torch.arange(len(instances)).repeat_interleave(counts).to(boxes2d.device)
    middle = ((boxes2d[:, :2] + boxes2d[:, 2:]) / 2).long()
    kept = on_map(middle, map_size).nonzero().squeeze(1)

    def column(name: str) -> Tensor:
        return torch.cat([i.get(name) for i in instances])[kept]

    boxes3d = Boxes3D.cat([i.gt_boxes3d for i in instances])[kept]
    camera = Camera(column("gt_cameras"))
    points = torch.cat([boxes3d.corners(), boxes3d.centres[:, None]], dim=1)
    with torch.autocast(points.device.type, enabled=False):
        keypoints, z = camera.project(points)
    visible = z > NEAR_PLANE
    centre_ray = camera.ray_angle(keypoints[:, -1, :1]).squeeze(1)
    has_3d = column("gt_has_3d")
    return MonoConTargets(
        image_index=image_index[kept],
        classes=column("gt_classes"),
        boxes2d=boxes2d[kept],
        keypoints=(keypoints / stride).where(visible[..., None], 0),
        keypoint_mask=visible & has_3d[:, None],
        depth=column("gt_depth") + camera.projection[:, 2, 3],
        dimensions=boxes3d.dimensions,
        alpha=rotation_y_to_alpha(boxes3d.yaw, centre_ray),
        has_3d=has_3d,
        num_images=len(instances),
        map_size=map_size,
    )


def gaussian_radius(width: Tensor, height: Tensor, min_overlap: float = 0.3) -> Tensor:
    """Heat-map radius within which a shifted box still overlaps the true one by `min_overlap`.

    CornerNet's three cases solved as derived; :func:`qiml.modeling.targets.gaussian_radius` explains what
    MonoDLE and others do instead. Source: MMDetection `gaussian_target.py`, which MonoCon uses.

    Args:
        width, height: (M,) 2D box size in cells.

    Returns:
        (M,) int64 cells.
    """
    area, total = width * height, width + height
    cases = (
        (1.0, total, area * (1 - min_overlap) / (1 + min_overlap), -1),
        (4.0, 2 * total, (1 - min_overlap) * area, -1),
        (4 * min_overlap, -2 * min_overlap * total, (min_overlap - 1) * area, 1),
    )
    roots = [
        (b + sign * (b**2 - 4 * a * c).clamp(min=0).sqrt()) / (2 * a) for a, b, c, sign in cases
    ]
    return torch.stack(roots).amin(dim=0).clamp(min=0).long()
