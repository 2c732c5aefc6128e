"""Between Waymo's vehicle frame (x forward, y left, z up) and a camera's (x right, y down, z forward)."""

import numpy as np

# Axes of the optical frame in those of a camera frame that looks along x with z up.
_OPTICAL = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])


def camera_to_vehicle(extrinsic: np.ndarray) -> np.ndarray:
    """(4, 4) optical camera frame → vehicle frame.

    Args:
        extrinsic: (16,) or (4, 4) Waymo's: a camera frame with x forward, y left, z up → vehicle.
    """
    matrix = np.array(extrinsic, dtype=float).reshape(4, 4)
    matrix[:3, :3] = matrix[:3, :3] @ _OPTICAL.T
    return matrix


def boxes_to_camera(boxes: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Boxes seen from a camera.

    A camera that is not level tilts the boxes; they keep their heading in the ground plane and are upright
    in the result.

    Args:
        boxes: (N, 7) x, y, z of the centre, l, w, h, heading (from x to y); vehicle frame.
        pose: (4, 4) of :func:`camera_to_vehicle`.

    Returns:
        (N, 7) x, y, z of the centre, h, w, l, yaw about +y in [−π, π), as in `Boxes3D`; camera frame.
    """
    boxes = np.asarray(boxes, dtype=float).reshape(-1, 7)
    rotation, position = pose[:3, :3], pose[:3, 3]
    centre = (boxes[:, :3] - position) @ rotation
    heading = boxes[:, 6]
    forward = np.stack([np.cos(heading), np.sin(heading), 0 * heading], axis=1) @ rotation
    yaw = _wrapped(np.arctan2(-forward[:, 2], forward[:, 0]))
    return np.column_stack([centre, boxes[:, [5, 4, 3]], yaw])


def boxes_to_vehicle(boxes: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """The inverse of :func:`boxes_to_camera`: exact for a level camera, else to second order of its tilt."""
    boxes = np.asarray(boxes, dtype=float).reshape(-1, 7)
    rotation, position = pose[:3, :3], pose[:3, 3]
    centre = boxes[:, :3] @ rotation.T + position
    yaw = boxes[:, 6]
    forward = np.stack([np.cos(yaw), 0 * yaw, -np.sin(yaw)], axis=1) @ rotation.T
    heading = _wrapped(np.arctan2(forward[:, 1], forward[:, 0]))
    return np.column_stack([centre, boxes[:, [5, 4, 3]], heading])


def _wrapped(angle: np.ndarray) -> np.ndarray:
    return np.where(angle >= np.pi, -np.pi, angle)
