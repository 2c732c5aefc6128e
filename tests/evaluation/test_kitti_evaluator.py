"""The Detectron2 evaluator: from instances to result files and numbers."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation.testing import flatten_results_dict, print_csv_format
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from qiml.data.kitti import load_kitti_format, register_kitti_format
from qiml.data.kitti_format import read_objects
from qiml.errors import DatasetError
from qiml.evaluation.kitti import KITTI_DIFFICULTIES, VISIBLE
from qiml.evaluation.kitti_evaluator import KITTIEvaluator
from qiml.structures.boxes3d import Boxes3D

NAME = "kitti_format:/some where:val"


@pytest.fixture
def frames(kitti_folder):
    """Frames of a registered dataset."""
    root = kitti_folder(frames=50, split="val")
    register_kitti_format(NAME, root, "val")
    yield load_kitti_format(root, "val")
    DatasetCatalog.pop(NAME)
    MetadataCatalog.pop(NAME)


def replace_metadata(**metadata) -> None:
    """Metadata may be set only once."""
    MetadataCatalog.pop(NAME)
    MetadataCatalog.get(NAME).set(**metadata)


def detect(frame: dict, score: float = 0.5) -> dict:
    """The truth as a detector would say it."""
    truth = frame["annotations"]
    instances = Instances((frame["height"], frame["width"]))
    instances.pred_boxes = Boxes(torch.tensor([a["bbox"] for a in truth]))
    instances.pred_boxes3d = Boxes3D(torch.tensor([a["box3d"] for a in truth]))
    instances.pred_alpha = torch.tensor([a["alpha"] for a in truth])
    instances.pred_classes = torch.tensor([a["category_id"] for a in truth])
    instances.scores = torch.full((len(truth),), score)
    return {"instances": instances}


def process(evaluator: KITTIEvaluator, frames: list[dict]) -> None:
    evaluator.reset()
    for number, frame in enumerate(frames):
        evaluator.process([frame], [detect(frame, 0.1 + 0.01 * number)])


def test_the_truth_reaches_100(frames, tmp_path):
    evaluator = KITTIEvaluator(NAME, tmp_path, difficulties=(*KITTI_DIFFICULTIES, VISIBLE))
    process(evaluator, frames)
    results = evaluator.evaluate()
    print_csv_format(results)
    flat = flatten_results_dict(results)
    for name in ("Car", "Pedestrian", "Cyclist"):
        for metric in ("2d", "aos", "bev", "3d"):
            for group in ("bbox3d", "bbox3d_relaxed"):
                assert flat[f"{group}/{name}/AP40_{metric}_visible"] == pytest.approx(100, abs=1e-3)
    assert flat["depth_error/Car/mean_0-20 m"] == pytest.approx(0, abs=1e-3)
    written = json.loads((tmp_path / "kitti_kitti_format_some_where_val.json").read_text())
    assert written["order"] == ["easy", "moderate", "hard", "visible"]
    assert written["results"]["Car"]["AP40"]["3d"][3] == pytest.approx(100)


def test_result_files_say_what_the_label_files_say(frames, tmp_path):
    evaluator = KITTIEvaluator(NAME, tmp_path)
    process(evaluator, frames)
    evaluator.evaluate()
    folder = tmp_path / "kitti_results" / "kitti_format_some_where_val" / "data"
    labels = MetadataCatalog.get(NAME).label_dir
    for frame in frames[:3]:
        found = read_objects(folder / f"{frame['image_id']}.txt", scored=True)
        truth = read_objects(f"{labels}/{frame['image_id']}.txt", scored=False)[:3]
        assert found.types.tolist() == truth.types.tolist()
        assert found.values[:, 2:14] == pytest.approx(truth.values[:, 2:14], abs=2e-4)
        assert np.all(found.values[:, :2] == -1)


def test_files_of_an_earlier_run_do_not_stay(frames, tmp_path):
    evaluator = KITTIEvaluator(NAME, tmp_path)
    process(evaluator, frames)
    evaluator.evaluate()
    (stale,) = tmp_path.glob("kitti_results/*/data/000001.txt")
    (stale.parent / "999999.txt").write_text("")
    process(evaluator, frames)
    evaluator.evaluate()
    assert len(list(stale.parent.iterdir())) == len(frames)
    assert len(list(stale.parents[2].iterdir())) == 1  # no temporary folder left


def test_nothing_detected_gives_zeros(frames, tmp_path):
    evaluator = KITTIEvaluator(NAME, tmp_path)
    evaluator.reset()
    for frame in frames:
        output = detect(frame)
        evaluator.process([frame], [{"instances": output["instances"][[]]}])
    results = evaluator.evaluate()
    assert set(results["bbox3d"].values()) == {0.0}
    assert len(results["bbox3d"]) == 3 * 4 * 3


def test_frames_not_processed_are_an_error(frames, tmp_path):
    evaluator = KITTIEvaluator(NAME, tmp_path)
    process(evaluator, frames[:-1])
    with pytest.raises(DatasetError, match="without result file: 000049"):
        evaluator.evaluate()


def test_detections_that_are_not_finite_are_left_out(frames, tmp_path, caplog):
    evaluator = KITTIEvaluator(NAME, tmp_path)
    process(evaluator, frames)
    broken = detect(frames[0])
    broken["instances"].pred_boxes3d.tensor[0, 2] = torch.nan
    evaluator.process([frames[0]], [broken])
    assert "1 of 3 detections are not finite" in caplog.text
    assert 90 < evaluator.evaluate()["bbox3d"]["Car/AP40_3d_moderate"] <= 100


def test_without_labels_only_files_are_written(frames, tmp_path):
    replace_metadata(thing_classes=MetadataCatalog.get(NAME).thing_classes, label_dir=None)
    evaluator = KITTIEvaluator(NAME, tmp_path)
    process(evaluator, frames)
    assert evaluator.evaluate() == {}
    assert len(list(tmp_path.glob("kitti_results/*/data/*.txt"))) == len(frames)
    assert not list(tmp_path.glob("*.json"))


def test_parts_of_all_workers_are_joined(frames, tmp_path, monkeypatch):
    """As seen from the main process, and from another one."""
    other, main = (KITTIEvaluator(NAME, tmp_path / "out") for _ in range(2))
    process(other, frames[:20])
    process(main, frames[20:])
    sent = []
    monkeypatch.setattr(comm, "gather", lambda data, dst: sent.append(data) or sent)
    monkeypatch.setattr(comm, "is_main_process", lambda: len(sent) == 2)
    assert other.evaluate() == {}
    assert not (tmp_path / "out").exists()
    assert main.evaluate()["bbox3d"]["Car/AP40_3d_moderate"] > 90


def test_classes_without_overlaps_are_not_evaluated(frames, tmp_path, caplog):
    replace_metadata(thing_classes=["Car", "Bus"], label_dir=None)
    KITTIEvaluator(NAME, tmp_path)
    assert "Bus" in caplog.text


def test_a_folder_of_labels_that_is_not_there_costs_no_results(frames, tmp_path, caplog):
    missing = str(tmp_path / "label_2")
    replace_metadata(thing_classes=MetadataCatalog.get(NAME).thing_classes, label_dir=missing)
    evaluator = KITTIEvaluator(NAME, tmp_path)
    process(evaluator, frames)
    assert evaluator.evaluate() == {}
    assert f"no such folder: {missing}" in caplog.text
    assert len(list(tmp_path.glob("kitti_results/*/data/*.txt"))) == len(frames)
