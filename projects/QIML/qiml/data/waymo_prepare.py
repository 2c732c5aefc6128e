"""Turns Waymo's releases into what `waymo_train` and `waymo_val` read: JPEGs and an index, a file a segment.

::

    OUT/train/SEGMENT.jsonl                                  settings, a line a frame, counts
    OUT/train/images/SEGMENT/TIMESTAMP_FRONT.jpg             v1 only, exactly as stored in the record
    OUT/val/...
"""

import json
import multiprocessing
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from qiml.data.waymo_format import VERSION, WaymoFrame, read_part
from qiml.data.waymo_parquet import list_segments, read_v2
from qiml.data.waymo_records import read_v1
from qiml.errors import ConfigError, DatasetError, QIMLError
from qiml.io import atomic_path, visible_files

SPLITS = {"training": "train", "validation": "val", "testing": "test"}


@dataclass(frozen=True)
class Segment:
    """One source file and what becomes of it.

    Attributes:
        source: `.tfrecord`, or `.parquet` of the camera_image component.
        folder: OUT/SPLIT.
        every: take each so many-th frame.
        cameras: names among `CAMERAS`.
    """

    source: str
    folder: str
    every: int
    cameras: tuple[str, ...]

    @property
    def name(self) -> str:
        """The segment's name in files."""
        return Path(self.source).stem

    @property
    def part(self) -> Path:
        """The index to write."""
        return Path(self.folder) / f"{self.name}.jsonl"

    @property
    def settings(self) -> dict:
        """What makes one prepared segment differ from another of the same name."""
        return {"version": VERSION, "every": self.every, "cameras": list(self.cameras)}


@dataclass(frozen=True)
class Summary:
    """What a preparation did.

    Attributes:
        counts: split → counts of frames, objects, and what was skipped or corrected, and why.
        segments: split → number of segments in the index.
        failures: messages of segments that could not be read.
        resumed: segments that were there already.
    """

    counts: dict[str, Counter]
    segments: Counter
    failures: list[str]
    resumed: int

    def to_text(self) -> str:
        """A line a number."""
        lines = []
        for split, counts in self.counts.items():
            lines.append(f"{split}: {self.segments[split]} segments")
            lines += [f"  {name:<50}{count:>10}" for name, count in sorted(counts.items())]
        if self.resumed:
            lines.append(f"{self.resumed} segments were there already")
        lines += [f"FAILED {message}" for message in self.failures]
        return "\n".join(lines)


def find_segments(
    root: str,
    out: str | Path,
    every: int,
    cameras: Sequence[str],
    every_val: int = 1,
    split: str = "train",
) -> list[Segment]:
    """The source files below a folder, by name.

    Args:
        root: folder, s3:// or gs:// address, or one `.tfrecord`. It holds `training`, `validation` and
            `testing` or, for one split, the files themselves: `.tfrecord`s (v1) or the components'
            folders, `camera_image` among them (v2).
        out: folder to write to.
        every, every_val: which frames to take, of train and of the other splits.
        cameras: names.
        split: what to call files that are not in a split's folder.

    Raises:
        DatasetError: nothing was found.
    """
    base = root.rstrip("/")
    folders = {f"{base}/{name}": target for name, target in SPLITS.items()} | {base: split}
    segments = [
        Segment(
            source,
            str(Path(out) / target),
            every if target == "train" else every_val,
            tuple(cameras),
        )
        for folder, target in folders.items()
        for source in _sources(folder)
    ]
    if not segments:
        raise DatasetError(
            root,
            found="no .tfrecord files and no camera_image folder",
            expected="a release of the perception data set, in training/, validation/ or here",
            mend="check the path; v1 in s3:// or gs:// must be copied first",
        )
    return segments


def _sources(folder: str) -> list[str]:
    if "://" not in folder:
        path = Path(folder)
        if path.suffix == ".tfrecord":
            return [folder]
        records = [str(file) for file in visible_files(path, "*.tfrecord")]
        if records:
            return records
    return list_segments(folder)


def prepare(segments: Sequence[Segment], workers: int = 1) -> Summary:
    """Write what is missing; a segment that is complete is left as it is.

    Args:
        segments: as from :func:`find_segments`.
        workers: processes.

    Raises:
        ConfigError: a segment was prepared with other settings, or Waymo's protocol buffers are missing.
    """
    missing = [segment for segment in segments if not _is_complete(segment)]
    failures = []
    for segment, error in _run(missing, workers):
        if isinstance(error, ConfigError):
            raise error
        if error is not None:
            failures.append(f"{segment.name}: {error}")
    counts: dict[str, Counter] = {}
    done = Counter()
    for segment in segments:
        if segment.part.exists():
            split = Path(segment.folder).name
            counts.setdefault(split, Counter()).update(read_part(segment.part)[2])
            done[split] += 1
    return Summary(counts, done, failures, len(segments) - len(missing))


def _is_complete(segment: Segment) -> bool:
    if not segment.part.exists():
        return False
    settings, _, _ = read_part(segment.part)
    if settings != segment.settings:
        raise ConfigError(
            segment.part,
            found=f"a segment prepared with {settings}",
            expected=f"{segment.settings}",
            mend="choose another folder (--out), or delete this one",
        )
    return True


def _run(segments: list[Segment], workers: int) -> Iterator[tuple[Segment, QIMLError | None]]:
    with tqdm(total=len(segments), unit="segment", desc="preparing") as progress:
        if workers == 1:
            for segment in segments:
                yield segment, _attempt(segment)
                progress.update()
            return
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
        try:
            futures = {pool.submit(_attempt, segment): segment for segment in segments}
            for future in as_completed(futures):
                yield futures[future], future.result()
                progress.update()
        finally:
            pool.shutdown(cancel_futures=True)


def _attempt(segment: Segment) -> QIMLError | None:
    try:
        prepare_segment(segment)
    except QIMLError as error:
        return error
    return None


def prepare_segment(segment: Segment) -> Counter:
    """Write one segment: its images, and the index last, whole or not at all.

    Returns:
        Counts of frames, objects, and what was skipped or corrected.
    """
    counts: Counter = Counter()
    read = read_v2 if segment.source.endswith(".parquet") else read_v1
    with atomic_path(segment.part) as temporary, open(temporary, "w", encoding="utf-8") as index:
        index.write(json.dumps(segment.settings) + "\n")
        for frame, images in read(segment.source, segment.cameras, segment.every, counts):
            _check(frame, segment.source)
            index.write(_with_images(segment, frame, images).to_json() + "\n")
        index.write(json.dumps({"counts": counts}) + "\n")
    return counts


def _check(frame: WaymoFrame, source: str) -> None:
    try:
        frame.check()
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"{source}, frame {frame.timestamp} µs",
            found=str(error),
            expected="finite calibrations and labels",
            mend="fetch the file again: it is damaged",
        ) from error


def _with_images(segment: Segment, frame: WaymoFrame, images: dict[str, bytes]) -> WaymoFrame:
    """The frame with the names of its image files, which are written here."""
    names = dict(frame.images)
    for camera, data in images.items():
        names[camera] = f"images/{segment.name}/{frame.timestamp}_{camera}.jpg"
        with atomic_path(Path(segment.folder) / names[camera]) as temporary:
            temporary.write_bytes(data)
    return replace(frame, images=names)
