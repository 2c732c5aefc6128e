"""Waymo's evaluation as a Detectron2 evaluator."""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from qiml.data.kitti_format import KITTIObjects
from qiml.data.waymo import frame_dicts, is_visible
from qiml.data.waymo_format import CLASS_TYPES, WaymoFrame, WaymoObject, read_split
from qiml.errors import ConfigError, DatasetError
from qiml.evaluation import waymo_legacy
from qiml.evaluation.kitti_evaluator import file_name_of
from qiml.evaluation.waymo import WaymoReport, evaluate
from qiml.evaluation.waymo_files import write_predictions
from qiml.evaluation.waymo_rules import (
    LET_IOU,
    LEVELS,
    OFFICIAL_IOU,
    TYPES,
    difficulty_levels,
)
from qiml.structures.boxes3d import Boxes3D
from qiml.structures.vehicle import boxes_to_camera, boxes_to_vehicle, camera_to_vehicle

logger = logging.getLogger(__name__)

_TYPE_NUMBERS = tuple(CLASS_TYPES)  # by category id
_LEGACY_NAMES = {1: "Car", 2: "Pedestrian", 4: "Cyclist"}


class _Found(NamedTuple):
    """Detections in one image: boxes (N, 7) as `Boxes3D`, category ids (N,), scores (N,)."""

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


class WaymoEvaluator(DatasetEvaluator):
    """Evaluate detections in prepared Waymo data, each protocol in a table of its own.

    Ground truth are the objects with a projected label in the dataset's cameras. The official metric, at
    IoU .7/.5 and at .5/.3, takes boxes at the time of the LiDAR, as the official tool does; LET takes
    camera-synced ones, and is left out where the release has none. `mono_front_legacy` is evaluated for
    the front camera alone. Detections of one object in two cameras are not merged: one of them is false.

    Writes OUTPUT_DIR/waymo_DATASET_PROTOCOL.json and, where Waymo's protocol buffers are installed,
    OUTPUT_DIR/waymo_DATASET.bin for the official tools and :func:`write_submission`.

    Args:
        dataset_name: a dataset of :func:`qiml.data.waymo.register_waymo`.
        output_dir: folder to write to.
        distributed: gather the detections of all workers; else evaluate this worker's alone.

    Attributes:
        reports: the last evaluation, on the main process, by name.
    """

    def __init__(self, dataset_name: str, output_dir: str | Path, distributed: bool = True):
        metadata = MetadataCatalog.get(dataset_name)
        self._name = file_name_of(dataset_name)
        self._dataset_name = dataset_name
        self._root, self._split = metadata.root, metadata.split
        self._cameras = metadata.cameras
        self._output_dir = Path(output_dir)
        self._distributed = distributed
        self._detections: dict[str, _Found] = {}
        self.reports: dict[str, WaymoReport] = {}

    def reset(self) -> None:
        self._detections, self.reports = {}, {}

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Keep the detections of a batch.

        Args:
            inputs: dicts with `image_id`.
            outputs: dicts with `instances`: `scores`, `pred_classes`, `pred_boxes3d` (Boxes3D).
        """
        for frame, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            boxes: Boxes3D = instances.pred_boxes3d
            found = _Found(
                boxes.tensor.double().numpy(),
                instances.pred_classes.numpy(),
                instances.scores.double().numpy(),
            )
            finite = np.isfinite(found.boxes).all(axis=1) & np.isfinite(found.scores)
            if not finite.all():
                logger.warning(
                    "Frame %s: %d of %d detections are not finite and are left out",
                    frame["image_id"], (~finite).sum(), len(finite),
                )  # fmt: skip
            self._detections[frame["image_id"]] = _Found(*(part[finite] for part in found))

    def evaluate(self) -> OrderedDict:
        """Gather, write and evaluate.

        Returns:
            On the main process: report name → `CLASS/MEASURE_LEVEL` in per cent, at all ranges. Otherwise,
            and for the split test, empty.

        Raises:
            DatasetError: images of the dataset have not been processed.
        """
        if self._distributed:
            parts = comm.gather(self._detections, dst=0)
            if not comm.is_main_process():
                return OrderedDict()
            self._detections = {key: value for part in parts for key, value in part.items()}
        frames = read_split(self._root, self._split)
        dicts = frame_dicts(self._root, self._split, frames, self._cameras, labelled=False)
        self._check_complete(dicts)
        detections = self._in_vehicle_frames(frames, dicts)
        self._write_predictions(frames, detections)
        if self._split == "test":
            return OrderedDict()
        self.reports = self._evaluate_official(frames, detections)
        if self._cameras == ("FRONT",):
            self.reports |= self._evaluate_legacy(frames)
        for name, report in self.reports.items():
            report.write_json(self._output_dir / f"waymo_{self._name}_{name}.json")
            logger.info("%s, %s\n%s", self._dataset_name, name, report.to_text())
        return OrderedDict((name, _scalars(report)) for name, report in self.reports.items())

    def _check_complete(self, dicts: list[dict]) -> None:
        missing = [item["image_id"] for item in dicts if item["image_id"] not in self._detections]
        if missing:
            raise DatasetError(
                self._dataset_name,
                found=f"no detections for {len(missing)} images, {missing[0]} first",
                expected="detections, or none, for every image",
                mend="evaluate the whole data set",
            )

    def _in_vehicle_frames(self, frames: list[WaymoFrame], dicts: list[dict]) -> np.ndarray:
        """(M, 10) rows of all detections; the frame number is the position in `frames`."""
        numbers = {(f.context, f.timestamp): index for index, f in enumerate(frames)}
        rows = [np.empty((0, 10))]
        for item in dicts:
            found, source = self._detections[item["image_id"]], item["waymo"]
            frame = numbers[source["context"], source["timestamp"]]
            boxes = boxes_to_vehicle(found.boxes, np.array(source["pose"]))
            types = np.array(_TYPE_NUMBERS)[found.classes]
            rows.append(np.column_stack([np.full(len(boxes), frame), boxes, types, found.scores]))
        return np.concatenate(rows)

    def _write_predictions(self, frames: list[WaymoFrame], detections: np.ndarray) -> None:
        try:
            keys = [(frame.context, frame.timestamp) for frame in frames]
            write_predictions(self._output_dir / f"waymo_{self._name}.bin", detections, keys)
        except ConfigError as error:
            logger.warning("No file of predictions is written. %s", error)

    def _evaluate_official(
        self, frames: list[WaymoFrame], detections: np.ndarray
    ) -> dict[str, WaymoReport]:
        seen = [
            (index, item)
            for index, frame in enumerate(frames)
            for item in frame.objects
            if is_visible(item, self._cameras)
        ]
        gt = _rows([(index, item, item.box, item.points) for index, item in seen])
        reports = {}
        for name, iou in (("official", OFFICIAL_IOU), ("official_relaxed", LET_IOU)):
            rows = evaluate(gt, detections, iou)
            reports[name] = self._report("official", iou, rows, len(frames))
        synced = [
            (index, item, item.synced_box, item.top_points)
            for index, item in seen
            if item.synced_box is not None and item.top_points > 0
        ]
        if synced:
            rows = evaluate(_rows(synced), detections, let=True)
            reports["let"] = self._report("let", LET_IOU, rows, len(frames))
        else:
            logger.info("No camera-synced boxes: the LET metric is not evaluated")
        return reports

    def _evaluate_legacy(self, frames: list[WaymoFrame]) -> dict[str, WaymoReport]:
        labels, points, detections = [], [], []
        for frame in frames:
            if "FRONT" not in frame.images:
                continue
            pose = camera_to_vehicle(frame.cameras["FRONT"].extrinsic)
            seen = [item for item in frame.objects if "FRONT" in item.boxes2d]
            boxes = boxes_to_camera(np.array([item.box for item in seen]), pose)
            names = [_LEGACY_NAMES[item.type] for item in seen]
            boxes2d = np.array([item.boxes2d["FRONT"] for item in seen]).reshape(-1, 4)
            labels.append(KITTIObjects.from_boxes(names, boxes, bbox=boxes2d))
            points.append(np.array([item.points for item in seen]))
            found = self._detections[f"{frame.context}_{frame.timestamp}_FRONT"]
            names = [_LEGACY_NAMES[_TYPE_NUMBERS[index]] for index in found.classes.tolist()]
            detections.append(
                KITTIObjects.from_boxes(names, found.boxes, bbox=np.zeros(4), score=found.scores)
            )
        reports = {}
        for suffix, iou in waymo_legacy.TABLES.items():
            rows = waymo_legacy.evaluate_legacy(labels, points, detections, iou)
            name = f"{waymo_legacy.PROTOCOL}{suffix}"
            reports[name] = self._report(waymo_legacy.PROTOCOL, iou, rows, len(labels))
        return reports

    @staticmethod
    def _report(protocol: str, iou: Mapping[int, float], rows: dict, frames: int) -> WaymoReport:
        return WaymoReport(protocol, iou, rows, frames, types=_TYPE_NUMBERS)


def _rows(
    objects: Sequence[tuple[int, WaymoObject, tuple[float, ...], int]],
) -> np.ndarray:
    """(N, 10) ground truth from frame number, object, the box to take and the points to grade by."""
    boxes = [[index, *box, item.type] for index, item, box, _ in objects]
    levels = difficulty_levels(
        np.array([points for *_, points in objects]),
        np.array([item.level for _, item, *_ in objects]),
    )
    return np.column_stack([np.array(boxes, dtype=float).reshape(-1, 9), levels])


def _scalars(report: WaymoReport) -> dict[str, float]:
    measures = ("AP", "APH", "APL") if report.protocol == "let" else ("AP", "APH")
    return {
        f"{name}/{measure}_L{level}": 100
        * report.rows[f"OBJECT_TYPE_TYPE_{TYPES[kind]}_LEVEL_{level}"][measure]
        for kind, name in CLASS_TYPES.items()
        for level in LEVELS
        for measure in measures
    }
