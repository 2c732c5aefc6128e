"""A Waymo frame as this project keeps it, whatever release it was read from.

Prepared data are JSON lines, a file a segment: settings, then a line a frame, then counts. Boxes stay in
the vehicle frame (x forward, y left, z up); who needs the camera frame converts them at the dataset or
evaluator boundary.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from qiml.errors import ConfigError, DatasetError

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
        """The inverse of :meth:`to_json`."""
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
        cameras = {
            name: WaymoCamera(width, height, tuple(intrinsic), tuple(extrinsic))
            for name, (width, height, intrinsic, extrinsic) in values["cameras"].items()
        }
        return cls(
            **{**values, "cameras": cameras, "objects": tuple(WaymoObject(**o) for o in objects)}
        )


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
        DatasetError: the file is missing, incomplete or of another version.
    """
    try:
        first, *lines, last = Path(path).read_text(encoding="utf-8").splitlines()
        settings, counts = json.loads(first), Counter(json.loads(last)["counts"])
        if settings["version"] != VERSION:
            raise ValueError(f"version {settings['version']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            path,
            found=f"a file that does not read ({error})",
            expected=f"a prepared segment of version {VERSION}",
            mend="delete the file and run tools/prepare_waymo.py again",
        ) from error
    return settings, map(WaymoFrame.from_json, lines), counts


def read_split(root: str | Path, split: str) -> list[WaymoFrame]:
    """All frames of a split, by segment and time.

    Args:
        root: folder that `tools/prepare_waymo.py` made.
        split: train, val or test.

    Raises:
        DatasetError: there is no such folder, or a segment's index does not read.
    """
    folder = Path(root) / split
    parts = sorted(folder.glob("*.jsonl"))
    if not parts:
        raise DatasetError(
            folder,
            found="no prepared segments",
            expected="SEGMENT.jsonl files",
            mend="run tools/prepare_waymo.py, or point DETECTRON2_DATASETS at the folder that holds "
            "'waymo'",
        )
    return [frame for part in parts for frame in read_part(part)[1]]
