"""The picture of one frame of a data set with what was detected in it."""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.structures import Instances

from qiml.data.images import read_image
from qiml.structures.boxes3d import Boxes3D
from qiml.structures.camera import Camera
from qiml.visualization.panel import prediction_panel


def frame_panel(frame: dict, found: Instances, class_names: Sequence[str]) -> np.ndarray:
    """Detections, and labels in white where there are any, in the image and from above.

    Args:
        frame: a dataset dict: `file_name`, `camera` and, for labels, `annotations` with `box3d`.
        found: with `pred_boxes3d`, `pred_classes` and `scores`.
        class_names: names by class number.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DatasetError: the image is missing or does not decode.
    """
    labels = None
    if "annotations" in frame:
        boxes = [annotation["box3d"] for annotation in frame["annotations"]]
        labels = Boxes3D(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 7))
    return prediction_panel(
        read_image(frame["file_name"]),
        Camera(torch.tensor(frame["camera"])),
        found.pred_boxes3d,
        found.pred_classes,
        class_names,
        found.scores,
        labels,
    )
