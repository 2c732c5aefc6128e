"""A made-up Waymo scene, and writers of it as a v1 record and as v2 parquet files, in the official names."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from qiml.data.tfrecord import write_records

SEGMENT = "1000_000_000_020_000"
NUMBERS = {"FRONT": 1, "FRONT_LEFT": 2, "FRONT_RIGHT": 3, "SIDE_LEFT": 4, "SIDE_RIGHT": 5}
YAWS = {
    "FRONT": 0.0,
    "FRONT_LEFT": 0.78,
    "FRONT_RIGHT": -0.78,
    "SIDE_LEFT": 1.57,
    "SIDE_RIGHT": -1.57,
}
SIZE = (96, 64)
INTRINSIC = [100.0, 101.0, 47.5, 31.0, 0.04, -0.3, 1e-3, -2e-3, 0.0]
BOX_NAMES = ("center_x", "center_y", "center_z", "length", "width", "height", "heading")


def jpeg(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


def extrinsic(camera: str) -> list[float]:
    sine, cosine = np.sin(YAWS[camera]), np.cos(YAWS[camera])
    return [cosine, -sine, 0, 1.5, sine, cosine, 0, 0.1, 0, 0, 1, 2.1, 0, 0, 0, 1]


def labelled(number: int, x=20.0, y=0.5, kind=1, points=200, synced=True, **other) -> dict:
    """An object; its projected label lies in FRONT unless `boxes2d` says otherwise."""
    box = [x, y, 1.0, 4.5, 2.0, 1.6, 0.3]
    return {
        # As long as the official ids, which v2's converter cuts at 22 characters.
        "id": f"object{number:016d}",
        "type": kind,
        "box": box,
        "synced": [x + 0.1, *box[1:]] if synced else None,
        "points": points,
        "level": 0,
        "boxes2d": {"FRONT": [40.0 + number, 30.0, 20.0, 12.0]},
        **other,
    }


def scene(frames: int = 2, objects: list[dict] | None = None, cameras=tuple(NUMBERS)) -> list[dict]:
    objects = [labelled(0), labelled(1, 30, -3, kind=2)] if objects is None else objects
    return [
        {
            "timestamp": 1_000_000 + 100_000 * index,
            "objects": objects,
            "images": {camera: jpeg(10 * index + NUMBERS[camera]) for camera in cameras},
        }
        for index in range(frames)
    ]


def v1_frame(frame: dict, calibrated=tuple(NUMBERS)):
    from waymo_open_dataset import dataset_pb2

    message = dataset_pb2.Frame(timestamp_micros=frame["timestamp"])
    message.context.name = SEGMENT
    for camera in calibrated:
        calibration = message.context.camera_calibrations.add(name=NUMBERS[camera])
        calibration.width, calibration.height = SIZE
        calibration.intrinsic.extend(INTRINSIC)
        calibration.extrinsic.transform.extend(extrinsic(camera))
    for camera, data in frame["images"].items():
        message.images.add(name=NUMBERS[camera], image=data)
    projected = {
        camera: message.projected_lidar_labels.add(name=number)
        for camera, number in NUMBERS.items()
    }
    for item in frame["objects"]:
        label = message.laser_labels.add(id=item["id"], type=item["type"])
        label.detection_difficulty_level = item["level"]
        if item["points"] is not None:
            label.num_lidar_points_in_box = label.num_top_lidar_points_in_box = item["points"]
        fill_box(label.box, item["box"])
        if item["synced"]:
            label.most_visible_camera_name = "FRONT"
            fill_box(label.camera_synced_box, item["synced"])
        for camera, (x, y, length, width) in item["boxes2d"].items():
            own = projected[camera].labels.add(id=f"{item['id']}_{camera}", type=item["type"])
            own.box.center_x, own.box.center_y = x, y
            own.box.length, own.box.width = length, width
    return message


def fill_box(box, values) -> None:
    for name, value in zip(BOX_NAMES, values, strict=True):
        setattr(box, name, value)


def write_v1(path: Path, frames: list[dict], **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_records(path, [v1_frame(frame, **options).SerializeToString() for frame in frames])
    return path


def write_v2(root: Path, frames: list[dict], name: str = SEGMENT) -> None:
    """The components' folders below a root."""
    rows = {
        "camera_calibration": [_calibration(camera) for camera in NUMBERS],
        "camera_image": [
            {
                **_key(frame),
                "key.camera_name": NUMBERS[camera],
                "[CameraImageComponent].image": data,
            }
            for frame in reversed(frames)  # the order is nowhere promised
            for camera, data in frame["images"].items()
        ],
        "lidar_box": [_box_row(frame, item) for frame in frames for item in frame["objects"]],
        "lidar_camera_synced_box": [
            {
                **_object_key(frame, item),
                "[LiDARCameraSyncedBoxComponent].most_visible_camera_name": 1,
                **_box3d("[LiDARCameraSyncedBoxComponent].camera_synced_box", item["synced"]),
            }
            for frame in frames
            for item in frame["objects"]
            if item["synced"]
        ],
        "projected_lidar_box": [
            _box2d_row(frame, item, camera, values)
            for frame in frames
            for item in frame["objects"]
            for camera, values in item["boxes2d"].items()
        ],
    }
    for component, table in rows.items():
        if table:
            (root / component).mkdir(parents=True, exist_ok=True)
            file = root / component / f"{name}.parquet"
            pq.write_table(pa.Table.from_pylist(table), file, row_group_size=4)


def _key(frame: dict) -> dict:
    return {"key.segment_context_name": SEGMENT, "key.frame_timestamp_micros": frame["timestamp"]}


def _object_key(frame: dict, item: dict) -> dict:
    return {**_key(frame), "key.laser_object_id": item["id"]}


def _box3d(prefix: str, values: list[float]) -> dict:
    names = ("center.x", "center.y", "center.z", "size.x", "size.y", "size.z", "heading")
    return {f"{prefix}.{name}": value for name, value in zip(names, values, strict=True)}


def _box_row(frame: dict, item: dict) -> dict:
    component = "[LiDARBoxComponent]"
    return {
        **_object_key(frame, item),
        **_box3d(f"{component}.box", item["box"]),
        f"{component}.type": item["type"],
        f"{component}.num_lidar_points_in_box": item["points"],
        f"{component}.num_top_lidar_points_in_box": item["points"],
        f"{component}.difficulty_level.detection": item["level"],
    }


def _box2d_row(frame: dict, item: dict, camera: str, values: list[float]) -> dict:
    names = ("center.x", "center.y", "size.x", "size.y")
    box = {f"[ProjectedLiDARBoxComponent].box.{n}": v for n, v in zip(names, values, strict=True)}
    return {**_object_key(frame, item), "key.camera_name": NUMBERS[camera], **box}


def _calibration(camera: str) -> dict:
    component = "[CameraCalibrationComponent]"
    names = ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")
    return {
        "key.segment_context_name": SEGMENT,
        "key.camera_name": NUMBERS[camera],
        **{f"{component}.intrinsic.{n}": v for n, v in zip(names, INTRINSIC, strict=True)},
        f"{component}.extrinsic.transform": extrinsic(camera),
        f"{component}.width": SIZE[0],
        f"{component}.height": SIZE[1],
    }
