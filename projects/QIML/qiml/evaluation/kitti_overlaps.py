"""Which detections overlap which objects, and by how much: computed once, used for every table.

Of all pairs in a frame only those that overlap enough to matter are kept, so memory follows the
number of objects, not of pairs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from qiml.data.kitti_format import KITTIObjects
from qiml.evaluation.grouping import pairs_by_group
from qiml.evaluation.kitti_table import ObjectTable
from qiml.evaluation.rotated_iou import (
    Rectangles,
    intersection_area,
    near,
    over_union,
    ratio,
    vertical_overlap,
)

# Overlaps with an object: intersection over union; with a DontCare region: over the detection.
Share = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of a ground-truth object and a detection of the same frame, ascending by both.

    Attributes:
        gt, dt: (P,) row numbers in the tables they were made from.
        overlap: (P,) of the two.
    """

    gt: np.ndarray
    dt: np.ndarray
    overlap: np.ndarray

    def __getitem__(self, index: np.ndarray) -> "Pairs":
        return Pairs(self.gt[index], self.dt[index], self.overlap[index])

    def exceeding(self, limit: float) -> "Pairs":
        """The pairs whose overlap is greater than `limit`."""
        return self[self.overlap > limit]


def overlapping_pairs(
    gt: ObjectTable,
    dt: ObjectTable,
    gt_rows: np.ndarray,
    dt_rows: np.ndarray,
    limits: Mapping[str, float],
    share: Share = over_union,
) -> dict[str, Pairs]:
    """The pairs whose overlap exceeds a limit.

    Args:
        gt, dt: tables of the same frames.
        gt_rows, dt_rows: ascending row numbers of the objects to look at.
        limits: for metrics among 2d, bev, 3d: the overlap to exceed.
        share: overlap from (intersection, size of detection, size of object).

    Returns:
        For each metric of `limits` its pairs.
    """
    gt_boxes, dt_boxes = _Boxes(gt.objects[gt_rows]), _Boxes(dt.objects[dt_rows])
    parts: dict[str, list[Pairs]] = {metric: [] for metric in limits}
    for g, d in pairs_by_group(gt.frame[gt_rows], dt.frame[dt_rows], gt.frames):
        for measure in (_image_overlap, _solid_overlaps):
            near_g, near_d, overlaps = measure(gt_boxes, dt_boxes, g, d, share)
            for metric, overlap in overlaps.items():
                if metric in limits:
                    pairs = Pairs(gt_rows[near_g], dt_rows[near_d], overlap)
                    parts[metric].append(pairs.exceeding(limits[metric]))
    return {metric: _joined(found) for metric, found in parts.items()}


def _joined(parts: list[Pairs]) -> Pairs:
    none = Pairs(np.empty(0, dtype=int), np.empty(0, dtype=int), np.empty(0))
    parts = [none, *parts]
    return Pairs(
        np.concatenate([part.gt for part in parts]),
        np.concatenate([part.dt for part in parts]),
        np.concatenate([part.overlap for part in parts]),
    )


class _Boxes:
    """The columns of N objects that overlaps are computed from, each contiguous."""

    def __init__(self, objects: KITTIObjects):
        self.x1, self.y1, self.x2, self.y2 = objects.bbox.T.copy()
        self.area = (self.x2 - self.x1) * (self.y2 - self.y1)
        self.height, width, length = objects.dimensions.T.copy()
        x, self.bottom, z = objects.location.T.copy()
        self.ground = Rectangles(x, z, width, length, objects.rotation_y.copy())
        self.circle = self.ground.circles()


def _image_overlap(
    gt: _Boxes, dt: _Boxes, g: np.ndarray, d: np.ndarray, share: Share
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """The pairs (of g, d) whose 2D boxes meet, with their overlaps."""
    width = np.minimum(dt.x2[d], gt.x2[g]) - np.maximum(dt.x1[d], gt.x1[g])
    g, d, width = (column[width > 0] for column in (g, d, width))
    height = np.minimum(dt.y2[d], gt.y2[g]) - np.maximum(dt.y1[d], gt.y1[g])
    g, d, width, height = (column[height > 0] for column in (g, d, width, height))
    return g, d, {"2d": share(width * height, dt.area[d], gt.area[g])}


def _solid_overlaps(
    gt: _Boxes, dt: _Boxes, g: np.ndarray, d: np.ndarray, share: Share
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """The pairs near each other on the ground, with their overlaps from above and in space."""
    close = near(gt.circle.take(g), dt.circle.take(d))
    g, d = g[close], d[close]
    gt_ground, dt_ground = gt.ground.take(g), dt.ground.take(d)
    shared = intersection_area(dt_ground, gt_ground)
    gt_area, dt_area = gt_ground.width * gt_ground.length, dt_ground.width * dt_ground.length
    gt_height, dt_height = gt.height[g], dt.height[d]
    volume = shared * vertical_overlap(dt.bottom[d], dt_height, gt.bottom[g], gt_height)
    overlaps = {
        "bev": share(shared, dt_area, gt_area),
        "3d": share(volume, dt_area * dt_height, gt_area * gt_height),
    }
    return g, d, overlaps


def over_detection(shared: np.ndarray, dt_size: np.ndarray, gt_size: np.ndarray) -> np.ndarray:
    """The share of a detection that lies inside a DontCare region."""
    return ratio(shared, dt_size)
