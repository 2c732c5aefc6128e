"""What a run over images leaves: pictures or videos, KITTI's text files and one JSON file."""

import contextlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from qiml.data.images import write_image
from qiml.data.kitti_format import KITTIObjects, write_objects
from qiml.data.sources import Frame, Images, Source, Video
from qiml.errors import ConfigError, OutputError
from qiml.io import atomic_write_text
from qiml.structures.boxes3d import Boxes3D
from qiml.visualization.video import video_writer


class ResultFolder:
    """Writes what was found, each file whole or not at all.

    ::

        FOLDER/pictures/FRAME.jpg      of images
        FOLDER/VIDEO.mp4               of a video or webcam
        FOLDER/kitti/FRAME.txt         a result file, or labels
        FOLDER/detections.json         every frame

    Args:
        folder: made where absent.

    Raises:
        OutputError: the folder, now or later a file in it, cannot be written to.
    """

    def __init__(self, folder: str | Path):
        self.folder, self._frames = Path(folder), []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise OutputError(self.folder, error) from error

    def check_inputs_stay(self, source: Source, others: Sequence[Path]) -> None:
        """Refuse to write over what is read.

        Args:
            source: of frames, whose pictures or video will be written.
            others: label files, calibrations, or folders of them.

        Raises:
            ConfigError: a file to write is one of them, or would lie in such a folder.
        """
        pairs = [(path, self.folder / "kitti") for path in (*others, *(o.parent for o in others))]
        if isinstance(source, Images):
            pairs += [(file, self._picture(file.stem)) for file in source.files]
        elif isinstance(source, Video):
            pairs.append((source.path, self._video(source)))
        for path, target in pairs:
            if target.exists() and path.exists() and path.samefile(target):
                raise ConfigError(
                    "--output",
                    found=f"{self.folder}, where {target} would be written over, which is read",
                    expected="a folder without the inputs",
                    mend="name another folder",
                )

    @contextlib.contextmanager
    def pictures(
        self, source: Source, fps: float | None = None
    ) -> Iterator[Callable[[Frame, np.ndarray], None]]:
        """Yield what takes the pictures of a source's frames: into a file each, or into a video.

        Args:
            source: of the frames.
            fps: of the video; None: the source's.
        """
        if source.name is None:
            yield lambda frame, picture: self._write_picture(frame, picture)
        else:
            with video_writer(self._video(source), fps or source.fps) as append:
                yield lambda _, picture: append(picture)

    def add(self, frame: Frame, projection: np.ndarray, objects: KITTIObjects) -> None:
        """Write a frame's text file and keep the frame for the JSON file.

        Args:
            frame: what was looked at.
            projection: (3, 4) of it.
            objects: what was found.
        """
        write_objects(self.folder / "kitti" / f"{frame.id}.txt", objects)
        height, width = frame.image.shape[:2]
        self._frames.append(
            {
                "id": frame.id,
                "source": frame.source,
                "width": width,
                "height": height,
                "projection": projection.tolist(),
                "objects": describe(objects),
            }
        )

    def write_json(self) -> None:
        """Write detections.json."""
        text = json.dumps({"frames": self._frames}, indent=1)
        atomic_write_text(self.folder / "detections.json", text + "\n")

    def _write_picture(self, frame: Frame, picture: np.ndarray) -> None:
        write_image(self._picture(frame.id), picture)

    def _picture(self, frame_id: str) -> Path:
        return self.folder / "pictures" / f"{frame_id}.jpg"

    def _video(self, source: Source) -> Path:
        return self.folder / f"{source.name}.mp4"


def describe(objects: KITTIObjects) -> list[dict]:
    """Objects for JSON: pixels, metres and radians; `centre` is the geometric one, in the camera frame."""
    boxes3d = Boxes3D.from_kitti(objects.location, objects.dimensions, objects.rotation_y)
    columns = (objects.types, objects.score, objects.bbox, objects.alpha, boxes3d.tensor)
    return [
        {
            "class": kind,
            "score": None if math.isnan(score) else round(score, 6),
            "box2d": np.round(bbox, 2).tolist(),
            "centre": np.round(box3d[:3], 3).tolist(),
            "height_width_length": np.round(box3d[3:6], 3).tolist(),
            "yaw": round(box3d[6], 4),
            "alpha": round(alpha, 4),
        }
        for kind, score, bbox, alpha, box3d in zip(*(c.tolist() for c in columns), strict=True)
    ]
