"""The metrics."""

import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from qiml.benchmark.records import Comparison, Measure, Record
from qiml.benchmark.scale import ROOT, Scale
from qiml.benchmark.timing import Timer
from qiml.evaluation.waymo import evaluate as evaluate_waymo

GOLDEN_SCENES = ROOT / "tests/golden/kitti_random_scenes.tar.gz"


def time_kitti(
    timer: Timer, labels: Path | None, results: Path | None, devkit: Path | None
) -> list[Record]:
    """KITTI's metric as a process, from files to table, beside the official devkit's where it is given.

    Args:
        timer: at most three repeats are made.
        labels, results: folders of label and result files; None: the 400 made-up scenes of the tests.
        devkit: binary of the C++ devkit, called as `BINARY LABELS RESULTS`.
    """
    if labels is None:
        with _golden_scenes() as (labels, results):
            return time_kitti(timer, labels, results, devkit)
    commands = [[sys.executable, "-m", "qiml.evaluation.kitti", str(labels), str(results)]]
    if devkit is not None:
        commands.append([str(devkit), str(labels), str(results)])
    calls = [partial(subprocess.run, c, check=True, stdout=subprocess.DEVNULL) for c in commands]
    ours, *others = timer.seconds(*calls, at_most=3)
    what = f"KITTI's metric, {len(list(results.glob('*.txt')))} frames, as a process"
    if others:
        return [Comparison(what, "C++ devkit", others[0], ours)]
    return [Measure(what, ours, "s")]


@contextmanager
def _golden_scenes() -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory() as folder, tarfile.open(GOLDEN_SCENES) as archive:
        archive.extractall(folder, filter="data")
        (labels,) = Path(folder).rglob("label_2")
        yield labels, labels.parent / "data"


def waymo_objects(frames: int, boxes: int) -> tuple[np.ndarray, np.ndarray]:
    """Made-up labels and as many detections; see `qiml.evaluation.waymo.evaluate` for the columns."""
    rng = np.random.default_rng(0)
    count = frames * boxes
    kinds = rng.choice([1, 2, 4], count, p=[0.6, 0.3, 0.1])
    sizes = {1: (4.8, 2.1, 1.8), 2: (0.9, 0.85, 1.75), 4: (1.8, 0.8, 1.7)}
    gt = np.empty((count, 10))
    gt[:, 0] = np.repeat(np.arange(frames), boxes)
    gt[:, 1:4] = rng.uniform((-75, -40, 0), (75, 40, 2), (count, 3))
    gt[:, 4:7] = np.array([sizes[kind] for kind in kinds.tolist()])
    gt[:, 7], gt[:, 8], gt[:, 9] = rng.uniform(-3, 3, count), kinds, rng.integers(1, 3, count)
    found = gt.copy()
    found[:, 1:4] += rng.normal(0, 0.2, (count, 3))
    found[:, 9] = rng.random(count)
    return gt, found


def time_waymo(timer: Timer, scale: Scale, boxes: int = 30) -> list[Record]:
    """Waymo's metric and LET; about as many frames as in its validation split."""
    gt, found = waymo_objects(scale.waymo_frames, boxes)
    records: list[Record] = []
    for let, name in ((False, "Waymo's metric"), (True, "Waymo's LET metric")):
        (seconds,) = timer.seconds(partial(evaluate_waymo, gt, found, let=let), at_most=1)
        what = f"{name}, {scale.waymo_frames} frames of {boxes} objects and detections"
        records.append(Measure(what, seconds, "s"))
    return records
