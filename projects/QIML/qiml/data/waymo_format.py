"""A Waymo frame as this project keeps it, whatever release it was read from.

Prepared data are JSON lines, a file a segment: settings, then a line a frame, then counts. Boxes stay in
the vehicle frame (x forward, y left, z up); who needs the camera frame converts them at the dataset or
evaluator boundary.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qiml.errors import ConfigError, DatasetError
from qiml.io import visible_files

CAMERAS = ("FRONT", "FRONT_LEFT", "FRONT_RIGHT", "SIDE_LEFT", "SIDE_RIGHT")  # numbers 1 to 5
CLASS_TYPES = {1: "Vehicle", 2: "Pedestrian", 4: "Cyclist"}
SIGN = 3
VERSION = 1


class WaymoCamera(NamedTuple):
    """One camera's calibration.

    Attributes:
        width, height: pixels.
        intrinsic: f_u, f_v, c_u, c_v (pixels), k1, k2, p1, p2, k3 (distortion as OpenCV's).
        extrinsic: 16 numbers, row by row: the camera's frame (x forward, y left, z up) → vehicle.
    """

    width: int
    height: int
    intrinsic: tuple[float, ...]
    extrinsic: tuple[float, ...]


@dataclass(frozen=True)
class WaymoObject:
    """A labelled object.

    Attributes:
        id: of the object in its segment.
        type: a key of `CLASS_TYPES`.
        box: x, y, z of the centre, l, w, h (metres), heading (radians in [−π, π)); vehicle frame.
        synced_box: the same at the moment when the most visible camera passes the object; None where
            the release has none.
        points, top_points: LiDAR points inside the box, of all sensors and of the top one.
        level: given by annotators, 1 or 2; 0 where they gave none.
        visible_camera: name of the camera that sees most of it; "" for none.
        boxes2d: camera → x1, y1, x2, y2 of the projected label, pixels.
    """

    id: str
    type: int
    box: tuple[float, ...]
    synced_box: tuple[float, ...] | None = None
    points: int = 0
    top_points: int = 0
    level: int = 0
    visible_camera: str = ""
    boxes2d: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class WaymoFrame:
    """One moment of a segment.

    Attributes:
        context: name of the segment.
        timestamp: in µs.
        cameras: calibration of each camera whose image is there.
        images: camera → file below the dataset's folder, or PARQUET#ROW.
        objects: see :class:`WaymoObject`.
    """

    context: str
    timestamp: int
    cameras: dict[str, WaymoCamera]
    images: dict[str, str]
    objects: tuple[WaymoObject, ...]

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> "WaymoFrame":
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError, KeyError, TypeError, AttributeError, RecursionError: the line is none of its lines.
        """
        values = json.loads(line)
        objects = [
            {
                **item,
                "box": tuple(item["box"]),
                "synced_box": item["synced_box"] and tuple(item["synced_box"]),
                "boxes2d": {name: tuple(box) for name, box in item["boxes2d"].items()},
            }
            for item in values["objects"]
        ]
        if any(item.keys() != _OBJECT_KEYS for item in objects):
            raise ValueError("an object with other keys")
        cameras = {
            name: WaymoCamera(width, height, tuple(intrinsic), tuple(extrinsic))
            for name, (width, height, intrinsic, extrinsic) in values["cameras"].items()
        }
        frame = cls(
            **{**values, "cameras": cameras, "objects": tuple(WaymoObject(**o) for o in objects)}
        )
        frame.check()
        return frame

    def check(self) -> None:
        """Raise ValueError or TypeError where something cannot be used for training or evaluation."""
        boxes = [box for item in self.objects for box in (item.box, item.synced_box) if box]
        sizes = [box[3:6] for box in boxes] + [camera[:2] for camera in self.cameras.values()]
        rows = {
            "an image size": ([camera[:2] for camera in self.cameras.values()], 2),
            "a box": (boxes, 7),
            "a 2D box": ([box for item in self.objects for box in item.boxes2d.values()], 4),
            "an intrinsic": ([camera.intrinsic for camera in self.cameras.values()], 9),
            "an extrinsic": ([camera.extrinsic for camera in self.cameras.values()], 16),
            "counts": ([(item.points, item.top_points, item.level) for item in self.objects], 3),
        }
        for name, (values, width) in rows.items():
            numbers = np.array(values or np.empty((0, width)))
            if numbers.dtype.kind not in "if" or numbers.shape[1:] != (width,):
                raise ValueError(f"{name} that is not of {width} numbers")
            if not np.isfinite(numbers).all():
                raise ValueError(f"{name} with numbers that are not finite")
        if sizes and min(min(size) for size in sizes) <= 0:
            raise ValueError("a box or an image without size")
        if any(
            camera.intrinsic[0] <= 0 or camera.intrinsic[1] <= 0 for camera in self.cameras.values()
        ):
            raise ValueError("a focal length that is not positive")
        if unknown := [item.type for item in self.objects if item.type not in CLASS_TYPES]:
            raise ValueError(f"the object type {unknown[0]!r}")
        names = [self.context, *self.images.values()]
        names += [name for item in self.objects for name in (item.id, item.visible_camera)]
        if not all(isinstance(name, str) for name in names) or type(self.timestamp) is not int:
            raise TypeError("names that are no text, or a timestamp that is no whole number")
        if strangers := (self.images.keys() - self.cameras.keys()) | (
            self.cameras.keys() - set(CAMERAS)
        ):
            raise ValueError(f"a camera {min(strangers)!r} without calibration or of another car")


_OBJECT_KEYS = {each.name for each in fields(WaymoObject)}


def parse_cameras(text: str) -> tuple[str, ...]:
    """Names from text such as FRONT,SIDE_LEFT or all.

    Raises:
        ConfigError: an unknown name.
    """
    names = CAMERAS if text.lower() == "all" else tuple(text.upper().split(","))
    for name in names:
        if name not in CAMERAS:
            raise ConfigError(
                "cameras",
                found=f"'{name}'",
                expected=f"all, or {', '.join(CAMERAS)}",
                mend="correct it",
            )
    return tuple(dict.fromkeys(names))


def keep_usable(
    objects: Sequence[WaymoObject], cameras: Sequence[str], counts: Counter
) -> tuple[WaymoObject, ...]:
    """The objects that can train or be evaluated; counts the others, and headings brought into range.

    Args:
        objects: of one frame.
        cameras: whose images are kept. Objects that they do not see stay, but are counted.
        counts: added to, by reason.
    """
    kept = []
    for item in objects:
        boxes = [box for box in (item.box, item.synced_box) if box is not None]
        if item.type == SIGN:
            counts["skipped: signs"] += 1
        elif item.type not in CLASS_TYPES:
            counts["skipped: objects of unknown type"] += 1
        elif not all(map(math.isfinite, [value for box in boxes for value in box])):
            counts["skipped: objects whose box is not finite"] += 1
        elif min(value for box in boxes for value in box[3:6]) <= 0:
            counts["skipped: objects without size"] += 1
        elif item.points <= 0:
            counts["skipped: objects without LiDAR points"] += 1
        else:
            kept.append(_with_usual_headings(item, counts))
            counts[f"objects: {CLASS_TYPES[item.type]}"] += 1
            if not item.boxes2d.keys() & set(cameras):
                counts["objects without a projected label in these images"] += 1
    return tuple(kept)


def _with_usual_headings(item: WaymoObject, counts: Counter) -> WaymoObject:
    boxes = [item.box, item.synced_box]
    usual = [box if box is None else (*box[:6], _wrapped(box[6])) for box in boxes]
    if usual == boxes:
        return item
    counts["corrected: headings beyond ±π"] += 1
    return WaymoObject(**{**item.__dict__, "box": usual[0], "synced_box": usual[1]})


def _wrapped(angle: float) -> float:
    if -math.pi <= angle < math.pi:
        return angle
    return (angle + math.pi) % (2 * math.pi) - math.pi


def keep_cameras(
    cameras: dict[str, WaymoCamera],
    images: dict[str, object],
    wanted: Sequence[str],
    counts: Counter,
) -> list[str]:
    """The wanted cameras that have both an image and a calibration; counts what is missing."""
    kept = []
    for name in wanted:
        if name not in images:
            counts[f"skipped: images of {name}, not there"] += 1
        elif name not in cameras:
            counts[f"skipped: images of {name}, without calibration"] += 1
        else:
            kept.append(name)
    return kept


def read_part(path: str | Path) -> tuple[dict, Iterator[WaymoFrame], Counter]:
    """One prepared segment: its settings, its frames, its counts.

    Raises:
        DatasetError: the file is missing, incomplete or of another version; or, when the frames are
            iterated over, a line is malformed.
    """
    try:
        first, *lines, last = Path(path).read_text(encoding="utf-8").splitlines()
        settings, counts = json.loads(first), Counter(json.loads(last)["counts"])
        if settings["version"] != VERSION:
            raise ValueError(f"version {settings['version']}")
        if counts["frames"] != len(lines):
            raise ValueError(f"{len(lines)} frames, but a count of {counts['frames']}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _no_segment(path, error) from error
    return settings, _frames(path, lines), counts


def _frames(path: str | Path, lines: Sequence[str]) -> Iterator[WaymoFrame]:
    for number, line in enumerate(lines, start=2):
        try:
            yield WaymoFrame.from_json(line)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _no_segment(f"{path}:{number}", error) from error


def _no_segment(where: str | Path, error: Exception) -> DatasetError:
    return DatasetError(
        where,
        found=f"something that does not read ({type(error).__name__}: {error})",
        expected=f"a prepared segment of version {VERSION}",
        mend="delete the file and run tools/prepare_waymo.py again",
    )


def read_split(root: str | Path, split: str) -> list[WaymoFrame]:
    """All frames of a split, by segment and time.

    Args:
        root: folder that `tools/prepare_waymo.py` made.
        split: train, val or test.

    Raises:
        DatasetError: there is no such folder, a segment's index does not read, or a frame is there twice.
    """
    folder = Path(root) / split
    parts = visible_files(folder, "*.jsonl")
    if not parts:
        raise DatasetError(
            folder,
            found="no prepared segments",
            expected="SEGMENT.jsonl files",
            mend="run tools/prepare_waymo.py, or point DETECTRON2_DATASETS at the folder that holds "
            "'waymo'",
        )
    frames: dict[tuple[str, int], tuple[Path, WaymoFrame]] = {}
    for part in parts:
        for frame in read_part(part)[1]:
            key = frame.context, frame.timestamp
            if key in frames:
                raise DatasetError(
                    part,
                    found=f"frame {frame.timestamp} of {frame.context} again (first {frames[key][0]})",
                    expected="every frame once",
                    mend="keep one of the two files; releases of Waymo go into folders of their own",
                )
            frames[key] = part, frame
    return [frame for _, frame in frames.values()]
