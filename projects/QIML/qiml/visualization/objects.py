"""A frame's objects, as files hold them, drawn in the way that is asked for."""

from collections.abc import Sequence

import numpy as np
import torch

from qiml.data.kitti_format import KITTIObjects
from qiml.structures.boxes3d import Boxes3D
from qiml.structures.camera import Camera
from qiml.visualization.boxes import draw_boxes3d
from qiml.visualization.panel import comparison_panel, prediction_panel

VIEWS = ("panel", "image", "beside")


def draw_objects(
    image: np.ndarray,
    projection: np.ndarray,
    objects: KITTIObjects,
    class_names: Sequence[str],
    truth: KITTIObjects | None = None,
    view: str = "panel",
    max_range: float | None = None,
    boxes2d: bool = False,
) -> np.ndarray:
    """Draw detections or labels, and ground truth with them.

    Args:
        image: (H, W, 3) uint8 RGB.
        projection: (3, 4) of the image.
        objects: with 3D boxes, of classes in `class_names`; scores are written where there are any.
        class_names: a class's place chooses its colour.
        truth: labels of classes in `class_names`.
        view: "panel": image and bird's-eye view, the truth in white; "image": the image alone; "beside": a
            panel for the objects and one for the truth.
        max_range: of the bird's-eye view in metres; None fits the farthest box.
        boxes2d: whether to draw the objects' 2D boxes, too.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    camera = Camera(torch.as_tensor(projection))
    boxes3d, classes = _boxes_and_classes(objects, class_names)
    scores = None if np.isnan(objects.score).any() else objects.score
    true_boxes, true_classes = (
        (None, ()) if truth is None else _boxes_and_classes(truth, class_names)
    )
    if view == "beside" and true_boxes is not None:
        return comparison_panel(
            image,
            camera,
            boxes3d,
            classes,
            true_boxes,
            true_classes,
            class_names,
            scores,
            max_range,
        )
    options = {"scores": scores, "gt_boxes3d": true_boxes}
    options["boxes2d"] = objects.bbox if boxes2d else None
    if view == "image":
        return draw_boxes3d(image, boxes3d, camera, classes, class_names, **options)
    return prediction_panel(
        image, camera, boxes3d, classes, class_names, max_range=max_range, **options
    )


def _boxes_and_classes(
    objects: KITTIObjects, class_names: Sequence[str]
) -> tuple[Boxes3D, list[int]]:
    boxes3d = Boxes3D.from_kitti(objects.location, objects.dimensions, objects.rotation_y)
    numbers = {name: number for number, name in enumerate(class_names)}
    return boxes3d, [numbers[name] for name in objects.types.tolist()]
