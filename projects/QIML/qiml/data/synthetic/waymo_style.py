"""Synthetic frames as prepared Waymo data (:mod:`qiml.data.waymo_prepare`): front camera, Waymo's classes."""

import json
from pathlib import Path

import numpy as np

from qiml.data.images import write_image
from qiml.data.kitti_format import KITTIObjects
from qiml.data.synthetic.placement import WAYMO_CAMERA
from qiml.data.synthetic.scene import OCCLUSION_LIMITS, render_scene
from qiml.data.waymo_format import VERSION, WaymoCamera, WaymoFrame, WaymoObject
from qiml.io import atomic_write_text
from qiml.structures.vehicle import boxes_to_vehicle, camera_to_vehicle

CAMERA = "FRONT"
_TYPES = {
    "Car": 1, "Van": 1, "Truck": 1, "Pedestrian": 2, "Person_sitting": 2, "Cyclist": 4,
}  # fmt: skip
# The camera looks along the vehicle's x from where Waymo's sits.
_EXTRINSIC = (1.0, 0.0, 0.0, 1.54, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.11, 0.0, 0.0, 0.0, 1.0)
# A roof LiDAR's points on a square metre seen face on from one metre.
_POINTS = 1e5
_SEGMENT_FRAMES = 20
_INTERVAL = 100_000  # µs


def write_frame(root: Path, size: tuple[int, int], seed: int, index: int) -> None:
    """Draw and write one frame; :func:`last_file` comes last."""
    drawn = render_scene(seed, index, size, WAYMO_CAMERA)
    image = f"{index:06d}_{CAMERA}.jpg"
    write_image(root / "frames" / image, drawn.image)
    (f_u, _, c_u, _), (_, f_v, c_v, _) = drawn.projection[:2].tolist()
    camera = WaymoCamera(*size, (f_u, f_v, c_u, c_v, 0.0, 0.0, 0.0, 0.0, 0.0), _EXTRINSIC)
    frame = WaymoFrame(
        context=f"synthetic_{seed}_{index // _SEGMENT_FRAMES:05d}",
        timestamp=index * _INTERVAL,
        cameras={CAMERA: camera},
        images={CAMERA: f"../frames/{image}"},
        objects=_objects(drawn.objects),
    )
    atomic_write_text(last_file(root, index), frame.to_json() + "\n")


def last_file(root: Path, index: int) -> Path:
    """The file that marks a frame as complete."""
    return root / "frames" / f"{index:06d}.json"


def write_splits(root: Path, num_train: int, num_val: int) -> None:
    """Write the index: the first `num_val` frames are for validation."""
    settings = {"version": VERSION, "every": 1, "cameras": [CAMERA]}
    for split, indices in (
        ("val", range(num_val)),
        ("train", range(num_val, num_val + num_train)),
    ):
        for first in indices[::_SEGMENT_FRAMES]:
            segment = range(first, min(first + _SEGMENT_FRAMES, indices.stop))
            lines = [last_file(root, index).read_text(encoding="utf-8") for index in segment]
            counts = json.dumps({"counts": {"frames": len(segment)}})
            text = "".join([json.dumps(settings) + "\n", *lines, counts + "\n"])
            atomic_write_text(root / split / f"synthetic_{first:06d}.jsonl", text)


def _objects(objects: KITTIObjects) -> tuple[WaymoObject, ...]:
    objects = objects[np.isin(objects.types, list(_TYPES))]
    heights = objects.dimensions[:, :1]
    centres = objects.location - np.array([0, 0.5, 0]) * heights
    boxes = np.column_stack([centres, objects.dimensions, objects.rotation_y])
    vehicle = boxes_to_vehicle(boxes, camera_to_vehicle(_EXTRINSIC)).tolist()
    points = _count_points(objects).tolist()
    return tuple(
        WaymoObject(
            id=f"object{number}",
            type=_TYPES[str(name)],
            box=tuple(box),
            synced_box=tuple(box),
            points=count,
            top_points=count,
            visible_camera=CAMERA,
            boxes2d={CAMERA: tuple(bbox)},
        )
        for number, (name, box, count, bbox) in enumerate(
            zip(objects.types, vehicle, points, objects.bbox.tolist(), strict=True)
        )
    )


def _count_points(objects: KITTIObjects) -> np.ndarray:
    """LiDAR points on each object: what is seen of its area, over the distance squared; at least one."""
    visible = np.array([1.0, *OCCLUSION_LIMITS])[objects.occlusion.astype(int)]
    area = objects.dimensions[:, 0] * objects.dimensions[:, 1:].mean(axis=1)
    distance = np.linalg.norm(objects.location, axis=1)
    return np.maximum(_POINTS * visible * area / distance**2, 1).astype(int)
