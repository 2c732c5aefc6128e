"""Checks of calibration and labels, all objects of a split at once."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from qiml.doctor.plausible import plausible
from qiml.doctor.problems import ERROR, Problem, warning
from qiml.doctor.survey import Survey
from qiml.evaluation.projection_check import projection_overlaps
from qiml.structures.boxes3d import wrap_angle

_FEW = 5  # objects from which on a share of them tells something about the data set
_BORDER = 2.0  # pixels
_FOCAL = (0.2, 20.0)  # focal lengths in widths of the image: fields of view of 136° to 3°
_ANISOTROPY = 1.3
_OFFSET = 5.0  # metres of a camera from the frame of the labels
_ANGLE = 0.3  # radians
_NEAREST = 1.0  # metres; nearer, an object has no one direction


def check_labels(survey: Survey) -> list[Problem]:
    """All checks of this module.

    What most objects have wrong is told once more, as a problem of the data set.
    """
    problems = [*_calibrations(survey), *_trains(survey)]
    for check in (_repeated, _codes, _boxes2d, _projections, _sizes, _depths, _headings):
        problems += check(survey)
    return problems


def whole_objects(survey: Survey) -> np.ndarray:
    """(N,) mask of the objects that should project onto their 2D boxes: seen wholly, in a known image."""
    table, frame = survey.table, survey.table.frame
    height, width = survey.sizes[frame].T
    x1, y1, x2, y2 = table.objects.bbox.T
    inside = (x1 > _BORDER) & (y1 > _BORDER) & (x2 < width - _BORDER) & (y2 < height - _BORDER)
    known = np.isfinite(survey.projections[frame]).all(axis=(1, 2)) & (width > 0)
    return survey.real & inside & known & (table.objects.truncation <= 0)


def object_overlaps(survey: Survey) -> np.ndarray:
    """(N,) IoU of 2D box and projected 3D box; nan where they need not agree."""
    overlaps, rows = np.full(len(survey.table.objects), np.nan), whole_objects(survey)
    frame = survey.table.frame[rows]
    overlaps[rows] = projection_overlaps(
        survey.table.objects[rows], survey.projections[frame], survey.sizes[frame]
    )
    return overlaps


def _limits(survey: Survey, name: str) -> np.ndarray:
    """(N, …) what is plausible for each object."""
    kinds, index = np.unique(survey.table.objects.types, return_inverse=True)
    return np.array([getattr(plausible(kind), name) for kind in kinds.tolist()])[index]


def _calibrations(survey: Survey) -> Iterator[Problem]:
    """Numbers that a pinhole camera of this image can hardly have."""
    with np.errstate(invalid="ignore", divide="ignore"):
        fx, fy = survey.projections[:, 0, 0], survey.projections[:, 1, 1]
        centre, width = survey.projections[:, :2, 2], survey.sizes[:, 1]
        offset = np.abs(survey.projections[:, :2, 3] / np.stack([fx, fy], axis=1)).max(axis=1)
        known = width > 0
        found = {
            "a focal length of {:.4g} widths of the image": (
                fx / width,
                known & ((fx / width < _FOCAL[0]) | (fx / width > _FOCAL[1])),
            ),
            "focal lengths in the proportion {:.4g}": (
                fx / fy,
                np.abs(np.log(fx / fy)) > np.log(_ANISOTROPY),
            ),
            "the principal point {:.0f} px outside the image": (
                np.maximum(-centre, centre - survey.sizes[:, ::-1]).max(axis=1),
                known & ((centre < 0) | (centre > survey.sizes[:, ::-1])).any(axis=1),
            ),
            "skew, {:.3g} of the focal length": (
                np.abs(survey.projections[:, 0, 1]) / fx,
                np.abs(survey.projections[:, 0, 1]) > 0.01 * fx,
            ),
            "a camera {:.3g} m beside the labels' origin": (offset, offset > _OFFSET),
        }
    for text, (values, wrong) in found.items():
        for number in np.flatnonzero(wrong).tolist():
            yield warning(
                "calibration",
                survey.name,
                survey.frames[number].calibration,
                found=text.format(values[number]),
                expected="the projection of a pinhole camera, in pixels of this image",
                mend="scale the calibration together with the image, and see that it is of the rectified one",
                frame=survey.frames[number].id,
            )


def _trains(survey: Survey) -> Iterator[Problem]:
    if survey.is_labelled and survey.frames and not survey.table.of_types(*survey.classes).any():
        yield warning(
            "labels",
            survey.name,
            str(survey.root),
            found=f"no object of the classes {', '.join(survey.classes)}",
            expected="some, to learn from",
            mend="rename the classes in the label files",
            severity=ERROR,
        )


def _repeated(survey: Survey) -> Iterator[Problem]:
    objects = survey.table.objects
    _, kinds = np.unique(objects.types, return_inverse=True)
    rows = np.column_stack([survey.table.frame, kinds, objects.values[:, :-1]])
    _, first = np.unique(rows, axis=0, return_index=True)
    again = survey.real.copy()
    again[first] = False
    return _by_frame(
        survey,
        "labels",
        again,
        lambda _: "the same as one before it",
        expected="each object once",
        mend="delete the line",
    )


def _codes(survey: Survey) -> Iterator[Problem]:
    truncation, occlusion = survey.table.objects.truncation, survey.table.objects.occlusion
    wrong = ((truncation < 0) | (truncation > 1)) & (truncation != -1)
    wrong |= ~np.isin(occlusion, (-1, 0, 1, 2, 3))
    return _by_frame(
        survey,
        "labels",
        wrong & survey.real,
        lambda row: f"truncation {truncation[row]:g}, occlusion {occlusion[row]:g}",
        expected="truncation from 0 to 1 and occlusion 0, 1, 2 or 3: they choose what trains",
        mend="correct the two columns",
    )


def _boxes2d(survey: Survey) -> Iterator[Problem]:
    x1, y1, x2, y2 = survey.table.objects.bbox.T
    height, width = survey.sizes[survey.table.frame].T
    beyond = np.max([-x1, -y1, x2 - width, y2 - height], axis=0)
    wrong = ((width > 0) & (beyond > _BORDER)) | (x2 <= x1) | (y2 <= y1)
    return _by_frame(
        survey,
        "2D boxes",
        wrong & survey.real,
        lambda row: (
            f"x1 y1 x2 y2 = {x1[row]:g} {y1[row]:g} {x2[row]:g} {y2[row]:g} "
            f"in {width[row]:g}×{height[row]:g} px"
        ),
        expected="boxes with an area, cut off at the border of the image",
        mend="clip them, and see that labels and image have the same size",
    )


def _projections(survey: Survey) -> Iterator[Problem]:
    overlaps = object_overlaps(survey)
    with np.errstate(invalid="ignore"):
        wrong = overlaps < _limits(survey, "overlap")
    return _by_frame(
        survey,
        "projection",
        wrong,
        lambda row: f"a 3D box that projects beside the 2D box (IoU {overlaps[row]:.2f})",
        expected="boxes that agree where an object is wholly in the image",
        mend="see that the calibration is this frame's, that y is the bottom of the box, and that angles "
        "turn about the axis that points down",
        badness=1 - overlaps,
        looked_at=~np.isnan(overlaps),
        severity=ERROR,
    )


def _sizes(survey: Survey) -> Iterator[Problem]:
    sizes = survey.table.objects.dimensions
    limits = np.stack(
        [_limits(survey, name).reshape(-1, 2) for name in ("height", "width", "length")], axis=1
    )
    wrong = ((sizes < limits[..., 0]) | (sizes > limits[..., 1])).any(axis=1)
    return _by_frame(
        survey,
        "sizes",
        wrong & survey.real,
        lambda row: "h w l = " + " ".join(f"{size:g}" for size in sizes[row]),
        expected="metres, in the order height, width, length",
        mend="correct the sizes or the class",
    )


def _depths(survey: Survey) -> Iterator[Problem]:
    objects = survey.table.objects
    depth, farthest = objects.location[:, 2], _limits(survey, "distance")
    wrong = (depth > farthest) | ((depth <= 0) & whole_objects(survey))
    return _by_frame(
        survey,
        "depths",
        wrong & survey.real,
        lambda row: f"z = {depth[row]:g}",
        expected="metres along the optical axis, in front of the camera",
        mend="see that x y z are in the camera's frame (x right, y down, z forward)",
    )


def _headings(survey: Survey) -> Iterator[Problem]:
    objects = survey.table.objects
    given = survey.real & (objects.alpha != -10) & (objects.location[:, 2] > _NEAREST)
    rays = np.arctan2(objects.location[:, 0], objects.location[:, 2])
    difference = torch.from_numpy(objects.alpha - (objects.rotation_y - rays))
    difference = wrap_angle(difference).abs().numpy()
    too_large = np.abs(np.stack([objects.alpha, objects.rotation_y])).max(axis=0) > 1.01 * np.pi
    return _by_frame(
        survey,
        "headings",
        given & ((difference > _ANGLE) | too_large),
        lambda row: (
            f"alpha {objects.alpha[row]:g} and rotation_y {objects.rotation_y[row]:g}, "
            f"{difference[row]:.2f} apart after the direction of the object"
        ),
        expected="alpha = rotation_y − atan2(x, z), both in radians from −π to π",
        mend="correct the angles, or write −10 for alpha: it is then computed",
        badness=difference / np.pi,
        looked_at=given,
        severity=ERROR,
    )


def _by_frame(
    survey: Survey,
    check: str,
    wrong: np.ndarray,
    describe: Callable[[int], str],
    *,
    expected: str,
    mend: str,
    badness: np.ndarray | None = None,
    looked_at: np.ndarray | None = None,
    severity: str | None = None,
) -> Iterator[Problem]:
    """A warning for each frame with wrong objects, which tells of the worst.

    Args:
        survey: the split.
        check: its name.
        wrong: (N,) mask.
        describe: row of an object → what is wrong with it.
        expected, mend: of the messages.
        badness: (N,); None: all alike.
        looked_at: (N,) mask of the objects that could be judged.
        severity: of the problem that most of those are wrong; None: that is not told.
    """
    frame, objects = survey.table.frame, survey.table.objects
    badness = np.ones(len(frame)) if badness is None else badness
    rows = np.flatnonzero(wrong)
    for own in np.split(rows, np.flatnonzero(np.diff(frame[rows])) + 1) if len(rows) else ():
        row = own[badness[own].argmax()]
        place = survey.frames[frame[row]]
        number = row - np.searchsorted(frame, frame[row]) + 1
        more = f"; and {len(own) - 1} more of its objects" if len(own) > 1 else ""
        yield warning(
            check,
            survey.name,
            place.labels,
            found=f"object {number} ({objects.types[row]}, {objects.location[row, 2]:.1f} m) with "
            f"{describe(row)}{more}",
            expected=expected,
            mend=mend,
            frame=place.id,
            badness=float(min(badness[row], 1)),
        )
    judged = 0 if looked_at is None else looked_at.sum()
    if severity and judged >= _FEW and len(rows) > judged / 2:
        yield warning(
            check,
            survey.name,
            str(survey.root),
            found=f"{len(rows)} of {judged} objects wrong in the same way: {describe(rows[0])}",
            expected=expected,
            mend=mend,
            severity=severity,
        )
