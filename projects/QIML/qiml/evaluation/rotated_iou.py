"""Exact overlap of rotated boxes, vectorised, in NumPy alone.

The intersection of two rectangles is found without building its polygon. Seen from rectangle B,
whose sides are then parallel to the axes, clamping every point of the plane to B maps the outline
of A onto a closed path that encloses exactly what A and B share (points outside B land on B's
border, where they enclose nothing). The area inside that path is an integral along the four sides
of A, of functions that are piecewise linear. Nothing is decided by comparing nearly equal numbers,
so identical, touching, nested, flat and far-away boxes need no special case, and rounding errors in
stay rounding errors out.
"""

from typing import NamedTuple

import numpy as np

# The corners of a rectangle anticlockwise, in halves of its sizes.
_ALONG = np.array([1.0, -1.0, -1.0, 1.0])[:, None]
_ACROSS = np.array([1.0, 1.0, -1.0, -1.0])[:, None]


class Rectangles(NamedTuple):
    """Footprints in the camera's ground plane: all (N,), metres and radians (about +y)."""

    x: np.ndarray
    z: np.ndarray
    width: np.ndarray
    length: np.ndarray
    yaw: np.ndarray

    def take(self, index: np.ndarray) -> "Rectangles":
        """The rectangles picked by an index array (repeats allowed) or a mask."""
        return Rectangles(*(column[index] for column in self))

    def circles(self) -> "Circles":
        """The circles around the rectangles."""
        return Circles(self.x, self.z, np.hypot(self.width, self.length) / 2)


class Circles(NamedTuple):
    """Circles in the ground plane: all (N,), metres."""

    x: np.ndarray
    z: np.ndarray
    radius: np.ndarray

    def take(self, index: np.ndarray) -> "Circles":
        """As :meth:`Rectangles.take`."""
        return Circles(*(column[index] for column in self))


def intersection_area(a: Rectangles, b: Rectangles) -> np.ndarray:
    """Area shared by a[i] and b[i].

    Args:
        a, b: N rectangles each. The sign of a size does not matter.

    Returns:
        (N,) square metres.
    """
    half_length, half_width = np.abs(b.length) / 2, np.abs(b.width) / 2
    u, v = _corners_seen_from(a, b)
    du, dv = np.roll(u, -1, axis=0) - u, np.roll(v, -1, axis=0) - v
    # Sides of A as u + t·du, v + t·dv, 0 ≤ t ≤ 1. Only while v is inside B does the path advance
    # in v; on that stretch, u is clamped before `bend_in` and after `bend_out`.
    start, end = _inside(v, dv, half_width, 0.0, 1.0)
    bend_in, bend_out = _inside(u, du, half_length, start, end)
    area = np.zeros_like(u)
    for t0, t1 in ((start, bend_in), (bend_in, bend_out), (bend_out, end)):
        middle = u + (t0 + t1) / 2 * du
        area += np.clip(middle, -half_length, half_length) * (t1 - t0)
    area = (area * dv).sum(axis=0)
    smaller = np.minimum(np.abs(a.width * a.length), np.abs(b.width * b.length))
    return np.clip(area, 0.0, smaller)


def _corners_seen_from(a: Rectangles, b: Rectangles) -> tuple[np.ndarray, np.ndarray]:
    """(4, N) coordinates of A's corners along B's length and B's width, from B's centre."""
    x, z = a.x - b.x, a.z - b.z
    cosine, sine = np.cos(b.yaw), np.sin(b.yaw)
    centre_u, centre_v = cosine * x - sine * z, sine * x + cosine * z
    turn = a.yaw - b.yaw
    cosine, sine = np.cos(turn), np.sin(turn)
    along, across = _ALONG * np.abs(a.length) / 2, _ACROSS * np.abs(a.width) / 2
    return centre_u + cosine * along + sine * across, centre_v - sine * along + cosine * across


def _inside(
    position: np.ndarray,
    step: np.ndarray,
    limit: np.ndarray,
    lowest: np.ndarray | float,
    highest: np.ndarray | float,
) -> tuple[np.ndarray, np.ndarray]:
    """The t at which position + t·step enters and leaves ±limit, both within lowest … highest."""
    # A point that does not move has no crossings; whatever stands here, its path is straight.
    step = np.where(step == 0, 1.0, step)
    with np.errstate(over="ignore"):
        one, other = (-limit - position) / step, (limit - position) / step
    enter, leave = np.minimum(one, other), np.maximum(one, other)
    return np.clip(enter, lowest, highest), np.clip(leave, lowest, highest)


def vertical_overlap(
    bottom_a: np.ndarray, height_a: np.ndarray, bottom_b: np.ndarray, height_b: np.ndarray
) -> np.ndarray:
    """Height shared by upright boxes given the y (down) of their bottom faces; never negative."""
    lowest = np.minimum(bottom_a, bottom_b)
    highest = np.maximum(bottom_a - height_a, bottom_b - height_b)
    return np.maximum(lowest - highest, 0.0)


def over_union(shared: np.ndarray, size_a: np.ndarray, size_b: np.ndarray) -> np.ndarray:
    """Intersection over union; 0 where either is nothing, or a detection's size is negative."""
    both = (size_a > 0) & (size_b > 0)
    return ratio(shared, np.where(both, size_a + size_b - shared, 0.0))


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole; 0 where the whole is not positive."""
    return np.divide(part, whole, out=np.zeros_like(whole, dtype=float), where=whole > 0)


def near(a: Circles, b: Circles) -> np.ndarray:
    """(N,) whether a[i] and b[i] meet; only boxes whose circles do can overlap."""
    return (a.x - b.x) ** 2 + (a.z - b.z) ** 2 <= (a.radius + b.radius) ** 2


def rotated_iou_bev(boxes_a: np.ndarray, boxes_b: np.ndarray) -> np.ndarray:
    """Intersection over union of all pairs of footprints, seen from above.

    Args:
        boxes_a: (N, 7) x, y, z of the geometric centre, h, w, l (metres), yaw about +y (radians);
            camera frame, as in `Boxes3D.tensor`.
        boxes_b: (M, 7).

    Returns:
        (N, M) float64, 0 to 1.
    """
    return _all_pairs(boxes_a, boxes_b, _paired_iou_bev)


def rotated_iou_3d(boxes_a: np.ndarray, boxes_b: np.ndarray) -> np.ndarray:
    """Intersection over union of the volumes of all pairs; see :func:`rotated_iou_bev`."""
    return _all_pairs(boxes_a, boxes_b, _paired_iou_3d)


def _footprints(boxes: np.ndarray) -> Rectangles:
    return Rectangles(boxes[:, 0], boxes[:, 2], boxes[:, 4], boxes[:, 5], boxes[:, 6])


def _all_pairs(boxes_a: np.ndarray, boxes_b: np.ndarray, paired_iou) -> np.ndarray:
    boxes_a, boxes_b = (np.asarray(b, dtype=float).reshape(-1, 7) for b in (boxes_a, boxes_b))
    iou = np.zeros((len(boxes_a), len(boxes_b)))
    circles_a, circles_b = _footprints(boxes_a).circles(), _footprints(boxes_b).circles()
    rows, columns = np.nonzero(near(circles_a.take(np.s_[:, None]), circles_b))
    iou[rows, columns] = paired_iou(boxes_a[rows], boxes_b[columns])
    return iou


def _paired_iou_bev(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    shared = intersection_area(_footprints(a), _footprints(b))
    return over_union(shared, a[:, 4] * a[:, 5], b[:, 4] * b[:, 5])


def _paired_iou_3d(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    shared = intersection_area(_footprints(a), _footprints(b))
    bottom_a, bottom_b = a[:, 1] + a[:, 3] / 2, b[:, 1] + b[:, 3] / 2
    shared *= vertical_overlap(bottom_a, a[:, 3], bottom_b, b[:, 3])
    return over_union(shared, a[:, 3:6].prod(axis=1), b[:, 3:6].prod(axis=1))
