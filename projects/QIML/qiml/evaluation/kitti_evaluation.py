"""Average precision by the rules of KITTI's object benchmark: the computation, on arrays."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from qiml.data.kitti_format import KITTIObjects
from qiml.errors import DatasetError
from qiml.evaluation.kitti_matching import MatchingTask, average_precision, precision_curve
from qiml.evaluation.kitti_overlaps import over_detection, overlapping_pairs
from qiml.evaluation.kitti_rules import (
    KITTI_CLASSES,
    KITTI_DIFFICULTIES,
    KITTI_OVERLAPS,
    METRICS,
    NEIGHBOURS,
    Difficulty,
    Overlaps,
    check_classes,
    evaluated_metrics,
    has_orientation,
)
from qiml.evaluation.kitti_table import ObjectTable

OverlapTables = Mapping[str, Mapping[str, Overlaps]]
Results = dict[str, dict[str, dict[str, list[float]]]]


@dataclass(frozen=True, eq=False)
class KITTIEvaluation:
    """Precision–recall curves and the average precisions that follow from them.

    Attributes:
        frames: how many frames were evaluated.
        difficulties: D of them.
        overlaps: table name → class → minimal overlaps.
        curves: table name → class → metric → (D, 41) precision (for "aos": orientation similarity)
            at recall 0, 1/40, … 1. As in the devkit, a metric that no detection of a class has the
            values for is left out, and so is a class without any metric.
    """

    frames: int
    difficulties: tuple[Difficulty, ...]
    overlaps: OverlapTables
    curves: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]

    def part(self, levels: slice) -> "KITTIEvaluation":
        """The same for some of the difficulties."""
        curves = {
            table: {
                name: {metric: curve[levels] for metric, curve in metrics.items()}
                for name, metrics in classes.items()
            }
            for table, classes in self.curves.items()
        }
        return KITTIEvaluation(self.frames, self.difficulties[levels], self.overlaps, curves)

    def results(self, table: str = "strict") -> Results:
        """Class → AP11 or AP40 → metric → average precision in per cent for each difficulty."""
        return {
            name: {
                average: {metric: average_precision(c)[average] for metric, c in metrics.items()}
                for average in ("AP11", "AP40")
            }
            for name, metrics in self.curves[table].items()
        }


def evaluate(
    ground_truth: Sequence[KITTIObjects],
    detections: Sequence[KITTIObjects],
    *,
    classes: Sequence[str] = KITTI_CLASSES,
    difficulties: Sequence[Difficulty] = KITTI_DIFFICULTIES,
    overlaps: OverlapTables = KITTI_OVERLAPS,
    metrics: Sequence[str] = METRICS,
) -> KITTIEvaluation:
    """Evaluate arrays.

    Args:
        ground_truth: F frames, with all objects: the rules need Van, Person_sitting and DontCare.
        detections: the same F frames, with scores.
        classes: names to evaluate.
        difficulties: which objects count.
        overlaps: tables of minimal overlaps by name, any number of them.
        metrics: among 2d, aos, bev, 3d.

    Raises:
        DatasetError: different numbers of frames, or values that are not finite.
        ConfigError: a class without minimal overlaps.
    """
    if len(ground_truth) != len(detections):
        raise DatasetError(
            "frames",
            found=f"{len(ground_truth)} of ground truth, {len(detections)} of detections",
            expected="the same frames in both",
            mend="give an empty KITTIObjects for a frame without detections",
        )
    return evaluate_tables(
        ObjectTable.from_frames(ground_truth, scored=False),
        ObjectTable.from_frames(detections, scored=True),
        classes=classes,
        difficulties=difficulties,
        overlaps=overlaps,
        metrics=metrics,
    )


def evaluate_tables(
    gt: ObjectTable,
    dt: ObjectTable,
    *,
    classes: Sequence[str] = KITTI_CLASSES,
    difficulties: Sequence[Difficulty] = KITTI_DIFFICULTIES,
    overlaps: OverlapTables = KITTI_OVERLAPS,
    metrics: Sequence[str] = METRICS,
) -> KITTIEvaluation:
    """Evaluate tables of the same frames; otherwise as :func:`evaluate`."""
    check_classes(classes, overlaps)
    if not has_orientation(dt.objects):
        metrics = [metric for metric in metrics if metric != "aos"]
    curves: dict[str, dict] = {table: {} for table in overlaps}
    for name in classes:
        limits = {table: overlaps[table][name] for table in overlaps}
        for table, found in _class_curves(gt, dt, name, difficulties, limits, metrics).items():
            if found:
                curves[table][name] = found
    return KITTIEvaluation(gt.frames, tuple(difficulties), overlaps, curves)


def _class_curves(
    gt: ObjectTable,
    dt: ObjectTable,
    name: str,
    difficulties: Sequence[Difficulty],
    overlaps: Mapping[str, Overlaps],
    metrics: Collection[str],
) -> dict[str, dict[str, np.ndarray]]:
    """Table name → metric → (D, 41) for one class."""
    is_class = dt.of_types(name)
    usable = evaluated_metrics(dt.objects[is_class])
    metrics = [metric for metric in metrics if _matched_by(metric) in usable]
    lowest = {
        _matched_by(metric): min(limits.of(metric) for limits in overlaps.values())
        for metric in metrics
    }
    gt_counts = [gt.of_types(name) & ~level.ignores_objects(gt.objects) for level in difficulties]
    dt_ignored = [level.ignores_detections(dt.objects) for level in difficulties]
    # Ignored detections of *any* class take part: an object may be matched to them.
    gt_rows = np.flatnonzero(gt.of_types(name, NEIGHBOURS.get(name.lower(), name)))
    dt_rows = np.flatnonzero(np.any([is_class, *dt_ignored], axis=0))
    pairs = overlapping_pairs(gt, dt, gt_rows, dt_rows, lowest)
    # As in the devkit, DontCare regions excuse detections in every metric; but in KITTI's labels
    # only their 2D boxes lie where detections can be.
    regions = np.flatnonzero(gt.of_types("DontCare"))
    covered = overlapping_pairs(gt, dt, regions, np.flatnonzero(is_class), lowest, over_detection)

    @cache  # tables often agree on the limit of a metric
    def curves(metric: str, limit: float) -> np.ndarray:
        found = pairs[_matched_by(metric)].exceeding(limit)
        excused = np.zeros(len(is_class), dtype=bool)
        excused[covered[_matched_by(metric)].exceeding(limit).dt] = True
        tasks = [
            MatchingTask(
                pairs=found[(is_class | ignored)[found.dt]],
                gt_frame=gt.frame,
                gt_counts=counts,
                dt_counts=is_class & ~ignored,
                score=dt.objects.score,
                excused=excused,
            )
            for counts, ignored in zip(gt_counts, dt_ignored, strict=True)
        ]
        alphas = (gt.objects.alpha, dt.objects.alpha) if metric == "aos" else None
        return np.array([precision_curve(task, alphas) for task in tasks])

    return {
        table: {metric: curves(metric, limits.of(metric)) for metric in metrics}
        for table, limits in overlaps.items()
    }


def _matched_by(metric: str) -> str:
    """Orientation is judged where 2D boxes match."""
    return "2d" if metric == "aos" else metric
