"""Synthetic frames as a folder in KITTI's layout."""

from pathlib import Path

from qiml.data.depth_map import write_depth_map
from qiml.data.images import write_image
from qiml.data.kitti_format import write_calibration, write_objects
from qiml.data.synthetic.scene import render_scene
from qiml.io import atomic_write_text


def write_frame(
    root: Path, size: tuple[int, int], seed: int, index: int, dense_depth: bool = False
) -> None:
    """Draw and write one frame; :func:`last_file` comes last."""
    frame = render_scene(seed, index, size, dense_depth=dense_depth)
    name = f"{index:06d}"
    write_image(root / "training" / "image_2" / f"{name}.png", frame.image)
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
