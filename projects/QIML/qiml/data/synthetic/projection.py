"""From the camera frame to pixels, in NumPy."""

import numpy as np

NEAR = 0.3


def project(points: np.ndarray, projection: np.ndarray) -> np.ndarray:
    """(..., 2) pixels of points (..., 3) in the camera frame, which must lie in front of it."""
    image = points @ projection[:, :3].T + projection[:, 3]
    return image[..., :2] / image[..., 2:]


def clip_near(polygon: np.ndarray) -> np.ndarray:
    """The part of a convex polygon (n, 3) with z >= `NEAR`; (0, 3) when there is none."""
    ahead = polygon[:, 2] >= NEAR
    if ahead.all():
        return polygon
    kept = []
    for i in range(len(polygon)):
        start, end = polygon[i - 1], polygon[i]
        if ahead[i - 1] != ahead[i]:
            share = (NEAR - start[2]) / (end[2] - start[2])
            kept.append(start + share * (end - start))
        if ahead[i]:
            kept.append(end)
    return np.array(kept).reshape(-1, 3)
