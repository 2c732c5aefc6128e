"""Detections of images in memory."""

from collections.abc import Sequence

import numpy as np
import torch

from qiml.data.kitti_format import KITTIObjects
from qiml.data.mapper import MonocularMapper
from qiml.data.sources import Frame
from qiml.evaluation.kitti_evaluator import to_kitti_objects
from qiml.modeling.detector import MonocularDetector3D


class Predictor:
    """A detector with all that it needs around it.

    Args:
        model: with its weights, in eval mode.
        mapper: of evaluation.
        class_names: by class number.
    """

    def __init__(
        self, model: MonocularDetector3D, mapper: MonocularMapper, class_names: Sequence[str]
    ):
        self.model, self.mapper, self.class_names = model, mapper, list(class_names)

    @torch.inference_mode()
    def __call__(
        self, frames: Sequence[Frame], projections: Sequence[np.ndarray]
    ) -> list[KITTIObjects]:
        """Detections of a batch of frames, which may differ in size.

        Args:
            frames: the images.
            projections: of each, (3, 4).

        Returns:
            Objects with scores for each frame, in pixels of its image.
        """
        outputs = self.model([self._map(*pair) for pair in zip(frames, projections, strict=True)])
        return [
            to_kitti_objects(output["instances"], self.class_names, frame.id)
            for frame, output in zip(frames, outputs, strict=True)
        ]

    def _map(self, frame: Frame, projection: np.ndarray) -> dict:
        height, width = frame.image.shape[:2]
        return self.mapper.map_image(
            frame.image,
            {
                "file_name": frame.source,
                "image_id": frame.id,
                "height": height,
                "width": width,
                "camera": projection.tolist(),
            },
        )
