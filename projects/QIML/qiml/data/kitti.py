"""Folders in KITTI's layout (KITTI, synthetic scenes, your own data) as Detectron2 datasets."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from qiml.data.images import read_image_size
from qiml.data.kitti_folder import KITTISplit
from qiml.data.kitti_format import KITTIObjects, read_calibration, read_objects
from qiml.structures.boxes3d import Boxes3D, wrap_angle

# The order of the official monocular code, so that its checkpoints load without a permutation.
KITTI_CLASSES = ("Pedestrian", "Car", "Cyclist")


def load_kitti_format(
    root: str | Path, split: str, classes: Sequence[str] = KITTI_CLASSES
) -> list[dict]:
    """Load a split of a folder in KITTI's layout (see :mod:`qiml.data.kitti_folder`).

    Args:
        root: the folder.
        split: "train", "val", ...: a list in ROOT/ImageSets; "test" reads ROOT/testing; "all"
            without a list is every image of ROOT/training.
        classes: class names that become annotations, in the order of their category ids. Other
            objects are left out here; the evaluator reads them from the label files.

    Returns:
        One dict a frame in Detectron2's standard form: `file_name`, `image_id` (str), `height`,
        `width`, `camera` (P2, 3x4 nested list) and, unless the split has no labels, `annotations`:
        `bbox` (XYXY_ABS, pixels), `bbox_mode`, `category_id`, `box3d` (x, y, z of the geometric
        centre, h, w, l, yaw; metres and radians, camera frame), `alpha`, `truncation`, `occlusion`
        and `ignore` (always False: KITTI grades by size, truncation and occlusion instead); where the
        frame has a dense depth map, `depth_file_name`.

    Raises:
        DatasetError: a folder, list, image, calibration or label file is missing or malformed.
    """
    frames = KITTISplit(root, split)
    return [_load_frame(frames, image_id, classes) for image_id in frames.image_ids]


def _load_frame(frames: KITTISplit, image_id: str, classes: Sequence[str]) -> dict:
    image_file = frames.image_file(image_id)
    width, height = read_image_size(image_file)
    frame = {
        "file_name": str(image_file),
        "image_id": image_id,
        "height": height,
        "width": width,
        "camera": read_calibration(frames.calibration_file(image_id)).tolist(),
    }
    label_file = frames.label_file(image_id)
    if label_file:
        frame["annotations"] = _annotations(read_objects(label_file, scored=False), classes)
    if depth_file := frames.depth_file(image_id):
        frame["depth_file_name"] = str(depth_file)
    return frame


def _annotations(objects: KITTIObjects, classes: Sequence[str]) -> list[dict]:
    # The devkit compares class names without case.
    category_ids = {name.lower(): index for index, name in enumerate(classes)}
    categories = [category_ids.get(name.lower()) for name in objects.types.tolist()]
    boxes3d = Boxes3D.from_kitti(objects.location, objects.dimensions, objects.rotation_y)
    alphas = torch.from_numpy(objects.alpha)
    alphas = torch.where(alphas == -10, boxes3d.alpha, wrap_angle(alphas))  # -10: not given
    return [
        {
            "bbox": bbox,
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": category,
            "box3d": box3d,
            "alpha": alpha,
            "truncation": truncation,
            "occlusion": int(occlusion),
            "ignore": False,
        }
        for category, bbox, box3d, alpha, truncation, occlusion in zip(
            categories,
            objects.bbox.tolist(),
            boxes3d.tensor.tolist(),
            alphas.tolist(),
            objects.truncation.tolist(),
            objects.occlusion.tolist(),
            strict=True,
        )
        if category is not None
    ]


def register_kitti_format(
    name: str, root: str | Path, split: str, classes: Sequence[str] = KITTI_CLASSES
) -> None:
    """Register a split of a folder in KITTI's layout; its files are read on first use.

    Metadata: `thing_classes`, `evaluator_type` "kitti", `root`, `split` and `label_dir` (None for
    the split "test", whose labels are not public). A name registered before now means this folder.

    Args:
        name: what `DATASETS.TRAIN` and `DATASETS.TEST` call it.
        root, split, classes: as for :func:`load_kitti_format`.
    """
    DatasetCatalog.pop(name, None)
    MetadataCatalog.pop(name, None)
    DatasetCatalog.register(name, partial(load_kitti_format, root, split, classes))
    label_dir = None if split == "test" else str(Path(root) / "training" / "label_2")
    MetadataCatalog.get(name).set(
        thing_classes=list(classes),
        evaluator_type="kitti",
        root=str(root),
        split=split,
        label_dir=label_dir,
    )
