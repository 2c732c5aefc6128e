"""The frames of a report's gallery: labels, what each run detected, and what became of either."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog

from qiml.data.catalog import register_datasets
from qiml.data.images import read_image_size
from qiml.data.kitti_folder import KITTISplit
from qiml.data.kitti_format import read_calibration
from qiml.errors import DatasetError
from qiml.evaluation.depth_error import IMAGE_OVERLAP, match_in_image
from qiml.evaluation.kitti_evaluator import file_name_of
from qiml.evaluation.kitti_files import pair_files
from qiml.evaluation.kitti_overlaps import over_detection, overlapping_pairs
from qiml.evaluation.kitti_rules import NEIGHBOURS, Difficulty, difficulties_with_visible
from qiml.evaluation.kitti_table import ObjectTable, read_table
from qiml.visualization.report_run import Run

FALSE_POSITIVE, EXCUSED = -1, -2
_DETECTIONS_SHOWN = 25  # of a frame, the most confident ones


@dataclass(frozen=True, eq=False)
class Gallery:
    """What a gallery shows of one data set.

    Attributes:
        dataset: as in file names.
        content: ready for JSON, see :func:`read_gallery`.
        images: file of each frame's image.
        worst_first: frame numbers in the order in which their pictures are wanted.
    """

    dataset: str
    content: dict
    images: list[Path]
    worst_first: list[int]


@dataclass(frozen=True, eq=False)
class _Matches:
    """What became of objects and detections.

    Attributes:
        partner: (D,) row of the object that a detection found, or `FALSE_POSITIVE` or `EXCUSED`: neither
            true nor false, for it lies on an object that is not evaluated or in a DontCare region.
        counted: (G,) mask of the objects that are evaluated.
        overlap: (D,) 3D intersection over union with that object, 0 without.
    """

    partner: np.ndarray
    counted: np.ndarray
    overlap: np.ndarray


def read_gallery(runs: Sequence[Run], dataset: str) -> Gallery:
    """The frames of a data set in KITTI's layout that the runs have result files for.

    The content: `classes`; `cameras`, different (3, 4) projections, row by row; `frames`: `id`, `size`
    (width, height), `camera` (number), `objects`; `runs`: for each run that detected, its number `run`, the
    `score` with the best F1 and `detections` of each frame. An object is [class, counted, box, 2D box], a
    detection [class, score, object in the frame or FALSE_POSITIVE or EXCUSED, 3D IoU, box, 2D box], both
    flat; a box is x, y, z of the geometric centre, h, w, l, yaw (metres, radians, camera frame), a 2D box
    x1, y1, x2, y2 (pixels). At most the 25 most confident detections of a frame are kept.

    Raises:
        DatasetError: the data set is not where the run found it, or files are missing or malformed.
    """
    metadata, difficulty = _origin(runs, dataset)
    frames = KITTISplit(metadata.root, metadata.split)
    ids = frames.image_ids
    images = [frames.image_file(image_id) for image_id in ids]
    folders = {
        number: run.folder / "kitti_results" / dataset
        for number, run in enumerate(runs)
        if dataset in run.kitti and (run.folder / "kitti_results" / dataset).is_dir()
    }
    if not folders:
        raise DatasetError(
            runs[0].folder / "kitti_results" / dataset,
            found="no such folder",
            expected="the result files of the evaluation",
            mend="evaluate the run again, or restore the folder",
        )
    pairs = {
        number: list(zip(*pair_files(metadata.label_dir, folder, ids), strict=True))
        for number, folder in folders.items()
    }
    gt = read_table(next(iter(pairs.values()))[0], scored=False)
    names = list(metadata.thing_classes)
    content_runs, wanted = [], []
    for number, (_, results) in pairs.items():
        dt = read_table(results, scored=True)
        matches = _match(gt, dt, names, difficulty)
        score = _best_score(dt, matches)
        content_runs.append(
            {"run": number, "score": score, "detections": _detections(gt, dt, matches, names)}
        )
        wanted += _rankings(gt, dt, matches, score)
    cameras, camera = _cameras(frames)
    objects = _objects(gt, matches, names)
    others = sorted({row[0] for own in objects for row in own if isinstance(row[0], str)})
    numbers = {name: len(names) + i for i, name in enumerate(others)}
    for row in (row for own in objects for row in own):
        row[0] = numbers.get(row[0], row[0])
    content = {
        "classes": names + [name.capitalize() for name in others],
        "cameras": cameras,
        "frames": {
            "id": ids,
            "size": [list(read_image_size(image)) for image in images],
            "camera": camera,
            "objects": objects,
        },
        "runs": content_runs,
    }
    worst_first = list(dict.fromkeys(np.stack(wanted, axis=1).ravel().tolist()))
    return Gallery(dataset, content, images, worst_first)


def _origin(runs: Sequence[Run], dataset: str) -> tuple:
    """Metadata of the data set, and which of its objects were evaluated, from the runs' configs."""
    for run in runs:
        for name in run.setting("DATASETS.TEST", []):
            if file_name_of(name) == dataset and dataset in run.kitti:
                register_datasets([name])
                min_height = float(run.setting("TEST.VISIBLE_MIN_HEIGHT", 0))
                levels = difficulties_with_visible(min_height)
                return MetadataCatalog.get(name), levels[-1]
    raise DatasetError(
        runs[0].folder / "config.yaml",
        found=f"no data set {dataset} in DATASETS.TEST",
        expected="the config of the run that was evaluated",
        mend="restore the config.yaml that the run wrote",
    )


def _match(gt: ObjectTable, dt: ObjectTable, names: list[str], difficulty: Difficulty) -> _Matches:
    in_front = gt.objects.location[:, 2] > 0
    counted = gt.of_types(*names) & in_front & ~difficulty.ignores_objects(gt.objects)
    partner = np.full(len(dt.objects), FALSE_POSITIVE)
    partner[difficulty.ignores_detections(dt.objects)] = EXCUSED
    for name in names:
        dt_rows = np.flatnonzero(dt.of_types(name))
        alike = gt.of_types(name, NEIGHBOURS.get(name.lower(), name)) & ~counted
        limit = {"2d": IMAGE_OVERLAP}
        ignored = overlapping_pairs(gt, dt, np.flatnonzero(alike), dt_rows, limit)["2d"]
        regions = np.flatnonzero(gt.of_types("DontCare"))
        covered = overlapping_pairs(gt, dt, regions, dt_rows, limit, over_detection)["2d"]
        partner[np.concatenate([ignored.dt, covered.dt])] = EXCUSED
        found = match_in_image(gt, dt, name, difficulty)
        partner[found.dt] = found.gt
    rows = np.flatnonzero(partner >= 0)
    overlap = np.zeros(len(partner))
    solid = overlapping_pairs(gt, dt, np.unique(partner[rows]), rows, {"3d": 0.0})["3d"]
    own = partner[solid.dt] == solid.gt
    overlap[solid.dt[own]] = solid.overlap[own]
    return _Matches(partner, counted, overlap)


def _best_score(dt: ObjectTable, matches: _Matches) -> float:
    """The score from which on detections have the best F1; rounded down to whole hundredths."""
    judged = matches.partner != EXCUSED
    order = np.argsort(-dt.objects.score[judged], kind="stable")
    if not len(order):
        return 0.0
    true = np.cumsum(matches.partner[judged][order] >= 0)
    f1 = 2 * true / (np.arange(1, len(true) + 1) + max(matches.counted.sum(), 1))
    return max(0.0, np.floor(100 * dt.objects.score[judged][order][f1.argmax()]) / 100)


def _rankings(
    gt: ObjectTable, dt: ObjectTable, matches: _Matches, score: float
) -> list[np.ndarray]:
    """Frame numbers, worst first: by depth error, by missed objects, by false positives."""
    shown = dt.objects.score >= score
    rows = np.flatnonzero((matches.partner >= 0) & shown)
    error = np.abs(dt.objects.location[rows, 2] - gt.objects.location[matches.partner[rows], 2])
    worst = np.zeros(gt.frames)
    np.maximum.at(worst, dt.frame[rows], error)
    found = np.zeros(len(gt.objects), dtype=bool)
    found[matches.partner[rows]] = True
    missed = np.bincount(gt.frame[matches.counted & ~found], minlength=gt.frames)
    false = np.flatnonzero(shown & (matches.partner == FALSE_POSITIVE))
    false = np.bincount(dt.frame[false], minlength=gt.frames)
    return [np.argsort(-measure, kind="stable") for measure in (worst, missed, false)]


def _objects(gt: ObjectTable, matches: _Matches, names: list[str]) -> list[list[list]]:
    """Rows of each frame's objects, DontCare left out; classes that are not detected by name."""
    numbers = {name.lower(): number for number, name in enumerate(names)}
    kinds = [numbers.get(kind, kind) for kind in gt.objects.types.tolist()]
    rows = [
        [kind, int(counted), *values]
        for kind, counted, values in zip(kinds, matches.counted, _boxes(gt), strict=True)
    ]
    shown = _is_shown(gt)
    return [[rows[i] for i in range(first, last) if shown[i]] for first, last in _spans(gt)]


def _detections(
    gt: ObjectTable, dt: ObjectTable, matches: _Matches, names: list[str]
) -> list[list[list]]:
    """Rows of each frame's most confident detections of the classes, best first."""
    shown = _is_shown(gt)
    # Position of each object among those of its frame that are shown.
    before = np.concatenate([[0], np.cumsum(shown)])
    starts = np.array([before[first] for first, _ in _spans(gt)], dtype=int)
    position = before[:-1] - starts[gt.frame]
    found = matches.partner >= 0
    partner = matches.partner.copy()
    partner[found] = position[matches.partner[found]]
    numbers = {name.lower(): number for number, name in enumerate(names)}
    rows = [
        [numbers[kind], round(score, 3), int(other), round(overlap, 2), *values]
        if kind in numbers
        else None
        for kind, score, other, overlap, values in zip(
            dt.objects.types.tolist(),
            dt.objects.score.tolist(),
            partner,
            matches.overlap.tolist(),
            _boxes(dt),
            strict=True,
        )
    ]
    frames = []
    for first, last in _spans(dt):
        own = sorted((row for row in rows[first:last] if row), key=lambda row: -row[1])
        frames.append(own[:_DETECTIONS_SHOWN])
    return frames


def _is_shown(gt: ObjectTable) -> np.ndarray:
    return ~gt.of_types("DontCare") & (gt.objects.dimensions > 0).all(axis=1)


def _boxes(table: ObjectTable) -> list[list[float]]:
    """Box with geometric centre, then 2D box, rounded to centimetres, hundredths of a radian and pixels."""
    objects = table.objects
    centre = objects.location.copy()
    centre[:, 1] -= objects.dimensions[:, 0] / 2
    solid = np.column_stack([centre, objects.dimensions, objects.rotation_y]).round(2).tolist()
    flat = objects.bbox.round().astype(int).tolist()
    return [a + b for a, b in zip(solid, flat, strict=True)]


def _spans(table: ObjectTable) -> list[tuple[int, int]]:
    """First and one past the last row of each frame."""
    ends = np.cumsum(np.bincount(table.frame, minlength=table.frames)).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _cameras(frames: KITTISplit) -> tuple[list[list[float]], list[int]]:
    """Different projections, and the number of each frame's."""
    known: dict[tuple, int] = {}
    camera = []
    for image_id in frames.image_ids:
        projection = read_calibration(frames.calibration_file(image_id))
        key = tuple(projection.round(4).ravel().tolist())
        camera.append(known.setdefault(key, len(known)))
    return [list(key) for key in known], camera
