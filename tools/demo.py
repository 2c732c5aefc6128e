"""See a detector, or labels, on your own images, videos and webcam: pictures, JSON and KITTI's text files."""

import argparse
import contextlib
import itertools
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import MetadataCatalog
from tqdm import tqdm

from qiml.config import load_config
from qiml.data.calibration import CalibrationReader
from qiml.data.catalog import register_datasets
from qiml.data.kitti_format import KITTIObjects
from qiml.data.label_folder import LabelFolder
from qiml.data.mapper import MonocularMapper
from qiml.data.sources import Frame, Source, Webcam, open_sources
from qiml.engine.trained import load_trained_model
from qiml.errors import ConfigError, exit_on_error
from qiml.evaluation.projection_check import projection_overlaps
from qiml.predictor import Predictor
from qiml.visualization.objects import VIEWS, draw_objects
from qiml.visualization.results import ResultFolder

# OpenCV's and FFmpeg's own messages about broken files and missing cameras would precede ours.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

EXAMPLES = """\
calibration, in one of four ways:
  --calib FILE.txt or FOLDER     KITTI's calibration files; of a folder, FRAME.txt or VIDEO.txt
  --calib MATRIX.json or .yaml   [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels, or 3×4
  --focal PIXELS                 the principal point is taken to be the image's centre
  none of these                  the focal length that a photograph's EXIF data tell

examples:
  The detector of the quick start on frames of its data:
    python tools/demo.py --config-file configs/quickstart.yaml --weights output/quickstart/model_final.pth \\
      --calib datasets/synthetic/training/calib datasets/synthetic/training/image_2 --max-frames 8
  A video from a camera of 1100 px focal length; only cars above a score of 0.4:
    python tools/demo.py --config-file … --weights … --focal 1100 --classes Car --score-threshold 0.4 a.mp4
  Photographs of a phone, calibrated by their EXIF data; a webcam until Ctrl-C:
    python tools/demo.py --config-file … --weights … holiday/*.jpg
    python tools/demo.py --config-file … --weights … --focal 900 --webcam 0
  Labels instead of a detector: do boxes and calibration fit the images?
    python tools/demo.py --labels training/label_2 --calib training/calib --boxes2d training/image_2
  A detector with the labels under its boxes, or beside them:
    python tools/demo.py --config-file … --weights … --labels training/label_2 --calib … --view beside …

output:
  pictures/FRAME.jpg or VIDEO.mp4, kitti/FRAME.txt (a result file, or the labels), detections.json
"""


class Stopwatch:
    """Seconds spent by kind of work."""

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, kind: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[kind] += time.perf_counter() - start

    def summary(self, count: int) -> str:
        """Milliseconds a frame."""
        parts = (f"{kind} {1000 * spent / count:.1f}" for kind, spent in self.seconds.items())
        return f"ms a frame: {', '.join(parts)}"


def load_predictor(args: argparse.Namespace) -> tuple[Predictor, int]:
    """The detector with its weights, and how many images a batch of evaluation holds."""
    cfg = load_config(args.config_file, args.opts)
    if args.score_threshold is not None:
        cfg.MODEL.BOX3D_HEAD.SCORE_THRESHOLD = args.score_threshold
    register_datasets(cfg.DATASETS.TRAIN)  # for the names of the classes; reads no files
    model = load_trained_model(cfg, args.weights)
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes
    predictor = Predictor(model.for_inference(), MonocularMapper(cfg, is_train=False), names)
    return predictor, cfg.TEST.IMS_PER_BATCH


@dataclass(frozen=True, eq=False)
class Scene:
    """A frame and what is to be drawn on it.

    Attributes:
        frame: the image.
        projection: (3, 4) of it.
        objects: detections; without a detector the labels.
        truth: labels to compare detections with, or None.
    """

    frame: Frame
    projection: np.ndarray
    objects: KITTIObjects
    truth: KITTIObjects | None


class Detection:
    """Makes scenes of a source's frames.

    Args:
        args: of the command line.
        watch: for reading and inference.

    Attributes:
        class_names: which the detector knows or the labels have.
        detects: whether there is a detector.
    """

    def __init__(self, args: argparse.Namespace, watch: Stopwatch):
        self.calibration = CalibrationReader(args.calib, args.focal)
        self.predictor, self.batch_size = load_predictor(args) if args.weights else (None, 1)
        self.detects = self.predictor is not None
        known = self.predictor.class_names if self.detects else None
        self.labels = LabelFolder(args.labels, known) if args.labels else None
        self.class_names = known or self.labels.class_names
        self.chosen = choose_classes(args.classes, self.class_names)
        self.batch_size = args.batch_size or self.batch_size
        self.least_score, self.max_frames = args.score_threshold, args.max_frames
        self.watch = watch

    def __call__(self, source: Source) -> Iterator[Scene]:
        frames = itertools.islice(source, self.max_frames)
        size = 1 if isinstance(source, Webcam) else self.batch_size
        while True:
            with self.watch("reading"):
                batch = list(itertools.islice(frames, size))
            if not batch:
                return
            yield from self._scenes(batch)

    def _scenes(self, frames: list[Frame]) -> list[Scene]:
        projections = [self.calibration(frame) for frame in frames]
        truths = [self.labels and self._choose(self.labels(frame.id)) for frame in frames]
        if not self.detects:
            return [
                Scene(*each, truth=None) for each in zip(frames, projections, truths, strict=True)
            ]
        with self.watch("inference"):
            found = [self._choose(objects) for objects in self.predictor(frames, projections)]
        return [Scene(*each) for each in zip(frames, projections, found, truths, strict=True)]

    def _choose(self, objects: KITTIObjects) -> KITTIObjects:
        kept = np.isin(objects.types, self.chosen)
        if self.least_score is not None:
            kept &= ~(objects.score < self.least_score)  # labels have none
        return objects[kept]


def summarise_projections(overlaps: dict[str, list[float]]) -> str:
    """How well projected 3D boxes fit the 2D boxes of untruncated objects, a line a class."""
    lines = ["IoU of projected 3D boxes with the 2D boxes of untruncated objects:"]
    for name, values in overlaps.items():
        share = 100 * np.mean(np.array(values) >= 0.95)
        lines.append(
            f"  {name:<16}{len(values):>6} objects   mean {np.mean(values):.3f}   "
            f"median {np.median(values):.3f}   least {np.min(values):.3f}   >= 0.95: {share:.1f} %"
        )
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("inputs", nargs="*", metavar="INPUT", help="images, folders of images, videos")
    add("--webcam", type=int, metavar="N", help="camera number N of this machine, until Ctrl-C")
    add("--output", type=Path, default=Path("output/demo"), help="folder (default %(default)s)")
    add("--config-file", metavar="FILE", help="the config that the weights were trained with")
    add("--weights", metavar="FILE", help="a checkpoint, such as model_final.pth")
    labels = (
        "KITTI label or result files, FRAME.txt: drawn instead of detections, or compared with them"
    )
    add("--labels", type=Path, metavar="FOLDER", help=labels)
    add("--calib", metavar="PATH", help="calibration; see below")
    add("--focal", type=float, metavar="PIXELS", help="focal length; see below")
    add("--score-threshold", type=float, metavar="S", help="least score (default: the config's)")
    add("--classes", type=_names, metavar="NAMES", help="only these, such as Car,Cyclist")
    views = "panel: with the scene from above; image: without; beside: detections above labels"
    add("--view", choices=VIEWS, default="panel", help=f"{views} (default %(default)s)")
    add(
        "--range", type=float, default=60.0, metavar="M", help="metres seen from above (default 60)"
    )
    add("--boxes2d", action="store_true", help="also draw the 2D boxes, in white")
    batch = "images a batch (default: TEST.IMS_PER_BATCH); a webcam's always hold one"
    add("--batch-size", type=int, metavar="N", help=batch)
    add("--max-frames", type=int, metavar="N", help="stop after N frames of each source")
    add("--fps", type=float, help="frames per second of the written video (default: the source's)")
    keys = "config overrides, such as MODEL.DEVICE cpu; to be given last"
    add("--opts", nargs="+", default=[], metavar="KEY VALUE", help=keys)
    return parser.parse_args()


def _names(text: str) -> list[str]:
    return text.split(",")


def check_arguments(args: argparse.Namespace) -> None:
    """Raise ConfigError for arguments that cannot work, alone or together."""
    if bool(args.weights) != bool(args.config_file) or not (args.weights or args.labels):
        raise ConfigError(
            "command line",
            found="nothing to draw"
            if not (args.weights or args.config_file)
            else f"only {'--weights' if args.weights else '--config-file'}",
            expected="--config-file and --weights of a detector, or --labels, or all three",
            mend="see tools/demo.py --help",
        )
    if args.view == "beside" and not (args.weights and args.labels):
        raise ConfigError(
            "--view",
            found="beside, with nothing to compare",
            expected="a detector and --labels with it",
            mend="give both, or take another view",
        )
    positive = {"--range": args.range, "--fps": args.fps}
    positive |= {"--batch-size": args.batch_size, "--max-frames": args.max_frames}
    for name, value in positive.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(
                name, found=f"{value:g}", expected="more than 0", mend="correct the value"
            )


def choose_classes(wanted: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """`wanted`, or all that are known. Raises ConfigError for others."""
    for name in wanted or ():
        if name not in known:
            raise ConfigError(
                "--classes", found=repr(name), expected=f"names among {', '.join(known)}",
                mend="correct the name, and write several with commas between them",
            )  # fmt: skip
    return list(wanted or known)


def draw_source(
    source: Source, detection: Detection, results: ResultFolder, args: argparse.Namespace
) -> Iterator[Scene]:
    """Draw and write a source's frames; yields each when that is done."""
    watch, names = detection.watch, detection.class_names
    with results.pictures(source, args.fps) as write_picture:
        for scene in detection(source):
            with watch("drawing"):
                picture = draw_objects(
                    scene.frame.image, scene.projection, scene.objects, names, scene.truth,
                    args.view, args.range, args.boxes2d,
                )  # fmt: skip
            with watch("writing"):
                write_picture(scene.frame, picture)
                results.add(scene.frame, scene.projection, scene.objects)
            yield scene


def run(args: argparse.Namespace) -> None:
    """Draw every source's frames, and say what came out and what it took."""
    check_arguments(args)
    detection = Detection(args, Stopwatch())
    sources = open_sources(args.inputs, args.webcam)
    results = ResultFolder(args.output)
    others = [Path(path) for path in (args.labels, args.calib) if path]
    for source in sources:
        results.check_inputs_stay(source, others)
    lengths = [min(len(source) or math.inf, args.max_frames or math.inf) for source in sources]
    total = None if math.inf in lengths else sum(lengths)
    count, objects, overlaps = 0, 0, defaultdict(list)
    with tqdm(total=total, unit="frame") as progress:
        for source in sources:
            for scene in draw_source(source, detection, results, args):
                count, objects = count + 1, objects + len(scene.objects)
                for name, overlap in untruncated_overlaps(scene):
                    overlaps[name].append(overlap)
                progress.update()
    results.write_json()
    print(f"{count} frames, {objects} objects: {args.output}")
    print(detection.watch.summary(count))
    if overlaps and not detection.detects:
        print(summarise_projections(overlaps))


def untruncated_overlaps(scene: Scene) -> Iterator[tuple[str, float]]:
    """Class and IoU of projected 3D box and 2D box of each object that is labelled untruncated."""
    whole = scene.objects[scene.objects.truncation == 0]
    overlaps = projection_overlaps(whole, scene.projection, scene.frame.image.shape[:2])
    return zip(whole.types.tolist(), overlaps.tolist(), strict=True)


if __name__ == "__main__":
    with exit_on_error():
        run(parse_arguments())
