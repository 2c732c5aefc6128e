"""3D boxes drawn over a camera image."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qiml.structures.boxes3d import BOX_EDGES, Boxes3D, clip_segments
from qiml.structures.camera import Camera
from qiml.visualization import canvas
from qiml.visualization.canvas import Colour

# Of BOX_EDGES, those around the face 0 1 5 4.
_FRONT_EDGES = [0, 4, 8, 9]


def draw_boxes3d(
    image: np.ndarray,
    boxes3d: Boxes3D,
    camera: Camera,
    classes: Sequence[int] | np.ndarray | Tensor,
    class_names: Sequence[str],
    scores: Sequence[float] | np.ndarray | Tensor | None = None,
    gt_boxes3d: Boxes3D | None = None,
    boxes2d: np.ndarray | None = None,
) -> np.ndarray:
    """Draw 3D boxes over an image, far ones first, the front face tinted and outlined thickly.

    A label (class, score, distance) stands above each box where there is room for it; near boxes
    choose first. What reaches behind the camera is cut off.

    Args:
        image: (H, W, 3) uint8 RGB; not modified.
        boxes3d: N boxes, in metres, camera frame.
        camera: of this image, at its present size.
        classes: (N,) class numbers; they choose the colours.
        class_names: names by class number.
        scores: (N,) confidences to write beside the names.
        gt_boxes3d: ground truth, drawn below the others in thin white lines.
        boxes2d: (M, 4) XYXY in pixels, drawn below the others as thin white rectangles.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    image = np.array(image, order="C")
    camera = camera.to("cpu", torch.float64)
    boxes3d = boxes3d.to("cpu", torch.float64)
    thickness = canvas.line_thickness(image)
    if gt_boxes3d is not None:
        edges, visible = _project_edges(gt_boxes3d.to("cpu", torch.float64), camera)
        canvas.draw_segments(image, edges[visible], canvas.WHITE, max(1, thickness // 2))
    if boxes2d is not None:
        for corners in np.asarray(boxes2d, dtype=float)[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]:
            outline = np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)
            canvas.draw_segments(image, outline, canvas.WHITE)
    edges, visible = _project_edges(boxes3d, camera)
    depths = boxes3d.depth.tolist()
    nearest_first = np.argsort(depths, kind="stable").tolist()
    colours = [canvas.class_colour(int(category)) for category in classes]
    for i in reversed(nearest_first):
        _draw_box(image, edges[i], visible[i], colours[i], thickness)
    anchors = boxes3d.project(camera, image.shape[:2]).tolist()
    taken: list[tuple[int, int, int, int]] = []
    for i in nearest_first:
        score = "" if scores is None else f" {float(scores[i]):.2f}"
        text = f"{class_names[int(classes[i])]}{score}  {depths[i]:.0f} m"
        _draw_label(image, text, anchors[i], colours[i], taken)
    return image


def _draw_box(
    image: np.ndarray, edges: np.ndarray, visible: np.ndarray, colour: Colour, thickness: int
) -> None:
    front = edges[_FRONT_EDGES][visible[_FRONT_EDGES]]
    if len(front):
        canvas.fill_convex(image, front.reshape(-1, 2), colour, opacity=0.3)
    canvas.draw_segments(image, edges[visible], colour, max(1, thickness - 1))
    canvas.draw_segments(image, front, colour, thickness)


def _project_edges(boxes3d: Boxes3D, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 12, 2, 2) of what of each edge lies in front of the camera; which have any (N, 12)."""
    segments = boxes3d.corners()[:, torch.tensor(BOX_EDGES)]
    starts, ends, visible = clip_segments(segments[:, :, 0], segments[:, :, 1])
    pixels, _ = camera.project(torch.stack([starts, ends], dim=2).flatten(0, 1))
    return pixels.unflatten(0, visible.shape).numpy(), visible.numpy()


def _draw_label(
    image: np.ndarray,
    text: str,
    box: Sequence[float],
    colour: Colour,
    taken: list[tuple[int, int, int, int]],
) -> None:
    """Write a tag centred above a 2D box, unless it is tiny or another tag is there already."""
    scale, margin = 0.2 + 0.1 * canvas.line_thickness(image), 3
    width, height = canvas.text_size(text, scale)
    width += 2 * margin
    room_x, room_y = image.shape[1] - width, image.shape[0] - height
    x1, y1, x2, y2 = box
    if width > 4 * (x2 - x1) or y2 - y1 < height / 2 or min(room_x, room_y) < 0:
        return
    left = int(min(max((x1 + x2 - width) / 2, 0), room_x))
    top = int(min(max(y1 - height - 2, 0), room_y))
    right, bottom = left + width, top + height
    if any(left < r and x < right and top < b and t < bottom for x, t, r, b in taken):
        return
    taken.append((left, top, right, bottom))
    tag = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    canvas.fill_convex(image, tag, canvas.BLACK, opacity=0.55)
    canvas.draw_text(image, text, (left + margin, top), colour, scale)
