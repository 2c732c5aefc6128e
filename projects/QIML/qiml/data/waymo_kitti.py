"""Prepared Waymo data as a folder in KITTI's layout, for tools that read nothing else."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from qiml.data.images import read_image_file
from qiml.data.kitti_format import KITTIObjects, write_calibration, write_objects
from qiml.data.waymo import WAYMO_CLASSES, load_waymo
from qiml.data.waymo_format import CAMERAS
from qiml.io import atomic_path, atomic_write_text, visible_files

_KITTI_NAMES = {"Vehicle": "Car"}


def export_kitti(root: str | Path, out: str | Path) -> int:
    """Write training/{image_2,calib,label_2} and ImageSets for the splits train and val.

    Ids are those of the datasets (segment, timestamp, camera); vehicles are called Car. Truncation and
    occlusion are 0: Waymo grades neither. Files that are there already are not written again.

    Args:
        root: folder that `tools/prepare_waymo.py` made.
        out: folder to make.

    Returns:
        Number of images.
    """
    training, total = Path(out) / "training", 0
    for split in ("train", "val"):
        if not visible_files(Path(root) / split, "*.jsonl"):
            continue
        frames = load_waymo(root, split, CAMERAS)
        for frame in tqdm(frames, unit="image", desc=f"KITTI's layout, {split}"):
            label = training / "label_2" / f"{frame['image_id']}.txt"
            if not label.exists():
                _copy_image(frame["file_name"], training / "image_2" / f"{frame['image_id']}.jpg")
                camera = np.array(frame["camera"])
                write_calibration(training / "calib" / f"{frame['image_id']}.txt", camera)
                write_objects(label, _objects(frame["annotations"]))
        ids = "".join(f"{frame['image_id']}\n" for frame in frames)
        atomic_write_text(Path(out) / "ImageSets" / f"{split}.txt", ids)
        total += len(frames)
    return total


def _copy_image(source: str, target: Path) -> None:
    image = read_image_file(source)
    with atomic_path(target) as temporary:
        temporary.write_bytes(image)


def _objects(annotations: list[dict]) -> KITTIObjects:
    names = [WAYMO_CLASSES[item["category_id"]] for item in annotations]
    return KITTIObjects.from_boxes(
        [_KITTI_NAMES.get(name, name) for name in names],
        np.array([item["box3d"] for item in annotations]),
        bbox=np.array([item["bbox"] for item in annotations]).reshape(-1, 4),
        alpha=np.array([item["alpha"] for item in annotations]),
        truncation=0.0,
        occlusion=0.0,
    )
