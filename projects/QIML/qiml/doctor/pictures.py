"""The frames that look worst, with their boxes."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from qiml.data.images import read_image, write_image
from qiml.doctor.checks import object_overlaps
from qiml.doctor.problems import Problem
from qiml.doctor.survey import Survey
from qiml.errors import DatasetError
from qiml.structures.boxes3d import Boxes3D
from qiml.structures.camera import Camera
from qiml.visualization.panel import prediction_panel


def draw_worst(
    surveys: Sequence[Survey], problems: Sequence[Problem], folder: Path, count: int
) -> list[Path]:
    """Write pictures of the worst frames that can be drawn: 3D boxes, 2D boxes in white, the view from above.

    A frame is the worse, the more problems it has and the less the 3D box fits that fits least.

    Args:
        surveys: the splits.
        problems: of all of them.
        folder: to write to; pictures of an earlier check go.
        count: pictures at most.

    Returns:
        The files, worst first.
    """
    ranked = sorted(
        (entry for survey in surveys for entry in _ranked(survey, problems)),
        key=lambda entry: -entry[0],
    )
    for old in folder.glob("[0-9][0-9]*_*.jpg"):
        old.unlink()
    files: list[Path] = []
    for _, survey, number, checks in ranked:
        if len(files) == count:
            break
        try:
            picture = _draw(survey, number, checks)
        except DatasetError:  # told already
            continue
        name = re.sub(r"[^\w.-]+", "_", f"{survey.name}_{survey.frames[number].id}")
        files.append(folder / f"{len(files) + 1:02d}_{name}.jpg")
        write_image(files[-1], picture)
    return files


def _ranked(
    survey: Survey, problems: Sequence[Problem]
) -> list[tuple[float, Survey, int, list[str]]]:
    """Badness, survey, number and failed checks of each frame that has an image, a camera and objects."""
    badness = np.zeros(len(survey.frames))
    overlaps = object_overlaps(survey)
    known = ~np.isnan(overlaps)
    np.maximum.at(badness, survey.table.frame[known], 1 - overlaps[known])
    checks = defaultdict(list)
    for problem in problems:
        if problem.dataset == survey.name and problem.frame:
            checks[problem.frame].append(problem)
    objects = np.bincount(survey.table.frame[survey.real], minlength=len(survey.frames))
    return [
        (
            badness[number] + sum(problem.badness for problem in checks[frame.id]),
            survey,
            number,
            list(dict.fromkeys(problem.check for problem in checks[frame.id])),
        )
        for number, frame in enumerate(survey.frames)
        if frame.image and objects[number] and np.isfinite(frame.projection).all()
    ]


def _draw(survey: Survey, number: int, checks: Sequence[str]) -> np.ndarray:
    frame = survey.frames[number]
    objects = frame.objects[np.char.lower(frame.objects.types) != "dontcare"]
    names, classes = np.unique(objects.types, return_inverse=True)
    return prediction_panel(
        read_image(frame.image),
        Camera(torch.as_tensor(frame.projection)),
        Boxes3D.from_kitti(objects.location, objects.dimensions, objects.rotation_y),
        classes,
        names.tolist(),
        boxes2d=objects.bbox,
        title=f"{frame.id}: {', '.join(checks) or 'nothing wrong'}",
    )
