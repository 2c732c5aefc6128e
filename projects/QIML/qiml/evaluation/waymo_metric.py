"""Average precision by the rules of Waymo's 3D detection metric: the computation, on arrays."""

import logging
from collections.abc import Mapping

import numpy as np

from qiml.errors import DatasetError
from qiml.evaluation.waymo_matching import match
from qiml.evaluation.waymo_overlaps import BoxTable, Edges, matchable_pairs
from qiml.evaluation.waymo_rules import (
    LEVELS,
    OFFICIAL_CUTOFFS,
    RANGES,
    TYPES,
    iou_thresholds,
    quantile_cutoffs,
    row_names,
)

logger = logging.getLogger(__name__)

GT_COLUMNS = ("frame", "x", "y", "z", "l", "w", "h", "heading", "type", "level")
DETECTION_COLUMNS = (*GT_COLUMNS[:-1], "score")

Rows = dict[str, dict[str, float]]

# A larger step in recall is filled with points of the same precision (`desired_recall_delta`).
_RECALL_STEP = 0.05


def evaluate(
    gt: np.ndarray,
    pred: np.ndarray,
    iou: Mapping[int | str, float] | None = None,
    let: bool = False,
    *,
    cutoffs: np.ndarray | int = OFFICIAL_CUTOFFS,
    overlap_with_nlz: np.ndarray | None = None,
) -> Rows:
    """Waymo's detection metric (AP, APH), or its longitudinal-error-tolerant form (LET-3D-AP, APH, APL).

    Equal to the official metric with Hungarian matching of 3D boxes; see :mod:`waymo_rules` for the
    files. Boxes are metres and radians in the vehicle frame: x forward, y left, z up, geometric
    centres, headings counter-clockwise from x.

    Args:
        gt: (N, 10) frame, x, y, z, l, w, h, heading, type, level. Types as `Label.Type`: 1 vehicle,
            2 pedestrian, 3 sign, 4 cyclist; level 1 or 2 (0, not graded, counts at both). Leave out what
            the benchmark does: objects without LiDAR points.
        pred: (M, 10) the same with a score instead of a level.
        iou: type (number or name) → least IoU; types left out, or None, keep the official
            .7 for vehicles and .5 for others; with `let` .5 and .3.
        let: tolerate errors along the line of sight.
        cutoffs: ascending scores to match at; a number asks for so many quantiles of the scores.
        overlap_with_nlz: (M,) detections in a no-label zone: never false, though they may be true.

    Returns:
        Row name, as the official tool prints it → AP, APH and APL (AP without `let`), 0 to 1.

    Raises:
        DatasetError: a wrong shape, a value that is not finite, an unknown type or level.
        ConfigError: an unknown type among the thresholds, or a threshold outside (0, 1].
    """
    thresholds = iou_thresholds(iou, let)
    gt = check_rows(gt, "ground truth", GT_COLUMNS)
    pred = check_rows(pred, "detections", DETECTION_COLUMNS)
    scores = pred[:, 9].astype(np.float32)
    if isinstance(cutoffs, int):
        cutoffs = quantile_cutoffs(scores, cutoffs)
    cutoffs = np.asarray(cutoffs, dtype=np.float32)
    _, frame = np.unique(np.concatenate([gt[:, 0], pred[:, 0]]), return_inverse=True)
    objects = BoxTable.build(frame[: len(gt)], gt)
    found = BoxTable.build(frame[len(gt) :], pred, overlap_with_nlz)
    reach = np.searchsorted(cutoffs, found.value.astype(np.float32), side="right")
    counts = _count(objects, found, reach, len(cutoffs), thresholds, let)
    return {name: counts[name].averages() for name in row_names()}


def check_rows(rows: np.ndarray, what: str, columns: tuple[str, ...]) -> np.ndarray:
    """Rows as (N, 10) float64. Raises DatasetError as :func:`evaluate` says."""
    rows = np.asarray(rows, dtype=float)
    rows = rows.reshape(0, len(columns)) if rows.size == 0 else rows
    if rows.ndim != 2 or rows.shape[1] != len(columns):
        raise DatasetError(
            what,
            found=f"an array of shape {rows.shape}",
            expected=f"(N, {len(columns)}): {', '.join(columns)}",
            mend="put the columns in this order",
        )
    allowed = {"type": (0, *TYPES), "level": (0, *LEVELS)}
    for column, name in enumerate(columns):
        values = rows[:, column]
        wrong = ~np.isfinite(values)
        if name in allowed:
            wrong |= ~np.isin(values, allowed[name])
        if wrong.any():
            row = np.flatnonzero(wrong)[0]
            raise DatasetError(
                f"{what}, row {row} (frame {rows[row, 0]:.0f})",
                found=f"{values[row]} as {name}",
                expected=f"one of {allowed[name]}" if name in allowed else "a finite number",
                mend="correct or leave out the box",
            )
    unknown = int((rows[:, 8] == 0).sum())
    if unknown:
        logger.warning("%s: %d boxes of unknown type are in no row", what, unknown)
    return rows


class _Counts:
    """Sums at each of C cut-offs for one row of the metric.

    Args:
        sums: (4, C) true positives; their heading accuracies; their affinities; false positives.
        missed: (C,) objects of the row's level that are matched to nothing.
    """

    def __init__(self, sums: np.ndarray, missed: np.ndarray):
        self.true, self.heading, self.affinity, self.false = sums
        self.missed = missed

    def averages(self) -> dict[str, float]:
        """AP, APH and APL."""
        recall = _ratio(self.true, self.true + self.missed)
        weights = {"AP": self.true, "APH": self.heading, "APL": self.affinity}
        return {
            name: average_precision(_ratio(weight, self.true + self.false), recall)
            for name, weight in weights.items()
        }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def average_precision(precision: np.ndarray, recall: np.ndarray) -> float:
    """Area under the curve of the highest precision at a recall or above, by trapezia.

    Where recall rises by more than 0.05, points of the precision reached beyond are put in. Below the
    smallest recall the precision is what it is there.

    Source: `ComputeMeanAveragePrecision` in `metrics/metrics_utils.cc`.

    Args:
        precision, recall: (C,) at each cut-off.
    """
    points, inverse = np.unique(np.append(recall, 0.0), return_inverse=True)
    highest = np.zeros(len(points))
    np.maximum.at(highest, inverse, np.append(precision, 0.0))
    curve: list[tuple[float, float]] = []
    last, best = 0.0, 0.0
    for point, value in zip(points[::-1].tolist(), highest[::-1].tolist(), strict=True):
        while last - point > _RECALL_STEP + 1e-6:
            last -= _RECALL_STEP
            curve.append((last, best))
        # Precision without anything found is nothing real: it takes the next point's.
        best = max(best, value) if point > 0 else best
        curve.append((point, best))
        last = point
    r, p = np.array(curve).T
    return float(((r[:-1] - r[1:]) * (p[:-1] + p[1:])).sum() / 2)


def _count(
    gt: BoxTable,
    dt: BoxTable,
    reach: np.ndarray,
    cutoffs: int,
    thresholds: dict[int, float],
    let: bool,
) -> dict[str, _Counts]:
    """The sums of all rows."""
    edges = matchable_pairs(gt, dt, thresholds, let)
    counts = {}
    for prefix, names, gt_row, dt_row in (
        ("OBJECT_TYPE_TYPE_{}", [""], gt.type, dt.type),
        ("RANGE_TYPE_{}_", RANGES, *(t.type * len(RANGES) + t.range for t in (gt, dt))),
    ):
        # Boxes of different rows do not meet, even if they overlap.
        within = edges[gt_row[edges.gt] == dt_row[edges.dt]]
        found = _RowSums(gt, dt, within, reach, gt_row, dt_row, cutoffs)
        for number, name in TYPES.items():
            for part, title in enumerate(names):
                for level in LEVELS:
                    row = f"{prefix.format(name)}{title}_LEVEL_{level}"
                    counts[row] = found.counts(number * len(names) + part, level)
    return counts


class _RowSums:
    """The sums of rows that share no box.

    Args:
        gt, dt: tables of the same frames.
        edges: pairs that may be matched.
        reach: (M,) how many cut-offs each detection reaches.
        gt_row, dt_row: number of the row that each box counts in.
        cutoffs: how many there are.
    """

    def __init__(
        self,
        gt: BoxTable,
        dt: BoxTable,
        edges: Edges,
        reach: np.ndarray,
        gt_row: np.ndarray,
        dt_row: np.ndarray,
        cutoffs: int,
    ):
        self._rows = (max(TYPES) + 1) * len(RANGES)  # enough for either kind of rows
        self._cutoffs = cutoffs
        matched = match(edges, reach[edges.dt])
        pairs = edges[matched.edge]
        where = (gt_row[pairs.gt], matched.begin, matched.end)
        counting = 1.0 * ~dt.excused
        alive = self._spread(dt_row, np.zeros_like(reach), reach, counting)
        self._sums = np.array(
            [
                self._spread(*where, np.ones(len(pairs))),
                self._spread(*where, pairs.heading),
                self._spread(*where, pairs.affinity),
                alive - self._spread(*where, counting[pairs.dt]),
            ]
        )
        self._missed = {}
        for level in LEVELS:
            counting = 1.0 * (gt.value <= level)
            objects = np.bincount(gt_row, weights=counting, minlength=self._rows)
            self._missed[level] = objects[:, None] - self._spread(*where, counting[pairs.gt])

    def _spread(
        self, row: np.ndarray, begin: np.ndarray, end: np.ndarray, value: np.ndarray
    ) -> np.ndarray:
        """(rows, C) sums of values over begin ≤ c < end."""
        width = self._cutoffs + 1
        starts, ends = (
            np.bincount(row * width + c, weights=value, minlength=self._rows * width)
            for c in (begin, end)
        )
        steps = (starts - ends).reshape(self._rows, width)
        return steps.cumsum(axis=1)[:, :-1]

    def counts(self, row: int, level: int) -> _Counts:
        """The sums of one row at one level."""
        return _Counts(self._sums[:, row], self._missed[level][row])
