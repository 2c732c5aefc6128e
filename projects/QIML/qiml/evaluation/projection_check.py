"""Whether 3D boxes and 2D boxes of the same objects agree: finds a wrong calibration or frame at a glance."""

import numpy as np
import torch

from qiml.data.kitti_format import KITTIObjects
from qiml.evaluation.rotated_iou import over_union
from qiml.structures.boxes3d import Boxes3D
from qiml.structures.camera import Camera


def projection_overlaps(
    objects: KITTIObjects, projection: np.ndarray, image_size: tuple[int, int] | np.ndarray
) -> np.ndarray:
    """IoU of each object's 2D box with the rectangle around its projected 3D box, clipped to the image.

    KITTI's labels of untruncated cars reach 0.95 and more; those of truncated ones do not, as their 2D
    boxes end where an annotator saw the car end.

    Args:
        objects: N labels or detections with 3D boxes.
        projection: (3, 4), or (N, 3, 4) one for each.
        image_size: (height, width) in pixels, or (N, 2).

    Returns:
        (N,) in [0, 1].
    """
    boxes3d = Boxes3D.from_kitti(objects.location, objects.dimensions, objects.rotation_y)
    limits = np.tile(np.asarray(image_size, dtype=float)[..., ::-1], 2)
    projected = boxes3d.project(Camera(torch.as_tensor(projection))).numpy().clip(0, limits)
    labelled = objects.bbox
    shared = np.minimum(projected, labelled)[:, 2:] - np.maximum(projected, labelled)[:, :2]
    areas = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (projected, labelled))
    return over_union(np.prod(np.clip(shared, 0, None), axis=1), *areas)
