"""Random frames full of cases that KITTI's rules treat specially."""

import numpy as np

from qiml.data.kitti_format import COLUMNS, KITTIObjects

# In eighths of a metre, so that overlaps meant to be exactly one half are so in floating point.
SIZES = {"Car": (1.5, 1.625, 4), "Van": (2.25, 1.875, 5), "Truck": (3.25, 2.5, 10)}
SIZES |= {"Pedestrian": (1.75, 0.625, 0.75), "Person_sitting": (1.25, 0.625, 0.75)}
SIZES |= {"Cyclist": (1.75, 0.625, 1.75), "DontCare": (-1, -1, -1)}
TYPES = np.array(list(SIZES))
# Around KITTI's limits of 25 and 40 pixels, on either side and exactly there.
HEIGHTS = np.array([24, 24.99, 25, 25.01, 25.9, 26, 39.9, 40, 40.01, 40.9, 41, 60, 60, 90, 150])
TRUNCATIONS = np.array([*[0] * 12, 0.15, 0.16, 0.3, 0.31, 0.5, 0.51])


def hard_frames(seed: int, frames: int) -> tuple[list[KITTIObjects], list[KITTIObjects]]:
    """Ground truth and detections of some frames; the seed also chooses how nasty they are."""
    rng = np.random.default_rng(seed)
    scores = _score_pool(rng)
    oriented = rng.random() < 0.8
    truth = [_truth(rng) for _ in range(frames)]
    found = [_found(rng, objects, scores, oriented) for objects in truth]
    return truth, found


def as_dicts(objects: KITTIObjects) -> list[dict]:
    """One dict for each object."""
    rows = zip(objects.types.tolist(), objects.values.tolist(), strict=True)
    return [{"type": kind, **dict(zip(COLUMNS, row, strict=True))} for kind, row in rows]


def _score_pool(rng: np.random.Generator) -> np.ndarray:
    """Few values give many ties; any range is allowed."""
    if rng.random() < 0.3:
        return np.array([-2e7, -3.0, 0.0, 0.5, 0.5, 118.0])
    if rng.random() < 0.5:
        return rng.choice([0.1, 0.2, 0.5, 0.9], 4)
    return rng.normal(0, 2, 1000)


def _truth(rng: np.random.Generator) -> KITTIObjects:
    weights = np.array([6, 2, 1, 3, 1, 3, 4]) / 20
    types = rng.choice(TYPES, rng.integers(0, 9), p=weights)
    count = len(types)
    values = np.zeros((count, len(COLUMNS)))
    objects = KITTIObjects(types, values)
    objects.truncation[:] = rng.choice(TRUNCATIONS, count)
    objects.occlusion[:] = rng.choice([0, 0, 0, 0, 0, 1, 2, 3], count)
    objects.alpha[:] = rng.uniform(-np.pi, np.pi, count)
    height = rng.choice(HEIGHTS, count)
    x1, y1 = rng.integers(0, 300, count), rng.integers(100, 140, count)
    objects.bbox[:] = np.stack(
        [x1, y1, x1 + height * rng.choice([0.5, 1, 2], count), y1 + height], 1
    )
    objects.dimensions[:] = [SIZES[kind] for kind in types.tolist()] if count else 0
    objects.location[:, 0] = rng.choice([-2.0, 0.0, 1.0, 3.0], count)
    objects.location[:, 1] = rng.choice([1.5, 1.75], count)
    objects.location[:, 2] = rng.choice([8.0, 9.0, 21.0, 45.0], count)
    objects.rotation_y[:] = rng.choice([0, 0, np.pi / 2, 0.7, 9.0], count)
    objects.score[:] = np.nan
    regions = types == "DontCare"
    values[regions, :3] = -1, -1, -10
    values[regions, 7:14] = -1, -1, -1, -1000, -1000, -1000, -10
    return objects


def _found(
    rng: np.random.Generator, truth: KITTIObjects, scores: np.ndarray, oriented: bool
) -> KITTIObjects:
    """Moved, copied, repeated, mislabelled and made-up versions of the objects, in any order."""
    rows = (
        rng.integers(0, len(truth), rng.integers(0, 12)) if len(truth) else np.empty(0, dtype=int)
    )
    objects = KITTIObjects(truth.types[rows].copy(), truth.values[rows].copy())
    count = len(objects)
    values = objects.values
    blurred = rng.random(count) < 0.7
    amount = np.where(blurred, rng.choice([0.01, 0.03, 0.1], count), 0)[:, None]
    objects.bbox[:] += amount * 60 * rng.normal(size=(count, 4))
    objects.bbox[:] = np.concatenate(
        [np.minimum(values[:, 3:5], values[:, 5:7]), np.maximum(values[:, 3:5], values[:, 5:7])], 1
    )
    solid = values[:, 7] > 0
    values[solid, 7:10] *= np.exp(amount * rng.normal(size=(count, 3)))[solid]
    values[solid, 10:13] += (amount * 2 * rng.normal(size=(count, 3)))[solid]
    values[solid, 13] += (amount[:, 0] * rng.normal(size=count))[solid]
    double = ~blurred & solid & (objects.rotation_y == 0) & (rng.random(count) < 0.3)
    values[double, 9] *= 2  # an overlap of exactly one half
    wide = ~blurred & (rng.random(count) < 0.3)
    values[wide, 5] = values[wide, 3] + 2 * (values[wide, 5] - values[wide, 3])
    flat = rng.random(count) < 0.1
    values[flat, 7:14] = -1, -1, -1, -1000, -1000, -1000, -10  # a 2D detector's
    objects.alpha[:] += rng.choice([0, 0.3, np.pi, 7.0], count)
    objects.score[:] = rng.choice(scores, count)
    types = objects.types
    other = (types == "DontCare") | (types == "Van") | (rng.random(count) < 0.1)
    types = np.where(other, rng.choice(["Car", "Pedestrian", "Cyclist", "Truck"], count), types)
    types = np.where(rng.random(count) < 0.1, np.char.lower(types), types)
    if oriented:
        objects.alpha[objects.alpha == -10] = 0
    objects = KITTIObjects(types, values)
    if count and rng.random() < 0.4:
        objects = objects[np.concatenate([np.arange(count), rng.integers(0, count, 3)])]
    return objects
