"""Dataset names that configs and command lines may use."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

from detectron2.data import DatasetCatalog

from qiml.data.kitti import register_kitti_format
from qiml.data.waymo import register_waymo
from qiml.data.waymo_format import parse_cameras
from qiml.errors import ConfigError

# name -> (folder under DETECTRON2_DATASETS, split)
BUILTIN_DATASETS = {
    f"{folder}_{split}": (folder, split)
    for folder, splits in (
        ("kitti", ("train", "val", "trainval", "test")),
        ("synthetic", ("train", "val")),
        ("waymo", ("train", "val", "test")),
        ("synthetic_waymo", ("train", "val")),
    )
    for split in splits
}
CUSTOM_PREFIX = "kitti_format:"
WAYMO_PREFIX = "waymo_format:"


def datasets_root() -> Path:
    """Folder of the built-in datasets: `DETECTRON2_DATASETS` as it is now, or `datasets`."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def register_datasets(names: Iterable[str]) -> None:
    """Register datasets by name. To be called in every process, since catalogs are not shared.

    A name is one of `BUILTIN_DATASETS`, whose folder lies under the environment variable
    `DETECTRON2_DATASETS` (default `datasets`) as it is now; or `kitti_format:ROOT:SPLIT` for any
    folder in KITTI's layout; or `waymo_format:ROOT:SPLIT:CAMERAS` for prepared Waymo data, with the
    cameras' names joined by commas, or `all`; or a dataset that is registered already.

    Args:
        names: as in `cfg.DATASETS.TRAIN` and `cfg.DATASETS.TEST`.

    Raises:
        ConfigError: a name is none of these.
    """
    datasets = datasets_root()
    for name in names:
        if name in BUILTIN_DATASETS:
            folder, split = BUILTIN_DATASETS[name]
            register = register_waymo if "waymo" in folder else register_kitti_format
            register(name, datasets / folder, split)
        elif name.startswith(CUSTOM_PREFIX):
            # From the right: a root such as C:\data holds a colon itself.
            root, _, split = name.removeprefix(CUSTOM_PREFIX).rpartition(":")
            if not root or not split:
                raise _unknown_name(name)
            register_kitti_format(name, Path(root).expanduser(), split)
        elif name.startswith(WAYMO_PREFIX):
            root, *parts = name.removeprefix(WAYMO_PREFIX).rsplit(":", 2)
            if not root or len(parts) != 2:
                raise _unknown_name(name)
            register_waymo(name, Path(root).expanduser(), parts[0], parse_cameras(parts[1]))
        elif name not in DatasetCatalog:
            raise _unknown_name(name)


def _unknown_name(name: str) -> ConfigError:
    similar = difflib.get_close_matches(name, BUILTIN_DATASETS, n=1)
    suggestion = f"did you mean '{similar[0]}'? " if similar else ""
    return ConfigError(
        "DATASETS.TRAIN or DATASETS.TEST",
        found=f"'{name}'",
        expected=f"one of {', '.join(BUILTIN_DATASETS)}",
        mend=f"{suggestion}For your own data in KITTI's layout write {CUSTOM_PREFIX}ROOT:SPLIT, "
        "such as DATASETS.TRAIN \"('kitti_format:/data/mine:train',)\"; for prepared Waymo data "
        f"{WAYMO_PREFIX}ROOT:SPLIT:CAMERAS",
    )
