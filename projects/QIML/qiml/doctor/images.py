"""Checks of image files: they decode, are as large as they should be, and are different."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from qiml.data.images import read_image
from qiml.doctor.problems import ERROR, Problem, warning
from qiml.doctor.survey import Frame, Survey
from qiml.errors import DatasetError


def check_images(survey: Survey, workers: int | None = None) -> list[Problem]:
    """Decode every image of a split.

    Args:
        survey: the split.
        workers: threads, which decode side by side; None: one for each core.
    """
    frames = [frame for frame in survey.frames if frame.image]
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        found = pool.map(_decode(survey.name), frames)
        progress = tqdm(found, total=len(frames), unit="image", desc=f"decoding {survey.name}")
        return [problem for problem in progress if problem is not None]


def _decode(dataset: str) -> Callable[[Frame], Problem | None]:
    def decode(frame: Frame) -> Problem | None:
        try:
            image = read_image(frame.image)
        except DatasetError as error:
            return Problem("images", ERROR, dataset, str(error), frame.id)
        if image.shape[:2] != tuple(frame.size):
            found, severity = f"{image.shape[1]}×{image.shape[0]} pixels", ERROR
            expected = f"{frame.size[1]}×{frame.size[0]}, as its header or the index says"
        elif image.min() == image.max():
            found, severity, expected = "one colour everywhere", "warning", "a picture"
        else:
            return None
        return warning(
            "images",
            dataset,
            frame.image,
            found=found,
            expected=expected,
            mend="fetch or write the image again",
            frame=frame.id,
            severity=severity,
        )

    return decode


def check_duplicates(surveys: Sequence[Survey]) -> list[Problem]:
    """Frames with the same id in a split, and image files with the same content anywhere.

    A frame that several splits of a folder have is no such: other checks tell of it. Only files of the same
    size are read. Images inside parquet files are not compared.
    """
    problems = [problem for survey in surveys for problem in _repeated_ids(survey)]
    owners: dict[Path, dict[tuple[Path, str], str]] = defaultdict(dict)  # frames, their first split
    for survey in surveys:
        for frame in survey.frames:
            if frame.image and ".parquet#" not in frame.image:
                owner = owners[Path(frame.image).resolve()]
                owner.setdefault((survey.root, frame.id), survey.name)
    for path, frames in owners.items():
        if len(frames) > 1:  # by links
            others = [f"that of {name}'s frame {frame}" for (_, frame), name in frames.items()]
            problems.append(_same_picture(path, frames, others[1:]))
    for files in _grouped(owners, lambda path: path.stat().st_size):
        for same in _grouped(files, _digest):
            problems.append(_same_picture(same[0], owners[same[0]], [str(p) for p in same[1:]]))
    return problems


def _same_picture(
    path: Path, frames: Mapping[tuple[Path, str], str], others: Sequence[str]
) -> Problem:
    (_, frame), name = next(iter(frames.items()))
    return warning(
        "duplicates",
        name,
        str(path),
        found=f"the same picture as {', '.join(others[:3])}{', …' if others[3:] else ''}",
        expected="different pictures: a model must not be evaluated on what it learnt",
        mend="leave all but one out of the lists",
        frame=frame,
    )


def _repeated_ids(survey: Survey) -> Iterator[Problem]:
    seen: set[str] = set()
    for frame in survey.frames:
        if frame.id in seen:
            yield warning(
                "duplicates",
                survey.name,
                frame.labels,
                found=f"frame {frame.id} again",
                expected="each frame once",
                mend="remove the segment that was prepared twice",
                frame=frame.id,
            )
        seen.add(frame.id)


def _grouped(files, key: Callable[[Path], object]) -> Iterator[list[Path]]:
    """Files that have the same key; without those that are alone."""
    groups = defaultdict(list)
    for path in files:
        groups[key(path)].append(path)
    return (group for group in groups.values() if len(group) > 1)


def _digest(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
