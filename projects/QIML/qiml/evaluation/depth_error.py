"""How wrong the matched detections are, in metres, and what each kind of error costs in AP.

A detection is matched to an object by its 2D box alone, so that an error in depth, however large,
does not hide the pair that shows it.

The replacement analysis follows Ma et al., "Delving into Localization Errors for Monocular 3D
Object Detection", CVPR 2021 (MonoDLE).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from qiml.data.kitti_format import KITTIObjects
from qiml.evaluation.kitti_evaluation import KITTIEvaluation, OverlapTables, evaluate_tables
from qiml.evaluation.kitti_matching import MatchingTask, matched_by_score
from qiml.evaluation.kitti_overlaps import Pairs, overlapping_pairs
from qiml.evaluation.kitti_rules import Difficulty
from qiml.evaluation.kitti_table import ObjectTable

DEPTH_RANGES = ((0.0, 20.0), (20.0, 40.0), (40.0, math.inf))
IMAGE_OVERLAP = 0.5

ErrorTable = dict[str, dict[str, dict[str, float | None]]]


def range_name(depth_range: tuple[float, float]) -> str:
    """A name for a range of depths: "0-20 m", "40+ m"."""
    nearest, farthest = depth_range
    return f"{nearest:g}+ m" if math.isinf(farthest) else f"{nearest:g}-{farthest:g} m"


def match_in_image(gt: ObjectTable, dt: ObjectTable, name: str, difficulty: Difficulty) -> Pairs:
    """Objects of a class that count, each with the best-scored free detection on its 2D box.

    Args:
        gt, dt: tables of the same frames.
        name: the class, of objects and detections.
        difficulty: which objects count.

    Returns:
        Pairs that both lie in front of the camera, with their 2D overlaps (> `IMAGE_OVERLAP`).
    """
    gt_counts = _counted(gt, name, difficulty)
    dt_counts = dt.of_types(name) & (dt.objects.location[:, 2] > 0)  # 2D-only results have -1000
    rows = np.flatnonzero(gt_counts), np.flatnonzero(dt_counts)
    task = MatchingTask(
        pairs=overlapping_pairs(gt, dt, *rows, {"2d": IMAGE_OVERLAP})["2d"],
        gt_frame=gt.frame,
        gt_counts=gt_counts,
        dt_counts=dt_counts,
        score=dt.objects.score,
        excused=np.zeros(len(dt_counts), dtype=bool),
    )
    return matched_by_score(task)


def depth_errors(
    gt: ObjectTable,
    dt: ObjectTable,
    classes: Sequence[str],
    difficulty: Difficulty,
    ranges: Sequence[tuple[float, float]] = DEPTH_RANGES,
) -> ErrorTable:
    """Depth errors at matched objects by the objects' depth.

    Returns:
        Class → range → `objects` and `matched` (counts), `mean` and `median` absolute error and
        `bias` (mean of detected − true) in metres, `relative` (mean absolute error over depth, per
        cent); errors are None where nothing matched. Classes without objects are left out.
    """
    table: ErrorTable = {}
    for name in classes:
        counted = _counted(gt, name, difficulty)
        if not counted.any():
            continue
        pairs = match_in_image(gt, dt, name, difficulty)
        depth = gt.objects.location[pairs.gt, 2]
        error = dt.objects.location[pairs.dt, 2] - depth
        table[name] = {}
        for nearest, farthest in ranges:
            inside = (nearest <= depth) & (depth < farthest)
            every_depth = gt.objects.location[counted, 2]
            table[name][range_name((nearest, farthest))] = {
                "objects": int(((nearest <= every_depth) & (every_depth < farthest)).sum()),
                "matched": int(inside.sum()),
                "mean": _mean(np.abs(error[inside])),
                "median": _median(np.abs(error[inside])),
                "bias": _mean(error[inside]),
                "relative": _mean(100 * np.abs(error[inside]) / depth[inside]),
            }
    return table


def calibrated(gt: ObjectTable, dt: ObjectTable, name: str, difficulty: Difficulty) -> ObjectTable:
    """Detections whose depths are all multiplied by one number, so that they are right on the median.

    What then remains of a difference between two detectors is no matter of an offset in depth.

    Args:
        gt, dt: tables of the same frames.
        name: the class whose matched pairs tell the number, the median of true over detected depth.
        difficulty: which objects count.

    Returns:
        `dt` with the 3D centres moved along their viewing rays; as it is where nothing matched.
    """
    pairs = match_in_image(gt, dt, name, difficulty)
    if not len(pairs.gt):
        return dt
    ratios = gt.objects.location[pairs.gt, 2] / dt.objects.location[pairs.dt, 2]
    objects = KITTIObjects(dt.objects.types, dt.objects.values.copy())
    _set_centres(objects, _centres(objects) * np.median(ratios))
    return ObjectTable(objects, dt.frame, dt.frames)


def component_errors(
    gt: ObjectTable, dt: ObjectTable, classes: Sequence[str], difficulty: Difficulty
) -> ErrorTable:
    """Errors of matched detections by component.

    Returns:
        Class → component → `mean` and `median` of the absolute error: `depth` (m), `lateral` (m
        across the viewing ray, at the true depth), `size` (m, mean of h, w, l), `heading` (deg).
    """
    table: ErrorTable = {}
    for name in classes:
        pairs = match_in_image(gt, dt, name, difficulty)
        if not len(pairs.gt):
            continue
        true, found = gt.objects[pairs.gt], dt.objects[pairs.dt]
        centre, detected = _centres(true), _centres(found)
        depth = centre[:, 2:]
        turned = np.angle(np.exp(1j * (found.rotation_y - true.rotation_y)))
        errors = {
            "depth": detected[:, 2] - centre[:, 2],
            "lateral": np.linalg.norm((detected / detected[:, 2:] * depth - centre)[:, :2], axis=1),
            "size": np.abs(found.dimensions - true.dimensions).mean(axis=1),
            "heading": np.degrees(turned),
        }
        table[name] = {
            component: {"mean": _mean(np.abs(error)), "median": _median(np.abs(error))}
            for component, error in errors.items()
        }
    return table


def replaced_by_truth(
    gt: ObjectTable,
    dt: ObjectTable,
    classes: Sequence[str],
    difficulties: Sequence[Difficulty],
    overlaps: OverlapTables,
) -> dict[str, KITTIEvaluation]:
    """What each kind of error costs: 3D AP after giving matched detections the true value.

    Depth moves a box along its viewing ray; the lateral position moves it across, at its own depth;
    both together are the location.

    Args:
        gt, dt: tables of the same frames.
        classes, difficulties, overlaps: as for :func:`qiml.evaluation.kitti.evaluate`; objects of
            the last difficulty are matched.

    Returns:
        "as detected", "true depth", "true lateral", "true location", "true size", "true heading"
        and "all true" → evaluation of the metrics bev and 3d.
    """
    pairs = [match_in_image(gt, dt, name, difficulties[-1]) for name in classes]
    gt_rows = np.concatenate([p.gt for p in pairs])
    dt_rows = np.concatenate([p.dt for p in pairs])

    def evaluation(*replacements: Callable) -> KITTIEvaluation:
        objects = KITTIObjects(dt.objects.types, dt.objects.values.copy())
        matched = objects[dt_rows]
        for replace in replacements:
            replace(matched, gt.objects[gt_rows])
        objects.values[dt_rows] = matched.values
        return evaluate_tables(
            gt,
            ObjectTable(objects, dt.frame, dt.frames),
            classes=classes,
            difficulties=difficulties,
            overlaps=overlaps,
            metrics=("bev", "3d"),
        )

    return {
        "as detected": evaluation(),
        "true depth": evaluation(_replace_depth),
        "true lateral": evaluation(_replace_lateral),
        "true location": evaluation(_replace_depth, _replace_lateral),
        "true size": evaluation(_replace_size),
        "true heading": evaluation(_replace_heading),
        "all true": evaluation(_replace_size, _replace_heading, _replace_depth, _replace_lateral),
    }


def _counted(gt: ObjectTable, name: str, difficulty: Difficulty) -> np.ndarray:
    in_front = gt.objects.location[:, 2] > 0
    return gt.of_types(name) & in_front & ~difficulty.ignores_objects(gt.objects)


def _centres(objects: KITTIObjects) -> np.ndarray:
    """(N, 3) geometric centres."""
    centres = objects.location.copy()
    centres[:, 1] -= objects.dimensions[:, 0] / 2
    return centres


def _set_centres(objects: KITTIObjects, centres: np.ndarray) -> None:
    objects.location[:] = centres
    objects.location[:, 1] += objects.dimensions[:, 0] / 2


def _replace_depth(found: KITTIObjects, true: KITTIObjects) -> None:
    centres = _centres(found)
    _set_centres(found, centres * (true.location[:, 2:] / centres[:, 2:]))


def _replace_lateral(found: KITTIObjects, true: KITTIObjects) -> None:
    centres = _centres(true)
    _set_centres(found, centres * (found.location[:, 2:] / centres[:, 2:]))


def _replace_size(found: KITTIObjects, true: KITTIObjects) -> None:
    centres = _centres(found)
    found.dimensions[:] = true.dimensions
    _set_centres(found, centres)


def _replace_heading(found: KITTIObjects, true: KITTIObjects) -> None:
    found.rotation_y[:] = true.rotation_y


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) else None
