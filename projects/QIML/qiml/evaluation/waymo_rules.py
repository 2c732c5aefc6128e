"""What Waymo's 3D detection metric counts, as data: types, ranges, thresholds, cut-offs.

Source: the metric's tools in waymo-research/waymo-open-dataset
(`metrics/tools/compute_detection_metrics_main.cc`, `compute_detection_let_metrics_main.cc`,
`metrics/breakdown_generator.cc`, `metrics/metrics_utils.cc`).
"""

from collections.abc import Mapping

import numpy as np

from qiml.errors import ConfigError

# Numbers of `Label.Type`; 0 is "unknown", which is in no row.
TYPES = {1: "VEHICLE", 2: "PEDESTRIAN", 3: "SIGN", 4: "CYCLIST"}
LEVELS = (1, 2)
# Rows by distance of a box's centre from the origin of its frame, metres: from (included) to (excluded).
RANGES = ("[0, 30)", "[30, 50)", "[50, +inf)")
RANGE_LIMITS = (30.0, 50.0)

# Most points of a LEVEL_2 object.
LEVEL_2_POINTS = 5

OFFICIAL_IOU: Mapping[int, float] = {1: 0.7, 2: 0.5, 3: 0.5, 4: 0.5}
LET_IOU: Mapping[int, float] = {1: 0.5, 2: 0.3, 3: 0.3, 4: 0.3}
# 0, 0.01, … 1; the tool computes them in double precision and stores floats.
OFFICIAL_CUTOFFS = np.array([*(i * 0.01 for i in range(100)), 1.0], dtype=np.float32)

# Longitudinal-error tolerance: share of the distance, at least so many metres, seen from the mean
# of the cameras in the vehicle frame.
LET_TOLERANCE = 0.1
LET_MIN_TOLERANCE = 0.5
LET_SENSOR = (1.43, 0.0, 2.18)


def difficulty_levels(points: np.ndarray, annotated: np.ndarray) -> np.ndarray:
    """LEVEL_1 or LEVEL_2 of objects.

    Args:
        points: (N,) LiDAR points inside each box.
        annotated: (N,) level given by the annotators; 0 where they gave none.
    """
    return np.where(annotated > 0, annotated, np.where(points <= LEVEL_2_POINTS, 2, 1))


def row_names() -> list[str]:
    """The metric's rows in the official order: types, then types by range; two levels each."""
    rows = [f"OBJECT_TYPE_TYPE_{name}" for name in TYPES.values()]
    rows += [f"RANGE_TYPE_{name}_{interval}" for name in TYPES.values() for interval in RANGES]
    return [f"{row}_LEVEL_{level}" for row in rows for level in LEVELS]


def quantile_cutoffs(scores: np.ndarray, count: int) -> np.ndarray:
    """Cut-offs spread over the scores, for the older `num_desired_score_cutoffs`.

    Source: `DecideScoreCutoffs` in `metrics/metrics_utils.cc`.

    Args:
        scores: (N,) of all detections.
        count: cut-offs wanted. With no more scores than that they are spread evenly over [0, 1].

    Returns:
        (count,) float32, ascending.
    """
    scores = np.sort(np.asarray(scores, dtype=np.float32))
    if count == 1:
        return np.zeros(1, dtype=np.float32)
    if count >= len(scores):
        return np.linspace(0, 1, count, dtype=np.float32)
    left, index, cutoffs = len(scores), 0, [scores[0]]
    for buckets in range(count - 1, 1, -1):
        size = left // buckets
        left, index = left - size, index + size
        cutoffs.append(np.clip(scores[index], 0, 1))
    return np.array([*cutoffs, 1.0], dtype=np.float32)


def iou_thresholds(given: Mapping[int | str, float] | None, let: bool) -> dict[int, float]:
    """A threshold for each of `TYPES`.

    Args:
        given: number or name (any case, with or without `TYPE_`) → IoU; types left out keep the official
            value.
        let: whether those of the longitudinal-error-tolerant metric are the official ones.

    Raises:
        ConfigError: an unknown type, or a threshold outside (0, 1].
    """
    numbers = {name: number for number, name in TYPES.items()}
    thresholds = dict(LET_IOU if let else OFFICIAL_IOU)
    for key, value in (given or {}).items():
        name = str(key).upper().removeprefix("TYPE_")
        number = numbers.get(name, int(name) if name.isdecimal() else None)
        if number not in TYPES:
            raise ConfigError(
                "IoU thresholds",
                found=f"{key!r}",
                expected=f"a type among {', '.join(numbers)}",
                mend="correct the name, or give the number of Label.Type",
            )
        if not 0 < value <= 1:
            raise ConfigError(
                f"IoU threshold of {TYPES[number]}",
                found=str(value),
                expected="more than 0, at most 1",
                mend="correct the value; the official ones are 0.7 (vehicle) and 0.5",
            )
        thresholds[number] = float(value)
    return thresholds
