"""What KITTI's object benchmark counts, as data: difficulties, classes, overlaps.

Source: the development kit of KITTI's site since 2017 (`evaluate_object.cpp`,
https://www.cvlibs.net/datasets/kitti/eval_object.php).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from qiml.data.kitti_format import KITTIObjects
from qiml.errors import ConfigError

METRICS = ("2d", "aos", "bev", "3d")
RECALL_POINTS = 41

# Classes so alike that a detection of the first may sit on an object of the second unpunished.
NEIGHBOURS = {"car": "van", "pedestrian": "person_sitting"}

# Detections whose alpha is this are without orientation.
NO_ORIENTATION = -10.0
NOT_GIVEN = -1000.0


@dataclass(frozen=True)
class Difficulty:
    """Which objects must be found. The others are ignored: neither found nor missed.

    Args:
        name: as printed.
        min_height: of the 2D box, pixels. Objects must exceed it, detections must reach it.
        max_occlusion: KITTI's level (0 visible, 1 partly, 2 largely occluded, 3 unknown).
        max_truncation: share of the object outside the image.
        depth_range: z of objects and of detections, metres; from (included) to (excluded).
    """

    name: str
    min_height: float
    max_occlusion: float
    max_truncation: float
    depth_range: tuple[float, float] = (-math.inf, math.inf)

    def ignores_objects(self, objects: KITTIObjects) -> np.ndarray:
        """(N,) mask of ground truth that is not evaluated."""
        height = objects.bbox[:, 3] - objects.bbox[:, 1]
        return (
            (objects.occlusion > self.max_occlusion)
            | (objects.truncation > self.max_truncation)
            | (height <= self.min_height)
            | ~self._in_range(objects)
        )

    def ignores_detections(self, detections: KITTIObjects) -> np.ndarray:
        """(N,) mask of detections, whatever their class, that are not evaluated."""
        # The devkit drops the height's fraction, which makes no difference to whole limits.
        height = np.abs(detections.bbox[:, 1] - detections.bbox[:, 3])
        return (height < self.min_height) | ~self._in_range(detections)

    def _in_range(self, objects: KITTIObjects) -> np.ndarray:
        nearest, farthest = self.depth_range
        z = objects.location[:, 2]
        return (nearest <= z) & (z < farthest)


KITTI_DIFFICULTIES = (
    Difficulty("easy", min_height=40, max_occlusion=0, max_truncation=0.15),
    Difficulty("moderate", min_height=25, max_occlusion=1, max_truncation=0.3),
    Difficulty("hard", min_height=25, max_occlusion=2, max_truncation=0.5),
)
# For images that are not of KITTI's size, where limits in pixels mean little.
VISIBLE = Difficulty("visible", min_height=0, max_occlusion=2, max_truncation=0.5)


def difficulties_with_visible(min_height: float) -> tuple[Difficulty, ...]:
    """KITTI's difficulties and, unless `min_height` (pixels) is 0, "visible" with that height."""
    if min_height <= 0:
        return KITTI_DIFFICULTIES
    return (*KITTI_DIFFICULTIES, replace(VISIBLE, min_height=min_height))


@dataclass(frozen=True)
class Overlaps:
    """Intersections over union that a detection must exceed to count as found."""

    image: float
    ground: float
    volume: float

    def of(self, metric: str) -> float:
        """The limit of a metric of `METRICS`; orientation is judged where 2D boxes match."""
        return {"bev": self.ground, "3d": self.volume}.get(metric, self.image)


KITTI_OVERLAPS: Mapping[str, Mapping[str, Overlaps]] = {
    "strict": {
        "Car": Overlaps(0.7, 0.7, 0.7),
        "Pedestrian": Overlaps(0.5, 0.5, 0.5),
        "Cyclist": Overlaps(0.5, 0.5, 0.5),
    },
    "relaxed": {
        "Car": Overlaps(0.7, 0.5, 0.5),
        "Pedestrian": Overlaps(0.5, 0.25, 0.25),
        "Cyclist": Overlaps(0.5, 0.25, 0.25),
    },
}
KITTI_CLASSES = tuple(KITTI_OVERLAPS["strict"])


def check_classes(classes: tuple[str, ...], overlaps: Mapping[str, Mapping[str, Overlaps]]) -> None:
    """Raise ConfigError for a class without minimal overlaps."""
    for table in overlaps.values():
        for name in classes:
            if name not in table:
                raise ConfigError(
                    "classes",
                    found=f"'{name}'",
                    expected=f"classes among {' '.join(table)}",
                    mend="correct the name, or give the class its minimal overlaps",
                )


def evaluated_metrics(detections: KITTIObjects) -> set[str]:
    """The metrics for which at least one detection has what it takes.

    Args:
        detections: all detections of one class. (Orientation depends on all classes: see
            `has_orientation`.)

    Returns:
        A subset of 2d, bev, 3d.
    """
    height, width, length = detections.dimensions.T
    x, y, z = detections.location.T
    on_ground = (x != NOT_GIVEN) & (z != NOT_GIVEN) & (width > 0) & (length > 0)
    usable = {
        "2d": detections.bbox[:, 0] >= 0,
        "bev": on_ground,
        "3d": on_ground & (y != NOT_GIVEN) & (height > 0),
    }
    return {metric for metric, mask in usable.items() if mask.any()}


def has_orientation(detections: KITTIObjects) -> bool:
    """Whether orientation is judged: one detection without it, of any class, and it is not."""
    return not (detections.alpha == NO_ORIENTATION).any()
