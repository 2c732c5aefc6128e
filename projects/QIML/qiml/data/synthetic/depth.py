"""True dense depth of a scene: of bodies and ground, as a LiDAR with endless points would give it."""

import cv2
import numpy as np

from qiml.data.synthetic.layout import Layout
from qiml.data.synthetic.render import SHIFT, Faces, to_pixels
from qiml.data.synthetic.surface import ground_depth


def draw_depth(layout: Layout, faces: Faces) -> np.ndarray:
    """(H, W) float32 metres along z of what each pixel shows; 0 for the sky and beyond the drawn ground.

    Args:
        layout: of the scene.
        faces: its bodies', in painting order.
    """
    depth = ground_depth(layout)
    polygons, kept = to_pixels(faces.polygons, layout.projection)
    shown = np.full(depth.shape, -1, np.int32)
    for face, polygon in zip(kept.tolist(), polygons, strict=True):
        cv2.fillConvexPoly(shown, polygon, face, cv2.LINE_8, SHIFT)
    rows, columns = np.nonzero(shown >= 0)
    depth[rows, columns] = _where_rays_meet(
        faces.polygons[shown[rows, columns]], columns + 0.5, rows + 0.5, layout.projection
    )
    return depth


def _where_rays_meet(
    polygons: np.ndarray, u: np.ndarray, v: np.ndarray, projection: np.ndarray
) -> np.ndarray:
    """(N,) z at which the ray through pixel (u, v) meets the plane of each polygon (N, K, 3)."""
    corner = polygons[:, 0]
    normal = np.cross(polygons[:, 2] - corner, polygons[:, 1] - corner)
    # The ray is z · direction + start, since a projection may have an offset.
    (fu, _, cu, tu), (_, fv, cv, tv), (*_, tz) = projection
    direction = np.stack([(u - cu) / fu, (v - cv) / fv, np.ones_like(u)], axis=1)
    start = np.stack([(u * tz - tu) / fu, (v * tz - tv) / fv, np.zeros_like(u)], axis=1)
    along = (normal * direction).sum(axis=1)
    depth = (normal * (corner - start)).sum(axis=1) / np.where(along == 0, 1e-12, along)
    # Beside the outline, within a pixel, and on faces seen edge-on, planes lead astray.
    return np.clip(depth, polygons[..., 2].min(axis=1), polygons[..., 2].max(axis=1))
