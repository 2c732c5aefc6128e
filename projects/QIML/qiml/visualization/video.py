"""Video files that are either whole or absent."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from qiml.errors import ConfigError
from qiml.io import atomic_path


@contextlib.contextmanager
def video_writer(path: str | Path, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Write a video under a temporary name, read it back, and give it its name.

    Args:
        path: file to write, .mp4; absent after an error or without a frame.
        fps: frames per second.

    Yields:
        Appends a frame, (H, W, 3) uint8 RGB; all of one size. An odd last row or column is left out, since
        the format stores colours for two by two pixels.

    Raises:
        ConfigError: OpenCV cannot write here, or cannot read what it wrote.
        ValueError: frames of different sizes.
    """
    writer, shape, count = None, None, 0

    def append(frame: np.ndarray) -> None:
        nonlocal writer, shape, count
        if writer is None:
            shape = frame.shape
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            writer = cv2.VideoWriter(str(temporary), fourcc, fps, (shape[1], shape[0]))
        if frame.shape != shape:
            raise ValueError(f"{path}: a frame of shape {frame.shape} after one of {shape}")
        if not writer.isOpened():
            raise _unwritable(path, "a video that cannot be opened for writing")
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        count += 1

    with atomic_path(path) as temporary:
        try:
            yield append
        finally:
            if writer is not None:
                writer.release()
        readable = _count_frames(temporary)
        if not count or readable != count:
            raise _unwritable(path, f"{readable} readable frames after writing {count}")


def _count_frames(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    try:
        whole = capture.isOpened() and capture.read()[0]
        return int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if whole else 0
    finally:
        capture.release()


def _unwritable(path: str | Path, found: str) -> ConfigError:
    return ConfigError(
        path,
        found=found,
        expected="an MP4 video",
        mend="free space on the disk, name the video .mp4, or use OpenCV built with FFmpeg",
    )
