"""Waymo's v2 release: parquet files, a folder a component, a file a segment; local, s3:// or gs://.

Component and column names are those of `waymo_open_dataset/v2/perception`.
"""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from qiml.data.waymo_format import (
    WaymoCamera,
    WaymoFrame,
    WaymoObject,
    keep_cameras,
    keep_usable,
)
from qiml.data.waymo_records import camera_name, corners
from qiml.errors import DatasetError

IMAGES = "camera_image"
_IMAGE_COLUMN = "[CameraImageComponent].image"
_SEGMENT, _TIME = "key.segment_context_name", "key.frame_timestamp_micros"
_CAMERA, _OBJECT = "key.camera_name", "key.laser_object_id"
_INTRINSIC = ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")
_BOX = ("center.x", "center.y", "center.z", "size.x", "size.y", "size.z", "heading")
_BOX2D = ("center.x", "center.y", "size.x", "size.y")


def open_filesystem(location: str | Path) -> tuple[fs.FileSystem, str]:
    """The file system of a path or of an s3:// or gs:// address, and the path in it.

    Raises:
        DatasetError: the address does not open.
    """
    text = str(location)
    with _answers(text):
        if "://" in text:
            return fs.FileSystem.from_uri(text)
        return fs.LocalFileSystem(), str(Path(text).absolute())


@contextlib.contextmanager
def _answers(location: str) -> Iterator[None]:
    """Name the address that does not open, or whose file system does not answer."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise DatasetError(
            location,
            found=str(error),
            expected="a folder, s3://… or gs://… that may be read",
            mend="correct the address, or check the network and your rights there",
        ) from error


def read_v2(
    image_file: str, cameras: Sequence[str], every: int, counts: Counter
) -> Iterator[tuple[WaymoFrame, dict[str, bytes]]]:
    """The frames of a segment, by time, without their images: `images` point into the parquet file.

    Args:
        image_file: …/camera_image/SEGMENT.parquet; the other components lie beside `camera_image`.
        cameras, every, counts: as for :func:`qiml.data.waymo_records.read_v1`.

    Raises:
        DatasetError: a component or column is missing.
    """
    calibrations = _read_calibrations(image_file)
    objects = _read_objects(image_file)
    rows: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    with _usable(image_file, IMAGES):
        for row, item in enumerate(_read(image_file, IMAGES, [_SEGMENT, _TIME, _CAMERA])):
            name = camera_name(item[_CAMERA])
            rows[item[_SEGMENT], item[_TIME]][name] = f"{image_file}#{row}"
        keys = sorted(rows)
    for key in keys[::every]:
        kept = keep_cameras(calibrations, rows[key], cameras, counts)
        if not kept:
            counts["skipped: frames without any wanted image"] += 1
            continue
        counts["frames"] += 1
        if not objects.get(key):
            counts["frames without labels"] += 1
        yield (
            WaymoFrame(
                *key,
                cameras={name: calibrations[name] for name in kept},
                images={name: rows[key][name] for name in kept},
                objects=keep_usable(objects.get(key, ()), kept, counts),
            ),
            {},
        )


def _read(image_file: str, component: str, columns: Sequence[str] | None = None) -> list[dict]:
    """The rows of a component of the segment."""
    path = _component_file(image_file, component)
    system, inner = open_filesystem(path)
    try:
        return pq.read_table(inner, filesystem=system, columns=columns).to_pylist()
    except FileNotFoundError as error:
        raise _missing(path, "no such file", "this segment in every component") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _missing(path, f"a file that does not read ({error})", "a parquet file") from error


@contextlib.contextmanager
def _usable(image_file: str, component: str) -> Iterator[None]:
    """Name the component in whose rows something is missing or of another type."""
    try:
        yield
    except KeyError as error:
        found = f"no column {error}"
    except (TypeError, ValueError, OverflowError) as error:
        found = str(error)
    else:
        return
    raise _missing(_component_file(image_file, component), found, "the columns of release 2.0")


def _exists(image_file: str, component: str) -> bool:
    path = _component_file(image_file, component)
    system, inner = open_filesystem(path)
    with _answers(path):
        return system.get_file_info(inner).type == fs.FileType.File


def _component_file(image_file: str, component: str) -> str:
    return f"/{component}/".join(image_file.rsplit(f"/{IMAGES}/", 1))


def _missing(path: str, found: str, expected: str) -> DatasetError:
    return DatasetError(
        path, found=found, expected=expected, mend="download the component's folder again"
    )


def _numbers(row: dict, component: str, names: Sequence[str]) -> tuple[float, ...]:
    return tuple(row[f"[{component}].{name}"] for name in names)


def _read_calibrations(image_file: str) -> dict[str, WaymoCamera]:
    component = "CameraCalibrationComponent"
    found = {}
    with _usable(image_file, "camera_calibration"):
        for row in _read(image_file, "camera_calibration"):
            width, height, extrinsic = _numbers(
                row, component, ("width", "height", "extrinsic.transform")
            )
            intrinsic = _numbers(row, component, [f"intrinsic.{name}" for name in _INTRINSIC])
            name = camera_name(row[_CAMERA])
            found[name] = WaymoCamera(width, height, intrinsic, tuple(extrinsic))
    return found


def _read_objects(image_file: str) -> dict[tuple[str, int], list[WaymoObject]]:
    """Objects by segment and time; none where the release has no labels (its test split)."""
    if not _exists(image_file, "lidar_box"):
        return {}
    synced, boxes2d = _read_synced(image_file), _read_boxes2d(image_file)
    component, objects = "LiDARBoxComponent", defaultdict(list)
    names = ("type", "num_lidar_points_in_box", "num_top_lidar_points_in_box")
    with _usable(image_file, "lidar_box"):
        for row in _read(image_file, "lidar_box"):
            key = _object_key(row)
            camera, synced_box = synced.get(key, ("", None))
            kind, points, top_points = _numbers(row, component, names)
            item = WaymoObject(
                id=key[2],
                type=int(kind),
                box=_box(row, component, "box"),
                synced_box=synced_box,
                points=int(points or 0),
                top_points=int(top_points or 0),
                level=int(row.get(f"[{component}].difficulty_level.detection") or 0),
                visible_camera=camera,
                boxes2d=dict(boxes2d.get(key, {})),
            )
            objects[key[:2]].append(item)
    return objects


def _read_synced(image_file: str) -> dict[tuple, tuple[str, tuple[float, ...]]]:
    """Most visible camera and camera-synced box of each object; none where the release has no such."""
    component, found = "LiDARCameraSyncedBoxComponent", {}
    if _exists(image_file, "lidar_camera_synced_box"):
        with _usable(image_file, "lidar_camera_synced_box"):
            for row in _read(image_file, "lidar_camera_synced_box"):
                (camera,) = _numbers(row, component, ["most_visible_camera_name"])
                box = _box(row, component, "camera_synced_box")
                found[_object_key(row)] = camera_name(camera), box
    return found


def _read_boxes2d(image_file: str) -> dict[tuple, dict[str, tuple[float, ...]]]:
    """Projected labels of each object by camera."""
    component, found = "ProjectedLiDARBoxComponent", defaultdict(dict)
    with _usable(image_file, "projected_lidar_box"):
        for row in _read(image_file, "projected_lidar_box"):
            values = _numbers(row, component, [f"box.{name}" for name in _BOX2D])
            found[_object_key(row)][camera_name(row[_CAMERA])] = corners(*values)
    return found


def _box(row: dict, component: str, prefix: str) -> tuple[float, ...]:
    """Raises TypeError for what is no number."""
    values = _numbers(row, component, [f"{prefix}.{name}" for name in _BOX])
    return tuple(0.0 + value for value in values)


def _object_key(row: dict) -> tuple[str, int, str]:
    return row[_SEGMENT], row[_TIME], row[_OBJECT]


def list_segments(folder: str) -> list[str]:
    """Addresses of the files in FOLDER/camera_image, sorted; none when there is no such folder.

    Raises:
        DatasetError: the file system does not answer.
    """
    system, inner = open_filesystem(folder)
    selector = fs.FileSelector(str(PurePosixPath(inner) / IMAGES), allow_not_found=True)
    with _answers(folder):
        names = [info.base_name for info in system.get_file_info(selector)]
    base = folder.rstrip("/") if "://" in folder else inner
    return [f"{base}/{IMAGES}/{name}" for name in sorted(names) if name.endswith(".parquet")]


def read_image_bytes(reference: str) -> bytes:
    """The JPEG file in one row of a parquet file.

    Args:
        reference: FILE#ROW, as in `WaymoFrame.images`.

    Raises:
        DatasetError: no such file or row.
    """
    address, _, number = reference.rpartition("#")
    try:
        file, row = _open_parquet(address), int(number)
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if row < size:
                # A row at a time: a row group may hold all images of a segment.
                batches = file.iter_batches(1, row_groups=[group], columns=[_IMAGE_COLUMN])
                for position, batch in enumerate(batches):
                    if position == row:
                        return bytes(batch.column(0)[0].as_buffer())
            row -= size
    except (
        pa.ArrowException,
        *(OSError, ValueError, IndexError, AttributeError, TypeError),
    ) as error:
        raise _missing(reference, f"an image that does not read ({error})", "a row") from error
    raise _missing(reference, "no such row", "a row of the camera_image component")


@lru_cache(maxsize=8)
def _open_parquet(address: str) -> pq.ParquetFile:
    system, inner = open_filesystem(address)
    return pq.ParquetFile(inner, filesystem=system)
