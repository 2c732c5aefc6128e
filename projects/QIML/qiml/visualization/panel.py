"""One picture of a prediction: boxes over the image, the bird's-eye view beside it, a legend.

Ground truth lies under the prediction (:func:`prediction_panel`) or beside it (:func:`comparison_panel`).
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from qiml.structures.boxes3d import Boxes3D
from qiml.structures.camera import Camera
from qiml.visualization import canvas
from qiml.visualization.bev import draw_bev, fitting_range
from qiml.visualization.boxes import draw_boxes3d

_TARGET_WIDTH = 1242
_STRIP: canvas.Colour = (22, 24, 28)


def prediction_panel(
    image: np.ndarray,
    camera: Camera,
    boxes3d: Boxes3D,
    classes: Sequence[int] | np.ndarray | Tensor,
    class_names: Sequence[str],
    scores: Sequence[float] | np.ndarray | Tensor | None = None,
    gt_boxes3d: Boxes3D | None = None,
    max_range: float | None = None,
    boxes2d: np.ndarray | None = None,
    title: str = "",
) -> np.ndarray:
    """Show predicted boxes, and ground truth in white, in the image and from above.

    Small images are enlarged by a whole factor to about the width of a KITTI frame.

    Args:
        image: (H, W, 3) uint8 RGB.
        camera: of this image.
        boxes3d: N predicted boxes.
        classes: (N,) class numbers.
        class_names: names by class number.
        scores: (N,) confidences.
        gt_boxes3d: true boxes.
        max_range: of the bird's-eye view; see :func:`draw_bev`.
        boxes2d: (M, 4) XYXY in pixels, drawn as white rectangles.
        title: written before the legend.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    factor = max(1, round(_TARGET_WIDTH / image.shape[1]))
    if factor > 1:
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        camera = camera.warp(torch.tensor([[factor, 0.0, 0.0], [0.0, factor, 0.0]]))
        boxes2d = None if boxes2d is None else factor * np.asarray(boxes2d)
    height, width = image.shape[:2]
    overlay = draw_boxes3d(
        image, boxes3d, camera, classes, class_names, scores, gt_boxes3d, boxes2d
    )
    size = (height, round(1.2 * height))
    bev = draw_bev(boxes3d, classes, gt_boxes3d, camera, width, size, max_range)
    picture = np.concatenate([overlay, bev], axis=1)
    entries = [(name, canvas.class_colour(i)) for i, name in enumerate(class_names)]
    if gt_boxes3d is not None:
        entries.append(("ground truth", canvas.WHITE))
    legend = _legend(title, entries, picture.shape[1], canvas.line_thickness(overlay))
    return np.concatenate([picture, legend], axis=0)


def comparison_panel(
    image: np.ndarray,
    camera: Camera,
    boxes3d: Boxes3D,
    classes: Sequence[int] | np.ndarray | Tensor,
    gt_boxes3d: Boxes3D,
    gt_classes: Sequence[int] | np.ndarray | Tensor,
    class_names: Sequence[str],
    scores: Sequence[float] | np.ndarray | Tensor | None = None,
    max_range: float | None = None,
) -> np.ndarray:
    """Show predicted boxes above and true boxes, in the same colours and scale, below.

    Args: as for :func:`prediction_panel`; `gt_classes` (M,) are class numbers of the true boxes.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    if max_range is None:
        max_range = fitting_range(boxes3d, gt_boxes3d)
    rows = (
        ("prediction", boxes3d, classes, scores),
        ("ground truth", gt_boxes3d, gt_classes, None),
    )
    return np.concatenate(
        [
            prediction_panel(
                image, camera, boxes, kinds, class_names, s, max_range=max_range, title=title
            )
            for title, boxes, kinds, s in rows
        ]
    )


def _legend(
    title: str, entries: Sequence[tuple[str, canvas.Colour]], width: int, thickness: int
) -> np.ndarray:
    scale, swatch, height = 0.25 + 0.1 * thickness, 6 + 3 * thickness, 14 + 6 * thickness
    strip = np.full((height, width, 3), _STRIP, dtype=np.uint8)
    x = 10
    if title:
        text_width, text_height = canvas.text_size(title, scale)
        canvas.draw_text(strip, title, (x, (height - text_height) // 2), canvas.WHITE, scale)
        x += text_width + 22
    for name, colour in entries:
        top, bottom = (height - swatch) / 2, (height + swatch) / 2
        square = np.array([(x, top), (x + swatch, top), (x + swatch, bottom), (x, bottom)])
        canvas.fill_convex(strip, square, colour, opacity=1)
        text_width, text_height = canvas.text_size(name, scale)
        corner = (x + swatch + 6, (height - text_height) // 2)
        canvas.draw_text(strip, name, corner, colour, scale)
        x += swatch + 6 + text_width + 22
    return strip
