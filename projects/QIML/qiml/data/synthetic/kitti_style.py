"""Synthetic frames as a folder in KITTI's layout."""

from pathlib import Path

import cv2

from qiml.data.depth_map import write_depth_map
from qiml.data.kitti_format import write_calibration, write_objects
from qiml.data.synthetic.scene import render_scene
from qiml.io import atomic_path, atomic_write_text


def write_frame(
    root: Path, size: tuple[int, int], seed: int, index: int, dense_depth: bool = False
) -> None:
    """Draw and write one frame; :func:`last_file` comes last."""
    frame = render_scene(seed, index, size, dense_depth=dense_depth)
    name = f"{index:06d}"
    with atomic_path(root / "training" / "image_2" / f"{name}.png") as temporary:
        # OpenCV's default is its fastest; sensor noise leaves little to compress anyway.
        cv2.imwrite(str(temporary), cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
    if frame.depth is not None:
        write_depth_map(root / "training" / "depth_dense" / f"{name}.png", frame.depth)
    write_calibration(root / "training" / "calib" / f"{name}.txt", frame.projection)
    # The label comes last: it marks a frame as complete.
    write_objects(last_file(root, index), frame.objects)


def last_file(root: Path, index: int) -> Path:
    """The file that marks a frame as complete."""
    return root / "training" / "label_2" / f"{index:06d}.txt"


def write_splits(root: Path, num_train: int, num_val: int) -> None:
    """Write the lists of frames: the first `num_val` are for validation."""
    names = [f"{index:06d}\n" for index in range(num_train + num_val)]
    splits = {"train": names[num_val:], "val": names[:num_val], "trainval": names}
    for split, members in splits.items():
        atomic_write_text(root / "ImageSets" / f"{split}.txt", "".join(members))
