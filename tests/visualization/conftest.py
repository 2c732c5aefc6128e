"""Made-up runs: a data set in KITTI's layout, and what an evaluation leaves in OUTPUT_DIR."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from qiml.data.kitti_format import KITTIObjects, write_calibration, write_objects
from qiml.evaluation.kitti import evaluate_files
from qiml.structures.boxes3d import Boxes3D
from qiml.structures.camera import Camera

PROJECTION = np.array([[720.0, 0, 621, 45], [0, 720, 172, 0.1], [0, 0, 1, 0.003]])
SIZE = (1242, 375)
SIZES = {"Car": (1.5, 1.6, 3.9), "Pedestrian": (1.75, 0.6, 0.8)}


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """`make_run("name")` makes the folder of a run on six frames; calls with the same frames share the data.

    Keyword arguments:

        frames: number of frames.
        objects: of each frame.
        noise: of detected depths, a share of the depth.
        ids: of the frames.
        metrics: entries of each line of metrics.json, beside the usual ones.
    """

    def make(
        name: str,
        frames: int = 6,
        objects: int = 3,
        noise: float = 0.05,
        ids: list[str] | None = None,
        metrics: dict | None = None,
    ) -> Path:
        root, run = tmp_path / "data", tmp_path / name
        ids = ids or [f"{index:06d}" for index in range(frames)]
        random = np.random.default_rng(0)
        labels = [_labels(random, objects) for _ in ids]
        if not root.exists():
            _write_data(root, ids, labels)
        dataset = f"kitti_format:{root}:val"
        file_name = f"kitti_format_{str(root).replace('/', '_').lstrip('_')}_val"
        results = run / "kitti_results" / file_name / "data"
        for image_id, own in zip(ids, labels, strict=True):
            write_objects(results / f"{image_id}.txt", _detected(random, own, noise))
        report = evaluate_files(
            root / "training" / "label_2", results, ids=ids, classes=("Car", "Pedestrian")
        )
        report.write_json(run / f"kitti_{file_name}.json")
        config = {"DATASETS": {"TEST": [dataset], "TRAIN": ["made_up"]}, "SEED": 7}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        lines = [
            {"iteration": i, "total_loss": 9 / (i + 1), "lr": 0.1, **(metrics or {})}
            for i in range(0, 100, 20)
        ]
        (run / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return run

    return make


def _labels(random: np.random.Generator, count: int) -> KITTIObjects:
    """Objects side by side, at different depths."""
    types = [["Car", "Pedestrian"][i % 2] for i in range(count)]
    depth = random.uniform(8, 50, count)
    columns = (np.arange(count) + 0.5) / count * SIZE[0]
    x = (columns - PROJECTION[0, 2]) / PROJECTION[0, 0] * depth
    return _objects(types, np.column_stack([x, np.full(count, 1.6), depth]), None)


def _objects(types: list[str], location: np.ndarray, score: np.ndarray | None) -> KITTIObjects:
    dimensions = np.array([SIZES[name] for name in types])
    yaw = np.full(len(types), -1.5)
    boxes = Boxes3D.from_kitti(*map(torch.from_numpy, (location, dimensions, yaw)))
    bbox = boxes.project(Camera(torch.from_numpy(PROJECTION)), SIZE[::-1]).numpy()
    values = {"truncation": 0, "occlusion": 0} if score is None else {"score": score}
    return KITTIObjects.from_columns(
        types,
        bbox=bbox,
        dimensions=dimensions,
        location=location,
        rotation_y=yaw,
        alpha=boxes.alpha,
        **values,
    )


def _detected(random: np.random.Generator, labels: KITTIObjects, noise: float) -> KITTIObjects:
    """Nine of ten objects on their 2D boxes at a wrong depth, and one box where nothing is."""
    kept = random.random(len(labels)) < 0.9
    own = labels[kept]
    factor = np.maximum(1 + noise * random.standard_normal(len(own)), 0.5)
    found = KITTIObjects(own.types, own.values.copy())
    found.location[:, [0, 2]] *= factor[:, None]
    found.values[:, :2] = -1
    found.score[:] = random.uniform(0.4, 1, len(own))
    wrong = _objects(["Car"], np.array([[random.uniform(-9, 9), 1.6, 30.0]]), np.array([0.3]))
    return KITTIObjects.concatenate([found, wrong])


def _write_data(root: Path, ids: list[str], labels: list[KITTIObjects]) -> None:
    """Frames share one image, by links; as large in JPEG as a street."""
    folder = root / "training"
    for name in ("image_2", "calib", "label_2"):
        (folder / name).mkdir(parents=True)
    (root / "ImageSets").mkdir()
    (root / "ImageSets" / "val.txt").write_text("\n".join(ids))
    coarse = np.random.default_rng(1).integers(0, 256, (60, 200, 3), dtype=np.uint8)
    cv2.imwrite(str(root / "image.png"), cv2.resize(coarse, SIZE))
    for image_id, own in zip(ids, labels, strict=True):
        (folder / "image_2" / f"{image_id}.png").symlink_to(root / "image.png")
        write_calibration(folder / "calib" / f"{image_id}.txt", PROJECTION)
        write_objects(folder / "label_2" / f"{image_id}.txt", own)
