"""What KITTI's label files say about a scene, as numbers: how many objects, where and how large.

The tables were fitted once to the labels of 3098 frames of KITTI's object benchmark (Geiger et al.,
CVPR 2012); no label is kept here. Trams and "Misc" (2.6 % of the objects) are left out.
"""

from dataclasses import dataclass

import numpy as np

VEHICLES = ("Car", "Van", "Truck")
PEOPLE = ("Pedestrian", "Cyclist", "Person_sitting")
CLASSES = VEHICLES + PEOPLE


@dataclass(frozen=True)
class ClassStatistics:
    """Sizes and depths of one class.

    Attributes:
        mean, deviation, smallest, largest: (h, w, l) in metres.
        correlation: of (h, w), (h, l) and (w, l).
        depth: quantiles of z in metres at `DEPTH_LEVELS`.
    """

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    correlation: tuple[float, float, float]
    smallest: tuple[float, float, float]
    largest: tuple[float, float, float]
    depth: tuple[float, ...]


DEPTH_LEVELS = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)
# Centres nearer than 2 m are rare in KITTI (0.3 %) and show a wall of paint: left out.
STATISTICS = {
    "Car": ClassStatistics(
        (1.518, 1.625, 3.890), (0.127, 0.103, 0.418), (0.36, 0.20, 0.35),
        (1.22, 1.14, 2.40), (2.30, 2.04, 5.24),
        (2.0, 6.2, 9.5, 17.3, 27.7, 40.7, 53.9, 63.2, 81.7),
    ),
    "Van": ClassStatistics(
        (2.170, 1.892, 5.029), (0.313, 0.156, 0.797), (0.59, 0.83, 0.64),
        (1.65, 1.52, 3.18), (2.91, 2.52, 6.91),
        (2.5, 7.3, 10.8, 19.2, 32.1, 50.4, 62.4, 69.2, 82.4),
    ),
    "Truck": ClassStatistics(
        (3.451, 2.619, 9.902), (0.435, 0.257, 3.148), (0.49, 0.70, 0.33),
        (2.32, 2.06, 5.42), (4.20, 3.01, 16.44),
        (5.0, 9.1, 16.4, 31.1, 41.6, 54.7, 69.9, 75.6, 94.4),
    ),
    "Pedestrian": ClassStatistics(
        (1.743, 0.701, 0.842), (0.114, 0.153, 0.231), (0.29, 0.32, 0.35),
        (1.18, 0.40, 0.40), (1.99, 1.06, 1.44),
        (2.5, 5.6, 6.8, 9.6, 14.8, 21.2, 28.1, 35.2, 72.0),
    ),
    "Cyclist": ClassStatistics(
        (1.731, 0.616, 1.748), (0.088, 0.161, 0.132), (0.09, 0.33, 0.47),
        (1.41, 0.40, 1.32), (2.09, 0.93, 2.00),
        (2.5, 6.2, 8.6, 13.7, 19.1, 29.1, 40.5, 48.6, 61.7),
    ),
    "Person_sitting": ClassStatistics(
        (1.262, 0.587, 0.807), (0.066, 0.074, 0.228), (-0.04, 0.19, -0.40),
        (1.05, 0.48, 0.50), (1.39, 0.78, 1.33),
        (2.7, 3.6, 4.4, 6.6, 9.4, 13.2, 16.6, 19.4, 25.7),
    ),
}  # fmt: skip

# Two kinds of frames: streets with pedestrians (24 %) hold fewer cars and more cyclists. A count is
# `least` plus a negative binomial number of the given mean and variance / mean. Every KITTI frame
# shows an object, hence the 1 of cars or pedestrians.
STREET_SHARE = 0.239
STREET_COUNTS = {  # class: (least, mean of the rest, variance / mean of the rest)
    "Car": (0, 2.07, 2.35),
    "Van": (0, 0.32, 1.01),
    "Truck": (0, 0.07, 1.01),
    "Pedestrian": (1, 2.28, 3.60),
    "Cyclist": (0, 0.58, 1.67),
    "Person_sitting": (0, 0.28, 3.09),
}
ROAD_COUNTS = {
    "Car": (1, 3.92, 2.71),
    "Van": (0, 0.44, 1.04),
    "Truck": (0, 0.17, 1.01),
    "Pedestrian": (0, 0.0, 1.01),
    "Cyclist": (0, 0.07, 1.05),
    "Person_sitting": (0, 0.0, 1.01),
}
# Regions without a label that KITTI marks "DontCare": mostly vehicles too far to be measured.
FAR_VEHICLES = 2.3
FAR_DEPTH = (60.0, 110.0)

# Share of vehicles that point away from the camera along the road, towards it, and across.
DIRECTIONS = ("same", "opposite", "crossing")
DIRECTION_SHARES = {
    "Car": (0.46, 0.36, 0.18),
    "Van": (0.58, 0.24, 0.18),
    "Truck": (0.64, 0.18, 0.18),
}
# Vehicles parked or driving in line with another one, and people in groups.
ROW_SHARE = 0.45
ROW_GAP = (0.6, 7.0)
GROUP_SHARE = 0.55
# Share of the others that stand behind something; fitted to how often KITTI's objects are occluded.
BEHIND_SHARE = 0.5

# Lateral position x in metres by direction or class, in per cent of each depth row.
LATERAL_EDGES = (-30, -16, -11, -7.5, -5, -3.5, -2, -1, 1, 2, 3.5, 5, 7.5, 11, 16, 30)
LATERAL_DEPTHS = (10, 20, 35)  # z in metres where the next row begins
LATERAL = {
    "same": (
        (0, 0, 7, 2, 12, 18, 0, 2, 0, 39, 17, 1, 2, 0, 0),
        (0, 8, 16, 2, 11, 7, 2, 10, 2, 22, 12, 4, 2, 1, 1),
        (3, 6, 9, 3, 9, 6, 3, 30, 1, 12, 8, 4, 1, 1, 4),
        (10, 2, 3, 6, 11, 5, 9, 18, 3, 11, 4, 6, 2, 2, 8),
    ),
    "opposite": (
        (0, 0, 5, 24, 38, 23, 0, 0, 0, 9, 0, 1, 0, 0, 0),
        (0, 6, 20, 26, 24, 14, 2, 1, 0, 5, 0, 1, 1, 0, 0),
        (13, 9, 17, 19, 19, 11, 3, 2, 1, 3, 1, 0, 0, 0, 2),
        (24, 11, 20, 16, 12, 8, 3, 3, 0, 1, 2, 0, 0, 0, 0),
    ),
    "crossing": (
        (0, 0, 1, 6, 1, 0, 1, 0, 1, 1, 69, 10, 10, 0, 0),
        (0, 3, 3, 4, 2, 1, 1, 3, 1, 1, 36, 10, 23, 10, 2),
        (4, 6, 2, 3, 2, 1, 1, 1, 1, 2, 20, 10, 19, 6, 22),
        (9, 4, 3, 3, 2, 2, 1, 1, 1, 2, 22, 4, 9, 13, 24),
    ),
    "Pedestrian": (
        (0, 0, 0, 2, 12, 14, 4, 7, 9, 22, 19, 10, 1, 0, 0),
        (0, 2, 7, 11, 10, 12, 4, 10, 6, 13, 11, 7, 6, 1, 0),
        (3, 7, 6, 6, 6, 13, 7, 11, 6, 9, 5, 9, 5, 5, 2),
        (0, 0, 23, 6, 7, 14, 9, 9, 6, 7, 2, 2, 6, 0, 9),
    ),
    "Cyclist": (
        (0, 0, 0, 5, 1, 49, 5, 0, 1, 21, 9, 4, 5, 0, 0),
        (0, 2, 0, 6, 5, 14, 6, 4, 3, 11, 5, 4, 32, 8, 0),
        (0, 7, 10, 4, 9, 4, 2, 10, 3, 12, 0, 5, 23, 9, 2),
        (0, 3, 1, 2, 0, 0, 6, 17, 7, 11, 9, 2, 42, 0, 0),
    ),
}
LATERAL["Person_sitting"] = LATERAL["Pedestrian"]

# rotation_y in 16 equal bins from -pi, in per cent; vehicles along the road deviate from its axis
# by a Laplace distribution of this scale (radians).
YAW = {
    "crossing": (13, 2, 6, 0, 0, 15, 20, 9, 6, 2, 3, 0, 0, 4, 9, 11),
    "Pedestrian": (6, 3, 5, 11, 15, 1, 1, 5, 7, 5, 5, 16, 8, 2, 4, 6),
    "Cyclist": (4, 4, 3, 12, 5, 16, 4, 10, 6, 1, 1, 19, 11, 3, 1, 0),
    "Person_sitting": (30, 0, 8, 4, 14, 0, 0, 0, 9, 0, 0, 7, 17, 5, 0, 6),
}
YAW_EDGES = np.linspace(-np.pi, np.pi, 17)
AXIS_DEVIATION = 0.03

# The ground in the camera frame: y = height + slope z + cross x + curvature z^2, in mean and
# deviation over frames; an object's own deviation from it is `CONTACT_DEVIATION`.
CAMERA_HEIGHT = (1.63, 0.10)
GROUND_SLOPE = (-0.003, 0.014)
GROUND_CROSS = (-0.02, 0.018)
# Slopes level out with distance, so curvature goes against slope.
CURVATURE_PER_SLOPE = -0.006
CURVATURE_DEVIATION = 4e-5
CONTACT_DEVIATION = 0.04


def draw_counts(rng: np.random.Generator) -> dict[str, int]:
    """Number of objects of each class in one frame."""
    table = STREET_COUNTS if rng.random() < STREET_SHARE else ROAD_COUNTS
    return {
        name: least + (int(rng.negative_binomial(mean / (ratio - 1), 1 / ratio)) if mean else 0)
        for name, (least, mean, ratio) in table.items()
    }


def draw_dimensions(rng: np.random.Generator, name: str) -> np.ndarray:
    """(3,) h, w, l in metres: correlated normal, cut at the sizes that occur."""
    known = STATISTICS[name]
    normal = _CHOLESKY[name] @ rng.standard_normal(3)
    return np.clip(known.mean + normal * known.deviation, known.smallest, known.largest)


def draw_depth(rng: np.random.Generator, name: str) -> float:
    """z in metres of an object of this class."""
    return float(np.interp(rng.random(), DEPTH_LEVELS, STATISTICS[name].depth))


def draw_lateral(rng: np.random.Generator, kind: str, depth: float) -> float:
    """x in metres given a direction (vehicles) or a class (people), and z."""
    row = sum(depth >= limit for limit in LATERAL_DEPTHS)
    return _draw_from_histogram(rng, LATERAL_EDGES, LATERAL[kind][row])


def draw_yaw(rng: np.random.Generator, kind: str) -> float:
    """rotation_y in radians of crossing vehicles and people."""
    return _draw_from_histogram(rng, YAW_EDGES, YAW[kind])


def _draw_from_histogram(rng: np.random.Generator, edges, weights) -> float:
    total = np.concatenate([[0.0], np.cumsum(weights)])
    return float(np.interp(rng.random() * total[-1], total, edges))


def _cholesky(correlation: tuple[float, float, float]) -> np.ndarray:
    hw, hl, wl = correlation
    return np.linalg.cholesky([[1, hw, hl], [hw, 1, wl], [hl, wl, 1]])


_CHOLESKY = {name: _cholesky(known.correlation) for name, known in STATISTICS.items()}
