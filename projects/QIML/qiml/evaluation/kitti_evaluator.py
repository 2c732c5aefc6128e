"""KITTI's evaluation as a Detectron2 evaluator."""

import logging
import re
from collections import OrderedDict
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from qiml.data.kitti_format import KITTIObjects, write_objects
from qiml.evaluation.kitti import (
    KITTI_DIFFICULTIES,
    KITTI_OVERLAPS,
    Difficulty,
    KITTIReport,
    evaluate_files,
)
from qiml.evaluation.kitti_evaluation import OverlapTables
from qiml.evaluation.kitti_rules import METRICS
from qiml.io import atomic_folder

logger = logging.getLogger(__name__)


class KITTIEvaluator(DatasetEvaluator):
    """Write detections as KITTI result files and evaluate them as KITTI does.

    Writes OUTPUT_DIR/kitti_results/DATASET/data/ID.txt and OUTPUT_DIR/kitti_DATASET.json. Without
    labels (the metadata's `label_dir` is None, as for KITTI's test split) the result files are all.

    Args:
        dataset_name: a registered dataset in KITTI's layout; its metadata gives `thing_classes` and
            `label_dir`.
        output_dir: folder to write to.
        distributed: gather the detections of all workers; else evaluate this worker's alone.
        difficulties: which objects count; error tables are about the last.
        overlaps: tables of minimal overlaps by name, for all of `thing_classes` to be evaluated.

    Attributes:
        report: the last evaluation, on the main process.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path,
        distributed: bool = True,
        difficulties: Sequence[Difficulty] = KITTI_DIFFICULTIES,
        overlaps: OverlapTables = KITTI_OVERLAPS,
    ):
        metadata = MetadataCatalog.get(dataset_name)
        file_name = file_name_of(dataset_name)
        self._dataset_name = dataset_name
        self._class_names = list(metadata.thing_classes)
        self._evaluated = _classes_with_overlaps(self._class_names, overlaps)
        self._label_dir = metadata.label_dir
        self._result_dir = Path(output_dir) / "kitti_results" / file_name
        self._json_file = Path(output_dir) / f"kitti_{file_name}.json"
        self._distributed = distributed
        self._difficulties = tuple(difficulties)
        self._overlaps = overlaps
        self._detections: dict[str, KITTIObjects] = {}
        self.report: KITTIReport | None = None

    def reset(self) -> None:
        self._detections = {}
        self.report = None

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Keep the detections of a batch.

        Args:
            inputs: dicts with `image_id`.
            outputs: dicts with `instances`: `pred_boxes` (pixels of the original image), `scores`,
                `pred_classes`, `pred_boxes3d` (Boxes3D), `pred_alpha` (radians).
        """
        for frame, output in zip(inputs, outputs, strict=True):
            image_id = str(frame["image_id"])
            self._detections[image_id] = to_kitti_objects(
                output["instances"], self._class_names, image_id
            )

    def evaluate(self) -> OrderedDict:
        """Gather, write and evaluate.

        Returns:
            On the main process: `bbox3d` (and `bbox3d_relaxed` for the relaxed overlaps) with
            `CLASS/AP40_METRIC_DIFFICULTY` in per cent, 0 where nothing was detected; and
            `depth_error` with `CLASS/mean_RANGE` in metres, where something was matched. Otherwise,
            and without labels, empty.

        Raises:
            DatasetError: frames of the dataset have not been processed, or labels are malformed.
        """
        if self._distributed:
            parts = comm.gather(self._detections, dst=0)
            if not comm.is_main_process():
                return OrderedDict()
            self._detections = {key: value for part in parts for key, value in part.items()}
        self._write_results()
        if self._label_dir is None or not Path(self._label_dir).is_dir():
            missing = f" (no such folder: {self._label_dir})" if self._label_dir else ""
            logger.warning("No labels%s: wrote result files to %s", missing, self._result_dir)
            return OrderedDict()
        self.report = evaluate_files(
            self._label_dir,
            self._result_dir,
            ids=[str(frame["image_id"]) for frame in DatasetCatalog.get(self._dataset_name)],
            classes=self._evaluated,
            difficulties=self._difficulties,
            overlaps=self._overlaps,
        )
        self.report.write_json(self._json_file)
        logger.info("%s\n%s", self._dataset_name, self.report.to_text())
        return _scalars(self.report, self._evaluated)

    def _write_results(self) -> None:
        """A new folder in the place of the old one, whose files may be of other frames."""
        with atomic_folder(self._result_dir) as temporary:
            (temporary / "data").mkdir()
            for image_id, objects in self._detections.items():
                write_objects(temporary / "data" / f"{image_id}.txt", objects)


def file_name_of(dataset_name: str) -> str:
    """What the files of a data set's evaluation call it."""
    return re.sub(r"[^\w.-]+", "_", dataset_name)


def to_kitti_objects(
    instances: Instances, class_names: Sequence[str], image_id: str
) -> KITTIObjects:
    """A frame's detections in KITTI's columns, on the CPU.

    Args:
        instances: as for :meth:`KITTIEvaluator.process`.
        class_names: by class number.
        image_id: named in a warning where detections are not finite; they are left out.
    """
    instances = instances.to("cpu")
    location, dimensions, rotation_y = instances.pred_boxes3d.to_kitti()
    objects = KITTIObjects.from_columns(
        [class_names[index] for index in instances.pred_classes.tolist()],
        bbox=instances.pred_boxes.tensor.numpy(),
        dimensions=dimensions.numpy(),
        location=location.numpy(),
        rotation_y=rotation_y.numpy(),
        alpha=instances.pred_alpha.numpy(),
        score=instances.scores.numpy(),
    )
    finite = np.isfinite(objects.values).all(axis=1)
    if not finite.all():
        logger.warning(
            "Frame %s: %d of %d detections are not finite and are left out",
            image_id, (~finite).sum(), len(finite),
        )  # fmt: skip
    return objects[finite]


def _classes_with_overlaps(names: list[str], overlaps: OverlapTables) -> list[str]:
    """Those of `names` that every table has minimal overlaps for; a warning names the others."""
    evaluated = [name for name in names if all(name in table for table in overlaps.values())]
    others = [name for name in names if name not in evaluated]
    if others:
        logger.warning("Not evaluated, for want of minimal overlaps: %s", ", ".join(others))
    return evaluated


def _scalars(report: KITTIReport, classes: Sequence[str]) -> OrderedDict:
    """What :meth:`KITTIEvaluator.evaluate` returns."""
    scalars = OrderedDict()
    levels = [level.name for level in report.evaluation.difficulties]
    for table in report.evaluation.overlaps:
        results = report.evaluation.results(table)
        values = scalars["bbox3d" if table == "strict" else f"bbox3d_{table}"] = {}
        for name, metric in product(classes, METRICS):
            found = results.get(name, {}).get("AP40", {}).get(metric, [0.0] * len(levels))
            for level, value in zip(levels, found, strict=True):
                values[f"{name}/AP40_{metric}_{level}"] = value
    scalars["depth_error"] = {
        f"{name}/mean_{depth_range}": errors["mean"]
        for name, ranges in report.depth_errors.items()
        for depth_range, errors in ranges.items()
        if errors["mean"] is not None
    }
    return scalars
