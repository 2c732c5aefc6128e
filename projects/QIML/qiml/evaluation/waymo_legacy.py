"""The protocol of monocular papers on Waymo, under its own name: `mono_front_legacy`.

DEVIANT's `data/waymo/waymo_eval.py` (from progressive-coordinate-transforms) feeds boxes of the *camera*
frame, with the centre of the *bottom* face and KITTI's angle, to Waymo's metric, which takes z for the
vertical; and matches at 11 quantiles of the scores. Errors in depth then weigh like errors in height:
numbers of this protocol compare with published ones of its kind, and with nothing else.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from qiml.data.kitti_format import KITTIObjects, read_objects
from qiml.errors import DatasetError
from qiml.evaluation.kitti_files import pair_files
from qiml.evaluation.kitti_table import read_table
from qiml.evaluation.waymo_metric import Rows, evaluate
from qiml.evaluation.waymo_rules import LET_IOU, LEVEL_2_POINTS, OFFICIAL_IOU

PROTOCOL = "mono_front_legacy"
CUTOFFS = 11
TYPE_NUMBERS = {"Car": 1, "Pedestrian": 2, "Sign": 3, "Cyclist": 4}
# The two tables of the papers: what follows the protocol's name, and the thresholds.
TABLES: Mapping[str, Mapping[int, float]] = {"": OFFICIAL_IOU, "_relaxed": LET_IOU}


def evaluate_legacy(
    labels: Sequence[KITTIObjects],
    points: Sequence[np.ndarray],
    detections: Sequence[KITTIObjects],
    iou: Mapping[int | str, float] | None = None,
    files: Sequence[tuple[Path, Path]] | None = None,
) -> Rows:
    """Evaluate the front camera's frames as the papers do.

    Args:
        labels: objects of F frames in KITTI's columns. Without LiDAR points, or with an empty 2D box,
            an object is left out.
        points: for each frame (N,) LiDAR points in each object's box.
        detections: of the same frames.
        iou: as for :func:`qiml.evaluation.waymo_metric.evaluate`.
        files: of the labels and detections of each frame, for messages; None: frames are numbered in them.

    Raises:
        DatasetError: a class other than Car, Pedestrian, Cyclist, Sign, in any case.
    """
    places = files or [(f"{PROTOCOL}, frame number {i}",) * 2 for i in range(len(labels))]
    gt, dt = [np.empty((0, 10))], [np.empty((0, 10))]
    frames = zip(places, labels, points, detections, strict=True)
    for frame, ((label, result), objects, count, found) in enumerate(frames):
        x1, y1, x2, y2 = objects.bbox.T
        kept = (count != 0) & (x2 > x1) & (y2 > y1)
        levels = np.where(count > LEVEL_2_POINTS, 1, 2)
        gt.append(_rows(frame, objects, levels, label)[kept])
        dt.append(_rows(frame, found, found.score, result))
    return evaluate(np.concatenate(gt), np.concatenate(dt), iou, cutoffs=CUTOFFS)


def _rows(frame: int, objects: KITTIObjects, last: np.ndarray, where: str | Path) -> np.ndarray:
    known = {name.lower(): number for name, number in TYPE_NUMBERS.items()}
    for name in objects.types:
        if name.lower() not in known:
            raise DatasetError(
                where,
                found=f"class '{name}'",
                expected=f"one of {', '.join(TYPE_NUMBERS)}",
                mend="rename the class or remove the object",
            )
    numbers = np.array([known[name.lower()] for name in objects.types.tolist()], dtype=float)
    boxes = np.column_stack(
        [objects.location, objects.dimensions[:, ::-1], objects.rotation_y]
    ).astype(np.float32)
    return np.column_stack([np.full(len(objects), frame), boxes, numbers, last])


def evaluate_folders(
    label_dir: str | Path,
    result_dir: str | Path,
    ids: Sequence[str] | None = None,
    iou: Mapping[int | str, float] | None = None,
) -> tuple[Rows, int]:
    """Evaluate KITTI text files.

    As in DEVIANT's script, frames without a result file are left out together with their objects.

    Args:
        label_dir: ID.txt with 16 columns, the last being the LiDAR points in the box.
        result_dir: ID.txt with 16 columns, the last being the score; or the folder above `data`.
        ids: frames; None takes all that have labels.
        iou: as for :func:`evaluate_legacy`.

    Returns:
        The rows, and the number of frames evaluated.
    """
    pairs = pair_files(label_dir, result_dir, ids, allow_missing=True)
    files = [pair for pair in pairs if pair[1] is not None]
    labels = [read_objects(label, scored=True, known_types=None) for label, _ in files]
    # Of any finite size, as KITTI's evaluation reads them: a detection may be wrong.
    detections = [read_table([result], scored=True).objects for _, result in files]
    points = [objects.score for objects in labels]
    return evaluate_legacy(labels, points, detections, iou, files), len(files)
