"""Prepared Waymo data (`tools/prepare_waymo.py`) as Detectron2 datasets."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from qiml.data.waymo_format import CLASS_TYPES, WaymoFrame, WaymoObject, read_split
from qiml.errors import DatasetError
from qiml.structures.vehicle import boxes_to_camera, camera_to_vehicle

WAYMO_CLASSES = tuple(CLASS_TYPES.values())  # Vehicle, Pedestrian, Cyclist


def load_waymo(root: str | Path, split: str, cameras: Sequence[str] = ("FRONT",)) -> list[dict]:
    """Load a prepared split, one dict for each frame and camera.

    Args:
        root, split: as for :func:`read_split`.
        cameras: names; frames without an image of a camera have no dict for it.

    Returns:
        Dicts in Detectron2's standard form, as for KITTI: `file_name`, `image_id` (segment, timestamp and
        camera, joined by _), `height`, `width`, `camera` (3x4, lens distortion left out),
        `annotations`; and `waymo`: `context`, `timestamp`, `camera` and `pose` (4x4, camera →
        vehicle), by which detections find back. Annotated are objects with a projected label in the
        image, where the camera-synced box is taken if there is one; `num_lidar_points` beside KITTI's
        keys, whose truncation and occlusion are 0, for Waymo grades neither. The split test has no
        annotations.

    Raises:
        DatasetError: as :func:`read_split`; or there is no image of these cameras.
    """
    dicts = frame_dicts(root, split, read_split(root, split), cameras, labelled=split != "test")
    if not dicts:
        raise DatasetError(
            Path(root) / split,
            found=f"no images of {', '.join(cameras)}",
            expected="prepared images of these cameras",
            mend="run tools/prepare_waymo.py with --cameras, into another folder",
        )
    return dicts


def frame_dicts(
    root: str | Path,
    split: str,
    frames: Iterable[WaymoFrame],
    cameras: Sequence[str],
    labelled: bool,
) -> list[dict]:
    """:func:`frame_dict` of every image that frames of a split have of these cameras."""
    folder = Path(root) / split
    return [
        frame_dict(folder, frame, camera, labelled)
        for frame in frames
        for camera in cameras
        if camera in frame.images
    ]


def frame_dict(folder: Path, frame: WaymoFrame, camera: str, labelled: bool) -> dict:
    """One image of a frame, as :func:`load_waymo` returns it.

    Args:
        folder: of the split, ROOT/SPLIT.
        frame: with an image of the camera.
        camera: its name.
        labelled: whether to annotate objects.
    """
    calibration, image = frame.cameras[camera], frame.images[camera]
    f_u, f_v, c_u, c_v = calibration.intrinsic[:4]
    pose = camera_to_vehicle(calibration.extrinsic)
    result = {
        "file_name": image if ".parquet#" in image else str(folder / image),
        "image_id": f"{frame.context}_{frame.timestamp}_{camera}",
        "height": calibration.height,
        "width": calibration.width,
        "camera": [[f_u, 0.0, c_u, 0.0], [0.0, f_v, c_v, 0.0], [0.0, 0.0, 1.0, 0.0]],
        "waymo": {
            "context": frame.context,
            "timestamp": frame.timestamp,
            "camera": camera,
            "pose": pose.tolist(),
        },
    }
    if labelled:
        seen = [item for item in frame.objects if is_visible(item, [camera])]
        result["annotations"] = _annotations(seen, camera, pose)
    return result


def is_visible(item: WaymoObject, cameras: Sequence[str]) -> bool:
    """Whether an object has a projected label that is not empty in one of the cameras."""
    boxes = [item.boxes2d[camera] for camera in cameras if camera in item.boxes2d]
    return any(x2 > x1 and y2 > y1 for x1, y1, x2, y2 in boxes)


def _annotations(objects: Sequence[WaymoObject], camera: str, pose: np.ndarray) -> list[dict]:
    category = {kind: index for index, kind in enumerate(CLASS_TYPES)}
    boxes = boxes_to_camera(np.array([item.synced_box or item.box for item in objects]), pose)
    rays = np.arctan2(boxes[:, 0], boxes[:, 2])
    alphas = np.remainder(boxes[:, 6] - rays + np.pi, 2 * np.pi) - np.pi
    return [
        {
            "bbox": list(item.boxes2d[camera]),
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": category[item.type],
            "box3d": box,
            "alpha": alpha,
            "truncation": 0.0,
            "occlusion": 0,
            "num_lidar_points": item.points,
            "ignore": False,
        }
        for item, box, alpha in zip(objects, boxes.tolist(), alphas.tolist(), strict=True)
    ]


def register_waymo(
    name: str, root: str | Path, split: str, cameras: Sequence[str] = ("FRONT",)
) -> None:
    """Register a prepared split; its index is read on first use.

    Metadata: `thing_classes`, `evaluator_type` "waymo", `root`, `split` and `cameras`. A name registered
    before now means this folder.

    Args:
        name: what `DATASETS.TRAIN` and `DATASETS.TEST` call it.
        root, split, cameras: as for :func:`load_waymo`.
    """
    DatasetCatalog.pop(name, None)
    MetadataCatalog.pop(name, None)
    DatasetCatalog.register(name, partial(load_waymo, root, split, tuple(cameras)))
    MetadataCatalog.get(name).set(
        thing_classes=list(WAYMO_CLASSES),
        evaluator_type="waymo",
        root=str(root),
        split=split,
        cameras=tuple(cameras),
    )
