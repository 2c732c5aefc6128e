"""Files of Waymo's metric tools: `metrics.Objects` and `submission.Submission`."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qiml.data.waymo_protos import metrics_protos, submission_protos
from qiml.errors import DatasetError
from qiml.evaluation.waymo_rules import difficulty_levels
from qiml.io import atomic_path

FrameKey = tuple[str, int, int]  # context name, timestamp in µs, camera number (0: none)
_MAX_METHOD_NAME = 25
# The tool that makes submissions drops detections below.
_LEAST_SCORE = 0.03


@dataclass
class FrameNumbers:
    """Numbers of frames, given out in the order they are met."""

    numbers: dict[FrameKey, int] = field(default_factory=dict)

    def __getitem__(self, key: FrameKey) -> int:
        return self.numbers.setdefault(key, len(self.numbers))

    def __len__(self) -> int:
        return len(self.numbers)


def read_ground_truth(
    path: str | Path, frames: FrameNumbers, let: bool
) -> tuple[np.ndarray, Counter]:
    """Objects as the official tools take them.

    Source: `compute_detection_metrics_main.cc`, `compute_detection_let_metrics_main.cc`.

    Args:
        path: a serialised `metrics.Objects`.
        frames: numbers to give to frames.
        let: for the longitudinal-error-tolerant metric: camera-synced boxes, points of the top LiDAR,
            and only objects that some camera sees.

    Returns:
        (N, 10) rows for :func:`qiml.evaluation.waymo_metric.evaluate`, and how many objects were left
        out, by reason.
    """
    rows, skipped = [], Counter()
    for item in _objects(path):
        label = item.object
        points = label.num_top_lidar_points_in_box if let else label.num_lidar_points_in_box
        if points <= 0:
            skipped[f"no {'top-' if let else ''}LiDAR points"] += 1
        elif let and not label.most_visible_camera_name:
            skipped["seen by no camera"] += 1
        else:
            box = label.camera_synced_box if let else label.box
            annotated = label.detection_difficulty_level
            rows.append([frames[_key(item)], *_numbers(box), label.type, points, annotated])
    table = np.array(rows, dtype=float).reshape(-1, 11)
    levels = difficulty_levels(table[:, 9], table[:, 10])
    return np.column_stack([table[:, :9], levels]), skipped


def read_predictions(path: str | Path, frames: FrameNumbers) -> tuple[np.ndarray, np.ndarray]:
    """Detections.

    Returns:
        (M, 10) rows for :func:`qiml.evaluation.waymo_metric.evaluate`, and (M,) whether each lies in a
        no-label zone.
    """
    rows, excused = [], []
    for item in _objects(path):
        box = _numbers(item.object.box)
        rows.append([frames[_key(item)], *box, item.object.type, item.score])
        excused.append(item.overlap_with_nlz)
    return np.array(rows, dtype=float).reshape(-1, 10), np.array(excused, dtype=bool)


def _objects(path: str | Path) -> Iterator:
    objects = metrics_protos().Objects()
    try:
        objects.ParseFromString(Path(path).read_bytes())
    except Exception as error:  # OSError, or DecodeError, whose class depends on protobuf's build
        raise DatasetError(
            path,
            found=f"a file that does not read ({error})",
            expected="a serialised waymo.open_dataset.Objects",
            mend="check the path; ground truth and predictions are .bin files",
        ) from error
    return iter(objects.objects)


def _key(item) -> FrameKey:
    return item.context_name, item.frame_timestamp_micros, item.camera_name


def _numbers(box) -> tuple[float, ...]:
    return (
        box.center_x, box.center_y, box.center_z, box.length, box.width, box.height, box.heading,
    )  # fmt: skip


def write_predictions(
    path: str | Path, rows: np.ndarray, frames: Sequence[tuple[str, int]]
) -> None:
    """Write detections as `metrics.Objects`, which the official tools read; whole or not at all.

    Args:
        path: file to write.
        rows: (M, 10) as for :func:`qiml.evaluation.waymo_metric.evaluate`; headings are brought into
            [−π, π), as Waymo's server demands.
        frames: context name and timestamp of the frame numbers in the first column.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(_predictions(rows, frames).SerializeToString())


def _predictions(rows: np.ndarray, frames: Sequence[tuple[str, int]]):
    objects = metrics_protos().Objects()
    for frame, x, y, z, length, width, height, heading, kind, score in rows.tolist():
        item = objects.objects.add()
        item.context_name, item.frame_timestamp_micros = frames[int(frame)]
        item.score = score
        item.object.type = int(kind)
        box = item.object.box
        box.center_x, box.center_y, box.center_z = x, y, z
        box.length, box.width, box.height = length, width, height
        box.heading = (heading + np.pi) % (2 * np.pi) - np.pi
    return objects


def write_submission(
    path: str | Path, predictions: str | Path, details: Mapping[str, object]
) -> int:
    """Write a `Submission` for Waymo's server from a file of predictions.

    As in the official tool, detections with a score below 0.03 are left out.

    Args:
        path: file to write, such as submission.binproto; upload it in a .tar.gz.
        predictions: a file of :func:`write_predictions`.
        details: fields of `submission.proto`: `account_name` and `unique_method_name` at least; `task`
            and `sensor_type` are those of camera-only 3D detection unless given.

    Returns:
        Number of detections written.

    Raises:
        DatasetError: a detail is missing, unknown or too long, or the predictions do not read.
    """
    submission = submission_protos().Submission()
    defaults = {"task": submission.CAMERA_ONLY_DETECTION_3D, "sensor_type": submission.CAMERA_ALL}
    for name, value in {**defaults, **details}.items():
        try:
            if isinstance(value, list | tuple):
                getattr(submission, name).extend(value)
            else:
                setattr(submission, name, value)
        except (AttributeError, TypeError, ValueError) as error:
            raise _bad_detail(name, str(error)) from error
    for name in ("account_name", "unique_method_name"):
        if not getattr(submission, name):
            raise _bad_detail(name, "nothing")
    if len(submission.unique_method_name) > _MAX_METHOD_NAME:
        raise _bad_detail("unique_method_name", f"{len(submission.unique_method_name)} characters")
    kept = [item for item in _objects(predictions) if item.score >= _LEAST_SCORE]
    submission.inference_results.objects.extend(kept)
    submission.object_types.extend(sorted({item.object.type for item in kept}))
    with atomic_path(path) as temporary:
        temporary.write_bytes(submission.SerializeToString())
    return len(kept)


def _bad_detail(name: str, found: str) -> DatasetError:
    return DatasetError(
        f"submission: {name}",
        found=found,
        expected="account_name, unique_method_name (at most 25 characters) and other fields of "
        "submission.proto",
        mend="correct the value",
    )
