"""Rectangles on the ground seen from the camera: which overlap, which hide others, which come first.

A footprint is (4, 2): x and z of a rectangle's corners in turning order; the camera is at (0, 0).
"""

import numpy as np


def separations(footprints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far rectangles lie outside each other's edges.

    Args:
        footprints: (N, 4, 2).

    Returns:
        (N, 4, N) metres by which rectangle k (last index) lies beyond edge e of rectangle i as a
        whole, negative when it does not; and (N, 4) the same for the camera.
    """
    edges = np.roll(footprints, -1, axis=1) - footprints
    normals = np.stack([edges[..., 1], -edges[..., 0]], axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    offsets = np.einsum("iec,iec->ie", normals, footprints)
    centres = footprints.mean(axis=1)
    sign = np.sign(offsets - np.einsum("iec,ic->ie", normals, centres))[..., None]
    normals, offsets = normals * sign, offsets * sign[..., 0]
    count = len(footprints)
    along = (normals.reshape(-1, 2) @ footprints.reshape(-1, 2).T).reshape(count, 4, count, 4)
    return along.min(axis=3) - offsets[:, :, None], -offsets


def overlaps(one: np.ndarray, other: np.ndarray, clearance: float) -> bool:
    """True when less than `clearance` metres lie between two rectangles along every edge normal."""
    beyond, _ = separations(np.stack([one, other]))
    return max(beyond[0, :, 1].max(), beyond[1, :, 0].max()) < clearance


def paint_order(footprints: np.ndarray) -> list[int]:
    """Order from back to front in which upright bodies may be painted over each other.

    A line along an edge of either rectangle that parts the two settles which one can hide the
    other; sorting by distance alone fails for a long lorry beside a car.

    Args:
        footprints: (N, 4, 2).
    """
    beyond, camera = separations(footprints)
    parted = beyond >= 0
    # i is in front of k when one line has k on one side and i and the camera on the other.
    own = (parted & (camera < 0)[:, :, None]).any(axis=1)
    others = (parted & (camera > 0)[:, :, None]).any(axis=1).T
    front = own | others
    before = front & ~front.T  # before[i, k]: k has to be painted before i
    distance = np.hypot(*footprints.mean(axis=1).T)
    waiting = np.argsort(-distance).tolist()
    blockers = [set(np.flatnonzero(row)) for row in before]
    order = []
    while waiting:
        # Without any free one (three bodies in a ring) the farthest goes first.
        chosen = next((i for i in waiting if not blockers[i]), waiting[0])
        waiting.remove(chosen)
        order.append(chosen)
        for blocked in blockers:
            blocked.discard(chosen)
    return order


def view_interval(footprint: np.ndarray) -> tuple[float, float, float]:
    """Distance of the nearest corner, and the first and last angle from the z axis (radians)."""
    angles = np.arctan2(footprint[:, 0], footprint[:, 1])
    return np.hypot(footprint[:, 0], footprint[:, 1]).min(), angles.min(), angles.max()


def visible_shares(intervals: np.ndarray) -> np.ndarray:
    """(N,) share of each interval (N, 3; see `view_interval`) that no nearer one covers."""
    nearest, first, last = intervals.T
    angles = first[:, None] + (last - first)[:, None] * np.linspace(0.05, 0.95, 10)
    inside = (angles[:, :, None] > first) & (angles[:, :, None] < last)
    nearer = nearest < nearest[:, None]
    return 1 - (inside & nearer[:, None, :]).any(axis=2).mean(axis=1)
