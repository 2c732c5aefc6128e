"""Waymo's v1 release: `.tfrecord` files of `Frame` messages."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from qiml.data.tfrecord import read_records
from qiml.data.waymo_format import (
    CAMERAS,
    WaymoCamera,
    WaymoFrame,
    WaymoObject,
    keep_cameras,
    keep_usable,
)
from qiml.data.waymo_protos import dataset_protos
from qiml.errors import DatasetError


def read_v1(
    path: str | Path, cameras: Sequence[str], every: int, counts: Counter
) -> Iterator[tuple[WaymoFrame, dict[str, bytes]]]:
    """The frames of a segment, one record in memory at a time.

    Args:
        path: local `.tfrecord`.
        cameras: names among `CAMERAS`.
        every: take frames 0, every, 2·every, …
        counts: what was read, skipped and corrected is added here.

    Yields:
        A frame whose `images` are still empty, and the JPEG files by camera, as stored.

    Raises:
        DatasetError: a damaged file, a record that is no frame, or labels without LiDAR points.
        ConfigError: Waymo's protocol buffers are not installed.
    """
    frame_type = dataset_protos().Frame
    for number, data in enumerate(read_records(path, every)):
        frame = frame_type()
        where = f"{path}, record {number * every}"
        try:
            frame.ParseFromString(data)
            found = _read_frame(frame, where, cameras, counts)
        except DatasetError:
            raise
        # DecodeError, whose class depends on protobuf's build; or, later, a text that is none.
        except Exception as error:
            raise _not_a_frame(where, f"{type(error).__name__}: {error}") from error
        if found is not None:
            yield found


def _not_a_frame(where: str, found: str) -> DatasetError:
    return DatasetError(
        where,
        found=found,
        expected="a waymo.open_dataset.Frame",
        mend="take the perception data set's files, with camera labels",
    )


def _read_frame(
    frame, where: str, cameras: Sequence[str], counts: Counter
) -> tuple[WaymoFrame, dict[str, bytes]] | None:
    """What :func:`read_v1` yields; None where there is no image of the cameras."""
    if not frame.context.name:
        raise _not_a_frame(where, "a message without the name of its segment")
    images = {camera_name(image.name): image.image for image in frame.images}
    calibrations = {camera_name(c.name): _calibration(c) for c in frame.context.camera_calibrations}
    kept = keep_cameras(calibrations, images, cameras, counts)
    if not kept:
        counts["skipped: frames without any wanted image"] += 1
        return None
    if not frame.laser_labels:
        counts["frames without labels"] += 1
    elif not any(label.HasField("num_lidar_points_in_box") for label in frame.laser_labels):
        raise DatasetError(
            where,
            found="labels without their number of LiDAR points, as in release 1.0",
            expected="release 1.1 or later",
            mend="download a later release: grading and filters need these numbers",
        )
    counts["frames"] += 1
    objects = keep_usable(_objects(frame), kept, counts)
    chosen = {name: calibrations[name] for name in kept}
    return (
        WaymoFrame(frame.context.name, frame.timestamp_micros, chosen, {}, objects),
        {name: images[name] for name in kept},
    )


def camera_name(number: int) -> str:
    """Name of a camera by Waymo's number; of an unknown one a text that says so."""
    return CAMERAS[number - 1] if 1 <= number <= len(CAMERAS) else f"camera {number}"


def _calibration(message) -> WaymoCamera:
    return WaymoCamera(
        message.width,
        message.height,
        tuple(message.intrinsic),
        tuple(message.extrinsic.transform),
    )


def _objects(frame) -> list[WaymoObject]:
    boxes2d: dict[str, dict[str, tuple[float, ...]]] = {}
    for labels in frame.projected_lidar_labels:
        camera = camera_name(labels.name)
        for label in labels.labels:
            # The projected label's id is the object's with the camera's name behind.
            own = label.id.removesuffix(f"_{camera}")
            boxes2d.setdefault(own, {})[camera] = corners(
                label.box.center_x, label.box.center_y, label.box.length, label.box.width
            )
    return [
        WaymoObject(
            id=label.id,
            type=label.type,
            box=_box(label.box),
            synced_box=_box(label.camera_synced_box) if _is_synced(label) else None,
            points=label.num_lidar_points_in_box,
            top_points=label.num_top_lidar_points_in_box,
            level=label.detection_difficulty_level,
            visible_camera=label.most_visible_camera_name,
            boxes2d=boxes2d.get(label.id, {}),
        )
        for label in frame.laser_labels
    ]


def _is_synced(label) -> bool:
    return bool(label.most_visible_camera_name) and label.HasField("camera_synced_box")


def _box(box) -> tuple[float, ...]:
    return (
        box.center_x, box.center_y, box.center_z, box.length, box.width, box.height, box.heading,
    )  # fmt: skip


def corners(x: float, y: float, width: float, height: float) -> tuple[float, ...]:
    """x1, y1, x2, y2 from centre and sizes."""
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
