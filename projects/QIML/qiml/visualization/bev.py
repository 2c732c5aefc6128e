"""Bird's-eye view: boxes seen from above, with range rings and the camera's field of view."""

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qiml.structures.boxes3d import Boxes3D
from qiml.structures.camera import Camera
from qiml.visualization import canvas
from qiml.visualization.canvas import Colour

_BACKGROUND: Colour = (22, 24, 28)
_IN_VIEW: Colour = (38, 41, 48)
_RING: Colour = (78, 84, 96)
_RING_LABEL: Colour = (150, 156, 168)


def draw_bev(
    boxes3d: Boxes3D,
    classes: Sequence[int] | np.ndarray | Tensor,
    gt_boxes3d: Boxes3D | None = None,
    camera: Camera | None = None,
    image_width: int | None = None,
    size: tuple[int, int] = (600, 600),
    max_range: float | None = None,
) -> np.ndarray:
    """Draw boxes from above, the camera at the bottom, looking up; front edges are the thick ones.

    Args:
        boxes3d: N boxes, in metres, camera frame.
        classes: (N,) class numbers; they choose the colours.
        gt_boxes3d: ground truth, drawn in white outlines.
        camera: with `image_width` shows the field of view as a lighter wedge.
        image_width: of the camera's image, in pixels.
        size: (height, width) of the picture in pixels.
        max_range: depth in metres at the upper border, the same scale sideways; None fits the
            farthest box. Give a number where pictures are to be compared.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    if max_range is None:
        max_range = fitting_range(boxes3d, gt_boxes3d)
    angles = None if camera is None or image_width is None else _view_angles(camera, image_width)
    image = _ground(size, max_range, angles).copy()
    view = _View(size, max_range)
    colours = [canvas.class_colour(int(category)) for category in classes]
    footprints = _footprints(boxes3d, view)
    canvas.fill_quads(image, footprints, colours, opacity=0.5)
    for corners, colour in zip(footprints, colours, strict=True):
        _draw_outline(image, corners, colour)
    for corners in () if gt_boxes3d is None else _footprints(gt_boxes3d, view):
        _draw_outline(image, corners, canvas.WHITE)
    return image


class _View:
    """Metres on the ground (x right, z forward) to pixels of the picture."""

    def __init__(self, size: tuple[int, int], max_range: float):
        height, width = size
        margin = 0.04 * height
        self.scale = (height - margin) / max_range
        self.origin = np.array([width / 2, height - margin])

    def __call__(self, ground: np.ndarray) -> np.ndarray:
        return self.origin + np.asarray(ground) * (self.scale, -self.scale)


def _view_angles(camera: Camera, image_width: int) -> tuple[float, float]:
    borders = camera.projection.new_tensor([0, image_width])
    left, right = camera.ray_angle(borders).tolist()
    return left, right


def fitting_range(boxes3d: Boxes3D, gt_boxes3d: Boxes3D | None) -> float:
    """Depth in metres, whole tens from 30 to 100, that shows the farthest box of both."""
    depths = torch.cat([boxes.depth.cpu() for boxes in (boxes3d, gt_boxes3d) if boxes is not None])
    farthest = depths.max().item() if len(depths) else 0.0
    return min(max(10 * math.ceil((farthest + 4) / 10), 30), 100)


@functools.lru_cache(maxsize=8)
def _ground(
    size: tuple[int, int], max_range: float, angles: tuple[float, float] | None
) -> np.ndarray:
    """Field of view, labelled range rings every 10 m (20 m where crowded) and the camera itself.

    The same in all frames of a video, and slow to draw: remembered, so not to be changed.
    """
    image, view = np.full((*size, 3), _BACKGROUND, dtype=np.uint8), _View(size, max_range)
    reach = 2 * max_range
    if angles is not None:
        borders = [(reach * np.sin(angle), reach * np.cos(angle)) for angle in angles]
        canvas.fill_convex(image, view(np.array([(0, 0), *borders])), _IN_VIEW, opacity=1)
    label_angle = np.radians(40) if angles is None else angles[1]
    step = 10 if max_range <= 50 else 20
    for radius in range(step, int(reach), step):
        canvas.draw_circle(image, view.origin, radius * view.scale, _RING)
        _label_ring(image, view, radius, label_angle)
    size = 0.015 * image.shape[0]
    triangle = view.origin + size * np.array([(0, -1.2), (0.9, 0.8), (-0.9, 0.8)])
    canvas.fill_convex(image, triangle, _RING_LABEL, opacity=1)
    return image


def _label_ring(image: np.ndarray, view: _View, radius: float, angle: float) -> None:
    """Write the radius on the ring, at the angle or, if that is outside, at the right border."""
    text, scale = f"{radius} m", 0.2 + 0.1 * canvas.line_thickness(image)
    width, height = canvas.text_size(text, scale)
    border = (image.shape[1] / 2 - width) / view.scale
    x = min(radius * np.sin(angle), border)
    corner = view((x, (radius**2 - x**2) ** 0.5)) - (width / 2, height / 2)
    if corner[1] < 0:
        return
    tag = corner + np.array([(-3, 0), (width + 3, 0), (width + 3, height), (-3, height)])
    canvas.fill_convex(image, tag, _BACKGROUND, opacity=1)
    canvas.draw_text(image, text, tuple(corner), _RING_LABEL, scale)


def _footprints(boxes3d: Boxes3D, view: _View) -> np.ndarray:
    """(N, 4, 2) pixels of the bottom corners, the front edge first."""
    return view(boxes3d.corners()[:, :4, [0, 2]].cpu().numpy())


def _draw_outline(image: np.ndarray, corners: np.ndarray, colour: Colour) -> None:
    outline = np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)
    canvas.draw_segments(image, outline, colour)
    canvas.draw_segments(image, outline[:1], colour, canvas.line_thickness(image) + 1)
