"""Which detections can be matched to which objects, by the rules of Waymo's metric."""

from dataclasses import dataclass

import numpy as np

from qiml.evaluation.grouping import pairs_by_group
from qiml.evaluation.rotated_iou import Rectangles, intersection_area, near
from qiml.evaluation.waymo_rules import (
    LET_MIN_TOLERANCE,
    LET_SENSOR,
    LET_TOLERANCE,
    RANGE_LIMITS,
    TYPES,
)

# Boxes with a side at or below the first or from the second on overlap nothing (`metrics/iou.cc`).
_MIN_SIDE, _MAX_SIDE = 1e-2, 1e6
_EPSILON = 1e-6
# Weights are compared as whole millionths (`Matcher::QuantizedWeight`).
_QUANTA = np.float32(1e6)


@dataclass(frozen=True, eq=False)
class BoxTable:
    """Boxes of many frames, ascending by (frame, type).

    Attributes:
        frame: (N,) number of the frame.
        boxes: (N, 7) float64 x, y, z of the centre, l, w, h, heading; vehicle frame (z up).
        type: (N,) 1 to 4.
        range: (N,) 0, 1 or 2: which of the metric's ranges.
        value: (N,) level of an object, score (float32) of a detection.
        excused: (N,) detections in a no-label zone, which are never false.
    """

    frame: np.ndarray
    boxes: np.ndarray
    type: np.ndarray
    range: np.ndarray
    value: np.ndarray
    excused: np.ndarray

    @classmethod
    def build(
        cls, frame: np.ndarray, rows: np.ndarray, excused: np.ndarray | None = None
    ) -> "BoxTable":
        """Sort and split rows.

        Args:
            frame: (N,) numbers of frames.
            rows: (N, 10) frame id, x, y, z, l, w, h, heading, type, level or score. Rows of
                type 0 (unknown) are left out, as in the official metric.
            excused: (N,) mask; None for none.
        """
        excused = np.zeros(len(rows), dtype=bool) if excused is None else excused
        order = np.lexsort((rows[:, 8], frame))
        order = order[rows[order, 8] > 0]
        rows = rows[order]
        distance = np.sqrt((rows[:, 1:4] ** 2).sum(axis=1))
        return cls(
            frame=frame[order],
            boxes=rows[:, 1:8],
            type=rows[:, 8].astype(int),
            range=np.searchsorted(RANGE_LIMITS, distance, side="right"),
            value=rows[:, 9],
            excused=excused[order],
        )

    @property
    def group(self) -> np.ndarray:
        """(N,) number of (frame, type), ascending."""
        return self.frame * (max(TYPES) + 1) + self.type

    def __len__(self) -> int:
        return len(self.frame)


@dataclass(frozen=True, eq=False)
class Edges:
    """Pairs that may be matched.

    Attributes:
        gt, dt: (E,) rows of the tables.
        weight: (E,) int: what a matching maximises.
        heading: (E,) heading accuracy, 0 to 1.
        affinity: (E,) longitudinal affinity, 0 to 1; 1 without tolerance.
    """

    gt: np.ndarray
    dt: np.ndarray
    weight: np.ndarray
    heading: np.ndarray
    affinity: np.ndarray

    def __getitem__(self, index: np.ndarray) -> "Edges":
        return Edges(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.gt)


def matchable_pairs(gt: BoxTable, dt: BoxTable, thresholds: dict[int, float], let: bool) -> Edges:
    """All pairs of a frame and type whose IoU reaches the type's threshold.

    Args:
        gt, dt: tables of the same frames.
        thresholds: type → least IoU.
        let: whether detections are first moved along the line of sight to where they are nearest to
            the object, and must lie within the longitudinal tolerance.
    """
    limits = np.zeros(max(TYPES) + 1, dtype=np.float32)
    limits[list(thresholds)] = list(thresholds.values())
    groups = int(max(gt.group.max(initial=0), dt.group.max(initial=0))) + 1
    parts = [_none()]
    for g, d in pairs_by_group(gt.group, dt.group, groups):
        gt_boxes, dt_boxes = gt.boxes[g], dt.boxes[d]
        affinity = np.ones(len(g), dtype=np.float32)
        if let:
            affinity, dt_boxes = _aligned(gt_boxes, dt_boxes)
        possible = (affinity > 0) & _near(gt_boxes, dt_boxes)
        g, d, affinity = g[possible], d[possible], affinity[possible]
        # The official matcher stores single precision.
        iou = _iou(gt_boxes[possible], dt_boxes[possible]).astype(np.float32)
        kept = iou >= limits[gt.type[g]]
        g, d, affinity, iou = g[kept], d[kept], affinity[kept], iou[kept]
        weight = np.floor((iou * affinity * _QUANTA).astype(float) + 0.5).astype(np.int64)
        heading = _heading_accuracy(gt.boxes[g, 6], dt.boxes[d, 6])
        parts.append(Edges(g, d, weight, heading, affinity.astype(float)))
    return Edges(*(np.concatenate([getattr(p, n) for p in parts]) for n in Edges.__annotations__))


def _none() -> Edges:
    whole, real = np.empty(0, dtype=np.int64), np.empty(0)
    return Edges(whole, whole, whole, real, real)


def _aligned(gt: np.ndarray, dt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Longitudinal affinity (P,) float32, and the detections (P, 7) moved along their lines of sight.

    Source: `ComputeLongitudinalAffinity` and `AlignedPredictionBox` (TYPE_RANGE_ALIGNED) in
    `metrics/iou.cc`.
    """
    sensor = np.array(LET_SENSOR)
    g, d = gt[:, :3] - sensor, dt[:, :3] - sensor
    product, square = (g * d).sum(axis=1), (d * d).sum(axis=1)
    g_range = np.maximum(np.sqrt((g * g).sum(axis=1)), _EPSILON)
    tolerance = np.maximum(LET_TOLERANCE * g_range, LET_MIN_TOLERANCE)
    error = np.abs(product / g_range - g_range) / tolerance
    moved = dt.copy()
    moved[:, :3] = d * (product / np.maximum(square, _EPSILON))[:, None] + sensor
    return np.clip(1 - error, 0, 1).astype(np.float32), moved


def _footprints(boxes: np.ndarray) -> Rectangles:
    # Seen in a plane x, −y, a heading from x to y turns as a camera's yaw does.
    x, y, _, length, width, _, heading = boxes.T
    return Rectangles(x, -y, width, length, heading)


def _near(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return near(_footprints(a).circles(), _footprints(b).circles())


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    area = intersection_area(_footprints(a), _footprints(b))
    low = np.maximum(a[:, 2] - a[:, 5] / 2, b[:, 2] - b[:, 5] / 2)
    high = np.minimum(a[:, 2] + a[:, 5] / 2, b[:, 2] + b[:, 5] / 2)
    shared = area * np.maximum(high - low, 0)
    union = a[:, 3:6].prod(axis=1) + b[:, 3:6].prod(axis=1) - shared
    sides = np.concatenate([a[:, 3:6], b[:, 3:6]], axis=1)
    usual = (sides > _MIN_SIDE).all(axis=1) & (sides < _MAX_SIDE).all(axis=1) & (union > _EPSILON)
    return np.divide(shared, union, out=np.zeros_like(union), where=usual).clip(0, 1)


def _heading_accuracy(gt: np.ndarray, dt: np.ndarray) -> np.ndarray:
    """1 − |Δ heading| / π, whatever full turns the headings hold."""
    turn = np.abs(np.remainder(gt - dt + np.pi, 2 * np.pi) - np.pi)
    return np.clip(1 - turn / np.pi, 0, 1)
