"""What was found, as tables to print and as data to keep."""

from collections.abc import Mapping, Sequence

import numpy as np

from qiml.doctor.checks import object_overlaps, whole_objects
from qiml.doctor.problems import CHECKS, ERROR, WARNING, Problem
from qiml.doctor.survey import Survey
from qiml.evaluation.text_table import text_table

_SHOWN = 5  # problems of a kind that the terminal shows


def summarise(survey: Survey) -> dict:
    """Counts and distributions of a split.

    Returns:
        `frames`, `frames_without_objects`, and `classes`: name, behind the camera's where there are several →
        `objects`; smallest, median and largest `depth`, and median `size` (h, w, l), in metres;
        `projection`: number of objects that are wholly in the image, and mean, median and least IoU of
        their 2D boxes with their projected 3D boxes, None where there are none. Without DontCare.
    """
    table, overlaps = survey.table, object_overlaps(survey)
    cameras = np.array([frame.camera for frame in survey.frames], dtype=str)[table.frame]
    names = np.char.strip(np.char.add(np.char.add(cameras, " "), _original_names(survey)))
    classes = {}
    for name in np.unique(names[survey.real]).tolist():
        rows = survey.real & (names == name)
        depth, overlap = table.objects.location[rows, 2], overlaps[rows]
        overlap = overlap[~np.isnan(overlap)]
        classes[name] = {
            "objects": int(rows.sum()),
            "depth": np.quantile(depth, [0, 0.5, 1]).round(2).tolist(),
            "size": np.median(table.objects.dimensions[rows], axis=0).round(2).tolist(),
            "projection": {
                "objects": len(overlap),
                "mean": round(float(overlap.mean()), 4) if len(overlap) else None,
                "median": round(float(np.median(overlap)), 4) if len(overlap) else None,
                "least": round(float(overlap.min()), 4) if len(overlap) else None,
            },
        }
    objects = np.bincount(table.frame[survey.real], minlength=table.frames)
    return {
        "frames": table.frames,
        "frames_without_objects": int((objects == 0).sum()),
        "classes": classes,
    }


def _original_names(survey: Survey) -> np.ndarray:
    """(N,) class names as in the files; the table's are in lower case."""
    names = [frame.objects.types for frame in survey.frames]
    return np.concatenate([np.empty(0, dtype="<U1"), *names])


def to_dict(summaries: Mapping[str, dict], problems: Sequence[Problem]) -> dict:
    """All of it, for JSON.

    Args:
        summaries: name of each split → :func:`summarise`.
        problems: of all of them.
    """
    return {
        "errors": sum(problem.severity == ERROR for problem in problems),
        "warnings": sum(problem.severity == WARNING for problem in problems),
        "datasets": dict(summaries),
        "problems": [
            {name: value for name, value in vars(problem).items() if value != ""}
            for problem in problems
        ],
    }


def to_text(
    surveys: Sequence[Survey],
    summaries: Mapping[str, dict],
    problems: Sequence[Problem],
    skipped: Sequence[str] = (),
) -> str:
    """Tables of classes and checks, and some problems of each kind.

    Args:
        surveys: the splits.
        summaries, problems: as for :func:`to_dict`.
        skipped: checks that were not made.
    """
    parts = [_classes(name, summary) for name, summary in summaries.items()]
    parts.append(_checks(surveys, problems, skipped))
    for severity in (ERROR, WARNING):
        for check in CHECKS:
            own = [p for p in problems if (p.check, p.severity) == (check, severity)]
            own.sort(key=lambda problem: -problem.badness)
            lines = [f"{severity}: {check}: {problem.message}" for problem in own[:_SHOWN]]
            more = f"… and {len(own) - _SHOWN} more of this kind"
            parts += ["\n".join([*lines, *([more] if len(own) > _SHOWN else [])])] if own else []
    return "\n\n".join(parts)


def _classes(dataset: str, summary: dict) -> str:
    header = ("class", "objects", "nearest", "median", "farthest", "h", "w", "l")
    header += ("projected", "mean IoU", "least")
    rows = [
        (
            name,
            row["objects"],
            *row["depth"],
            *row["size"],
            row["projection"]["objects"],
            row["projection"]["mean"],
            row["projection"]["least"],
        )
        for name, row in summary["classes"].items()
    ]
    title = (
        f"{dataset}: {summary['frames']} frames, {summary['frames_without_objects']} without "
        "objects (metres; IoU of projected 3D boxes with 2D boxes)"
    )
    return f"{title}\n{text_table(header, rows)}" if rows else title


def _checks(surveys: Sequence[Survey], problems: Sequence[Problem], skipped: Sequence[str]) -> str:
    looked_at = {
        "frames": sum(len(survey.frames) for survey in surveys),
        "images": sum(bool(frame.image) for survey in surveys for frame in survey.frames),
        "objects": sum(int(survey.real.sum()) for survey in surveys),
        "splits": len(surveys),
        "projection": sum(int(whole_objects(survey).sum()) for survey in surveys),
    }
    rows = []
    for check, unit in CHECKS.items():
        counts = (
            sum((p.check, p.severity) == (check, severity) for p in problems)
            for severity in (ERROR, WARNING)
        )
        number = looked_at.get(check, looked_at[unit])
        rows.append((check, "skipped" if check in skipped else f"{number} {unit}", *counts))
    return text_table(("check", "looked at", "errors", "warnings"), rows)
