"""Everything a KITTI evaluation says, as JSON and as text."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qiml.data.kitti_format import KNOWN_TYPES
from qiml.evaluation.depth_error import (
    DEPTH_RANGES,
    IMAGE_OVERLAP,
    ErrorTable,
    component_errors,
    depth_errors,
    range_name,
    replaced_by_truth,
)
from qiml.evaluation.kitti_evaluation import KITTIEvaluation, OverlapTables, evaluate_tables
from qiml.evaluation.kitti_rules import (
    KITTI_CLASSES,
    KITTI_DIFFICULTIES,
    KITTI_OVERLAPS,
    METRICS,
    RECALL_POINTS,
    Difficulty,
)
from qiml.evaluation.kitti_table import ObjectTable
from qiml.evaluation.text_table import text_table
from qiml.io import atomic_write_text

_DIGITS = 5  # of the percentages in JSON


@dataclass(frozen=True, eq=False)
class KITTIReport:
    """An evaluation with what explains it.

    Attributes:
        evaluation: average precision at each difficulty.
        by_range: the same at the last difficulty, for objects and detections within a range of
            depths (its difficulties are the ranges).
        depth_errors: at matched objects by range, see :func:`depth_errors`.
        unknown: counts of detections whose class is neither evaluated nor KITTI's; a typing error?
        component_errors: depth, lateral, size, heading; None when not asked for.
        replaced: evaluations with one component replaced by the truth; None when not asked for.
    """

    evaluation: KITTIEvaluation
    by_range: KITTIEvaluation
    depth_errors: ErrorTable
    unknown: dict[str, int]
    component_errors: ErrorTable | None = None
    replaced: dict[str, KITTIEvaluation] | None = None

    @classmethod
    def from_tables(
        cls,
        gt: ObjectTable,
        dt: ObjectTable,
        *,
        classes: Sequence[str] = KITTI_CLASSES,
        difficulties: Sequence[Difficulty] = KITTI_DIFFICULTIES,
        overlaps: OverlapTables = KITTI_OVERLAPS,
        breakdown: bool = False,
    ) -> "KITTIReport":
        """Evaluate tables of the same frames.

        Args:
            gt, dt: ground truth and detections.
            classes, difficulties, overlaps: as for :func:`qiml.evaluation.kitti.evaluate`.
            breakdown: also find what each kind of error costs (seven times the work).
        """
        hardest = difficulties[-1]
        ranges = [replace(hardest, name=range_name(r), depth_range=r) for r in DEPTH_RANGES]
        what = {"classes": classes, "overlaps": overlaps}
        everything = evaluate_tables(gt, dt, difficulties=[*difficulties, *ranges], **what)
        return cls(
            evaluation=everything.part(slice(len(difficulties))),
            by_range=everything.part(slice(len(difficulties), None)),
            depth_errors=depth_errors(gt, dt, classes, hardest),
            unknown=Counter(dt.objects.types[~dt.of_types(*classes, *KNOWN_TYPES)].tolist()),
            component_errors=component_errors(gt, dt, classes, hardest) if breakdown else None,
            replaced=replaced_by_truth(gt, dt, difficulties=difficulties, **what)
            if breakdown
            else None,
        )

    def to_dict(self) -> dict:
        """All numbers, ready for JSON; average precisions in per cent."""
        evaluation = self.evaluation
        order = [level.name for level in evaluation.difficulties]
        summary: dict = {"frames": evaluation.frames, "order": order}
        for table, limits in evaluation.overlaps.items():
            # KITTI's own table goes by the plain name.
            prefix = "" if table == "strict" else f"{table}_"
            summary[f"{prefix}min_overlap"] = {
                name: {metric: limit.of(metric) for metric in METRICS}
                for name, limit in limits.items()
            }
            summary[f"{prefix}results"] = _rounded(evaluation.results(table))
            summary[f"{prefix}results_by_range"] = {
                "order": [level.name for level in self.by_range.difficulties],
                **_rounded(self.by_range.results(table)),
            }
            if self.replaced is not None:
                summary[f"{prefix}results_with_truth"] = {
                    what: _rounded(replaced.results(table))
                    for what, replaced in self.replaced.items()
                }
        summary["unknown_classes"] = self.unknown
        summary["depth_errors"] = self.depth_errors
        if self.component_errors is not None:
            summary["component_errors"] = self.component_errors
        summary["curves"] = {
            "recall": [i / (RECALL_POINTS - 1) for i in range(RECALL_POINTS)],
            "precision": {
                table: {name: _named_curves(order, found) for name, found in classes.items()}
                for table, classes in evaluation.curves.items()
            },
        }
        return summary

    def write_json(self, path: str | Path) -> None:
        """Write :meth:`to_dict`, whole or not at all."""
        atomic_write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")

    def to_text(self) -> str:
        """The tables to print."""
        evaluation, hardest = self.evaluation, self.evaluation.difficulties[-1].name
        parts = [f"KITTI evaluation over {evaluation.frames} frames; average precision in %"]
        parts += [_precision_text(evaluation, table) for table in evaluation.overlaps]
        parts.append(f"AP40 by depth ({hardest})\n{_range_text(self.by_range)}")
        parts.append(
            f"Depth errors where 2D IoU > {IMAGE_OVERLAP} ({hardest}); metres, relative in %\n"
            + _errors_text(self.depth_errors, "range")
        )
        if self.component_errors is not None:
            parts.append(
                f"Errors of the same detections ({hardest}); metres, heading in degrees\n"
                + _errors_text(self.component_errors, "error in")
            )
        if self.replaced is not None:
            parts.append(
                "AP40 3d after replacing a component of matched detections by the truth\n"
                + _replaced_text(self.replaced)
            )
        if self.unknown:
            counts = ", ".join(f"{name} ({count})" for name, count in self.unknown.items())
            parts.append(f"Not evaluated: detections of classes KITTI does not know: {counts}")
        return "\n\n".join(parts)


def _named_curves(levels: list[str], curves: Mapping[str, np.ndarray]) -> dict:
    """Metric → difficulty → 41 numbers."""
    return {
        metric: dict(zip(levels, values.tolist(), strict=True)) for metric, values in curves.items()
    }


def _rounded(results: dict) -> dict:
    return {
        key: _rounded(value) if isinstance(value, dict) else [round(v, _DIGITS) for v in value]
        for key, value in results.items()
    }


def _precision_text(evaluation: KITTIEvaluation, table: str) -> str:
    levels = [level.name for level in evaluation.difficulties]
    header = ["class", "metric", "IoU >"]
    header += [f"{average} {level}" for average in ("AP40", "AP11") for level in levels]
    rows = [
        [name, metric, evaluation.overlaps[table][name].of(metric)]
        + averages["AP40"][metric]
        + averages["AP11"][metric]
        for name, averages in evaluation.results(table).items()
        for metric in averages["AP40"]
    ]
    return f"{table} overlaps\n{text_table(header, rows)}"


def _range_text(by_range: KITTIEvaluation) -> str:
    """Ranges side by side, for each class, metric and overlap."""
    rows = [
        [name, metric, by_range.overlaps[table][name].of(metric), *values]
        for table in by_range.overlaps
        for name, averages in by_range.results(table).items()
        for metric, values in averages["AP40"].items()
        if metric in ("bev", "3d")
    ]
    return text_table(["class", "metric", "IoU >", *(r.name for r in by_range.difficulties)], rows)


def _errors_text(errors: ErrorTable, row_name: str) -> str:
    rows = [
        [name, part, *numbers.values()]
        for name, parts in errors.items()
        for part, numbers in parts.items()
    ]
    columns = [list(numbers) for parts in errors.values() for numbers in parts.values()][:1]
    return text_table(["class", row_name, *(columns[0] if columns else [])], rows)


def _replaced_text(replaced: dict[str, KITTIEvaluation]) -> str:
    """One row for each class, overlap and component; difficulties side by side."""
    first = next(iter(replaced.values()))
    rows = []
    for table in first.overlaps:
        results = {what: evaluation.results(table) for what, evaluation in replaced.items()}
        for name, averages in first.results(table).items():
            if "3d" in averages["AP40"]:
                limit = first.overlaps[table][name].of("3d")
                rows += [[name, limit, w, *r[name]["AP40"]["3d"]] for w, r in results.items()]
    return text_table(["class", "IoU >", "", *(level.name for level in first.difficulties)], rows)
