"""Writes synthetic frames as a folder in KITTI's layout, or as prepared Waymo data."""

import contextlib
import functools
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType

import cv2
from tqdm import tqdm

from qiml.data.synthetic import kitti_style, waymo_style
from qiml.errors import ConfigError
from qiml.io import alone, atomic_write_text

SETTINGS_FILE = "synthetic.json"
STYLES = {"kitti": kitti_style, "waymo": waymo_style}
# Raise when the same seed and index give another image or label than before.
VERSION = 1
_SMALLEST_SIDE = 32
_REPAYS_PROCESSES = 100  # frames, some seconds' work


def write_dataset(
    root: str | Path,
    num_train: int,
    num_val: int,
    size: tuple[int, int] = (416, 128),
    seed: int = 0,
    workers: int = 2,
    overwrite: bool = False,
    style: str = "kitti",
    dense_depth: bool = False,
) -> bool:
    """Draw frames into a folder.

    Frames 0 to `num_val` - 1 are the validation split, so that more training frames leave it as it
    is. The folder is filled as `ROOT.partial` and renamed when complete; after an interruption the
    same call goes on where it stopped. A second call at the same time waits for the first.

    Args:
        root: folder to make. One that is complete, with the same settings, is left as it is; depth maps that
            are not asked for are no other setting.
        num_train, num_val: number of frames of the two splits.
        size: image width and height in pixels.
        seed: of the dataset; frames are those of `render_scene(seed, index, size, camera)`.
        workers: number of processes, where there is work for them; it does not change the frames.
        overwrite: replace a synthetic dataset that has other settings.
        style: "kitti" for KITTI's camera, classes and layout; "waymo" for those of Waymo's front camera,
            as `tools/prepare_waymo.py` writes them.
        dense_depth: write true depth maps, too (:mod:`qiml.data.depth_map`); in KITTI's layout only.

    Returns:
        True when frames were drawn, False when the folder was complete.

    Raises:
        ConfigError: a number is out of range; or `root` has other settings, or is not a synthetic
            dataset.
    """
    root = Path(root)
    settings = {
        "version": VERSION,
        "num_train": num_train,
        "num_val": num_val,
        "size": list(size),
        "seed": seed,
    }
    if style != "kitti":
        settings["style"] = style
    options = {"dense_depth": True} if dense_depth else {}
    settings |= options
    _check(settings, workers)
    with alone(root):  # programs side by side must not draw the same frames
        if _is_complete(root, settings, overwrite):
            return False
        partial = root.with_name(root.name + ".partial")
        if partial.exists() and _read_settings(partial) != settings:
            shutil.rmtree(partial)
        atomic_write_text(partial / SETTINGS_FILE, json.dumps(settings, indent=2) + "\n")
        _draw_frames(STYLES[style], partial, num_train + num_val, size, seed, workers, **options)
        STYLES[style].write_splits(partial, num_train, num_val)
        if root.exists():
            shutil.rmtree(root)
        partial.rename(root)
    return True


def _check(settings: dict, workers: int) -> None:
    least = {"num_train": 1, "num_val": 0, "seed": 0, "workers": 1}
    for name, value in {**settings, "workers": workers}.items():
        if name in least and value < least[name]:
            raise ConfigError(
                name,
                found=str(value),
                expected=f"an integer of at least {least[name]}",
                mend=f"pass another {name}",
            )
    if min(settings["size"]) < _SMALLEST_SIDE:
        raise ConfigError(
            "size",
            found="x".join(map(str, settings["size"])),
            expected=f"width and height of at least {_SMALLEST_SIDE} pixels",
            mend="pass a size such as 416x128",
        )
    if "style" in settings and "dense_depth" in settings:
        raise ConfigError(
            "style",
            found=f"{settings['style']!r} with dense depth maps",
            expected="'kitti', whose layout has a place for them",
            mend="leave one of the two out",
        )


def _is_complete(root: Path, settings: dict, overwrite: bool) -> bool:
    """True when `root` holds the dataset already. Raises ConfigError when it holds something else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    present = _read_settings(root)
    if present is None:
        raise ConfigError(
            root,
            found="something else than a synthetic dataset",
            expected="a folder that does not exist yet",
            mend="choose another folder (--out)",
        )
    if present in (settings, {**settings, "dense_depth": True}):
        return True
    if not overwrite:
        keys = {**settings, **present}
        differing = [key for key in keys if present.get(key) != settings.get(key)]
        raise ConfigError(
            root,
            found=f"a synthetic dataset with {_describe(present, differing)}",
            expected=_describe(settings, differing),
            mend="choose another folder (--out) or replace this one (--overwrite)",
        )
    return False


def _describe(settings: dict, keys: list[str]) -> str:
    return ", ".join(f"{key} {settings.get(key)}" for key in keys)


def _read_settings(root: Path) -> dict | None:
    """The settings a folder was made with; None when it is not a synthetic dataset."""
    try:
        settings = json.loads((root / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return settings if isinstance(settings, dict) else None


def _draw_frames(
    style: ModuleType,
    root: Path,
    count: int,
    size: tuple[int, int],
    seed: int,
    workers: int,
    **options: bool,
) -> None:
    missing = [index for index in range(count) if not style.last_file(root, index).exists()]
    write = functools.partial(style.write_frame, root, size, seed, **options)
    progress = {"total": count, "initial": count - len(missing), "unit": "frame"}
    with _side_by_side(write, missing, workers) as written:
        for _ in tqdm(written, desc=f"drawing {size[0]}x{size[1]}", **progress):
            pass


@contextlib.contextmanager
def _side_by_side(
    write: Callable[[int], None], indices: list[int], workers: int
) -> Iterator[Iterable[None]]:
    """Writes frames while it is iterated, in other processes where they are enough to repay their start."""
    if workers == 1 or len(indices) <= _REPAYS_PROCESSES:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            yield map(write, indices)
        finally:
            cv2.setNumThreads(threads)
        return
    # "spawn": a fork of a process with running threads (PyTorch's, OpenCV's) may hang.
    pool = ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("spawn"),
        initializer=cv2.setNumThreads,
        initargs=(1,),
    )
    try:
        yield pool.map(write, indices, chunksize=8)
    finally:
        pool.shutdown(cancel_futures=True)
