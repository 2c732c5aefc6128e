"""Frames from where users have them: image files, folders, videos and webcams."""

import logging
import math
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from qiml.data.images import read_image
from qiml.errors import DatasetError
from qiml.io import visible_files

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_EXTENSIONS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
_DEFAULT_FPS = 10.0


@dataclass(frozen=True, eq=False)
class Frame:
    """One image in memory.

    Attributes:
        id: names its results; of a video's frame the video's name and a number.
        source: file or device it comes from.
        image: (H, W, 3) uint8 RGB.
    """

    id: str
    source: str
    image: np.ndarray


class Images:
    """Image files, read one by one.

    Attributes:
        name, fps: None, as this is no video.
    """

    name = fps = None

    def __init__(self, files: Sequence[Path]):
        self.files = list(files)

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Frame]:
        """Raises DatasetError for a file that does not decode."""
        for file in self.files:
            yield Frame(file.stem, str(file), read_image(str(file)))


class Video:
    """A video file.

    Attributes:
        name: of the file, without its extension.
        fps: frames per second.

    Raises:
        DatasetError: the file does not open as a video.
    """

    def __init__(self, path: Path):
        self.path, self.name = path, path.stem
        capture = self._open()
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if math.isfinite(fps) and 0 < fps <= 240 else _DEFAULT_FPS
        self._length = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        capture.release()

    def __len__(self) -> int:
        """As the file's header says; 0 where it does not."""
        return self._length

    def __iter__(self) -> Iterator[Frame]:
        """Raises DatasetError where not even the first frame decodes."""
        capture, count = self._open(), 0
        try:
            while (image := _next_image(capture)) is not None:
                yield Frame(f"{self.name}_{count:06d}", str(self.path), image)
                count += 1
        finally:
            capture.release()
        if not count:
            raise self._unreadable("no frame that decodes")
        if count < self._length:
            logger.warning("%s: its header says %d frames, %d decode", self.path, len(self), count)

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise self._unreadable("a file that does not open as a video")
        return capture

    def _unreadable(self, found: str) -> DatasetError:
        return DatasetError(
            self.path,
            found=found,
            expected="a video that FFmpeg reads, such as MP4, AVI, MKV or WebM",
            mend="play it to see whether it is whole, or convert it: ffmpeg -i INPUT OUTPUT.mp4",
        )


class Webcam:
    """A camera of this machine, until Ctrl-C.

    Attributes:
        name: "webcam" and its number.
        fps: frames per second that it promises.

    Raises:
        DatasetError: there is no such camera.
    """

    def __init__(self, number: int):
        self.number, self.name = number, f"webcam{number}"
        self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise self._missing("no such camera")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if math.isfinite(fps) and 0 < fps <= 240 else _DEFAULT_FPS

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[Frame]:
        """Ctrl-C ends the frames and does not raise. Raises DatasetError where there is not even one."""
        stopped, count = threading.Event(), 0
        previous = signal.signal(signal.SIGINT, lambda *_: stopped.set())
        try:
            while not (stopped.is_set() and count):
                image = _next_image(self._capture)
                if image is None:
                    break
                yield Frame(f"{self.name}_{count:06d}", self.name, image)
                count += 1
        finally:
            signal.signal(signal.SIGINT, previous)
            self._capture.release()
        if not count:
            raise self._missing("no picture")

    def _missing(self, found: str) -> DatasetError:
        return DatasetError(
            f"webcam {self.number}",
            found=found,
            expected="a camera that is connected and free",
            mend="try another number (0 is the first), or close programs that use the camera",
        )


Source = Images | Video | Webcam


def open_sources(inputs: Sequence[str | Path], webcam: int | None = None) -> list[Source]:
    """Sources of frames, images first.

    Args:
        inputs: image files, video files, and folders, of which all images are taken by name.
        webcam: number of a camera.

    Raises:
        DatasetError: no input; an input is missing or of an unknown kind; a folder has no images; two
            inputs have the same name, so that their results would; a video or webcam does not open.
    """
    files = [file for path in map(Path, inputs) for file in _files(path)]
    images = [file for file in files if file.suffix.lower() in IMAGE_EXTENSIONS]
    sources: list[Source] = [Images(images)] if images else []
    sources += [Video(file) for file in files if file.suffix.lower() in VIDEO_EXTENSIONS]
    sources += [] if webcam is None else [Webcam(webcam)]
    if not sources:
        raise DatasetError(
            "command line",
            found="no input",
            expected="images, a folder of images, a video, or --webcam NUMBER",
            mend="name at least one",
        )
    name, times = Counter(file.stem for file in files).most_common(1)[0] if files else ("", 1)
    if times > 1:
        first, second, *_ = (str(file) for file in files if file.stem == name)
        raise DatasetError(
            second,
            found=f"the name '{name}' again (first {first})",
            expected="inputs of different names, since results are named after them",
            mend="run the inputs one after the other, into different outputs",
        )
    return sources


def _files(path: Path) -> list[Path]:
    known = IMAGE_EXTENSIONS + VIDEO_EXTENSIONS
    if path.is_dir():
        files = [f for f in visible_files(path) if f.suffix.lower() in IMAGE_EXTENSIONS]
        found = "a folder without images"
    else:
        files = [path] if path.is_file() and path.suffix.lower() in known else []
        found = "no such file" if not path.exists() else f"a file of another kind ('{path.suffix}')"
    if not files:
        raise DatasetError(
            path,
            found=found,
            expected=f"an image ({' '.join(IMAGE_EXTENSIONS)}), a folder of them, or a video "
            f"({' '.join(VIDEO_EXTENSIONS)})",
            mend="check the path",
        )
    return files


def _next_image(capture: cv2.VideoCapture) -> np.ndarray | None:
    read, image = capture.read()
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if read else None
