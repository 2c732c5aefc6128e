"""Waymo's evaluator: from instances in cameras to rows in the vehicle frame and tables by protocol."""

import json
import sys

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Instances

from qiml.data.waymo import register_waymo
from qiml.data.waymo_format import read_split
from qiml.data.waymo_prepare import find_segments, prepare
from qiml.errors import DatasetError
from qiml.evaluation.waymo_evaluator import WaymoEvaluator
from qiml.structures.boxes3d import Boxes3D
from tests.data.waymo_scenes import labelled, scene, write_v2

NAME = "waymo_format:/some where:val:FRONT"


def make(tmp_path, split="validation", cameras=("FRONT",), synced=True, name=NAME):
    side = {"SIDE_LEFT": [30.0, 30.0, 9.0, 9.0]}
    objects = [
        labelled(0, 20, points=100),
        labelled(1, 40, kind=2, points=3),
        labelled(2, -0.5, 15, boxes2d=side),
    ]
    for item in objects:
        item["synced"] = item["box"] if synced else None
    write_v2(tmp_path / "in" / split, scene(10, objects))
    prepare(find_segments(str(tmp_path / "in"), tmp_path / "waymo", 1, ("FRONT", "SIDE_LEFT")))
    short = {"validation": "val", "testing": "test"}[split]
    register_waymo(name, tmp_path / "waymo", short, cameras)
    return DatasetCatalog.get(name)


def detect(frame, score, shift=0.0):
    """The truth as a detector would say it."""
    truth = frame.get("annotations", [])
    boxes = torch.tensor([a["box3d"] for a in truth], dtype=torch.float32).reshape(-1, 7)
    boxes[:, 2] += shift
    instances = Instances((frame["height"], frame["width"]))
    instances.pred_boxes3d = Boxes3D(boxes)
    instances.pred_classes = torch.tensor([a["category_id"] for a in truth], dtype=torch.int64)
    instances.scores = torch.full((len(truth),), score)
    return {"instances": instances}


def evaluate(name, folder, frames, **options):
    evaluator = WaymoEvaluator(name, folder)
    evaluator.reset()
    for number, frame in enumerate(frames):
        evaluator.process([frame], [detect(frame, 0.1 + 0.05 * number, **options)])
    return evaluator.evaluate()


def test_the_truth_reaches_100_by_every_protocol(tmp_path):
    results = evaluate(NAME, tmp_path / "out", make(tmp_path))
    names = ["official", "official_relaxed", "let"]
    names += ["mono_front_legacy", "mono_front_legacy_relaxed"]
    assert list(results) == names
    for values in results.values():
        assert values["Vehicle/APH_L1"] == pytest.approx(100, abs=1e-3)
        assert values["Pedestrian/AP_L2"] == pytest.approx(100)
    for name in names:
        file = tmp_path / "out" / f"waymo_waymo_format_some_where_val_FRONT_{name}.json"
        assert json.loads(file.read_text())["protocol"] in name


def test_protocols_differ_where_the_detector_errs_in_depth(tmp_path):
    results = evaluate(NAME, tmp_path / "out", make(tmp_path), shift=0.5)
    assert results["official"]["Vehicle/AP_L1"] == pytest.approx(100)
    assert results["mono_front_legacy"]["Vehicle/AP_L1"] == 0
    assert 0 < results["let"]["Vehicle/APL_L1"] < results["let"]["Vehicle/AP_L1"]


def test_detections_of_all_cameras_meet_in_the_vehicle_frame(tmp_path):
    name = "waymo_two_cameras"
    frames = make(tmp_path, cameras=("FRONT", "SIDE_LEFT"), name=name)
    assert [len(frame["annotations"]) for frame in frames[:2]] == [2, 1]
    results = evaluate(name, tmp_path / "out", frames)
    assert list(results) == ["official", "official_relaxed", "let"]
    assert results["official"]["Vehicle/APH_L1"] == pytest.approx(100, abs=1e-3)
    # Two vehicles a frame, one of them seen from the side alone.
    evaluator = WaymoEvaluator(name, tmp_path / "out")
    for frame in frames:
        seen = frame if frame["waymo"]["camera"] == "FRONT" else {**frame, "annotations": []}
        evaluator.process([frame], [detect(seen, 0.5)])
    assert evaluator.evaluate()["official"]["Vehicle/AP_L1"] == pytest.approx(50)


def test_release_without_synced_boxes(tmp_path):
    results = evaluate(NAME, tmp_path / "out", make(tmp_path, synced=False))
    assert "let" not in results


def test_test_split_is_only_written(tmp_path):
    frames = make(tmp_path, split="testing", name="waymo_test_frames")
    assert all("annotations" not in frame for frame in frames)
    assert evaluate("waymo_test_frames", tmp_path / "out", frames) == {}


def test_missing_frames_and_wrong_numbers(tmp_path, caplog):
    frames = make(tmp_path)
    evaluator = WaymoEvaluator(NAME, tmp_path / "out")
    evaluator.process(frames[:1], [detect(frames[0], float("nan"))])
    assert "2 of 2 detections are not finite" in caplog.text
    with pytest.raises(DatasetError, match="no detections for 9 images"):
        evaluator.evaluate()


def test_file_for_the_official_tools(tmp_path):
    pytest.importorskip("waymo_open_dataset", reason="needs make setup-waymo")
    from qiml.evaluation.waymo_files import FrameNumbers, read_predictions

    frames = make(tmp_path)
    evaluate(NAME, tmp_path / "out", frames)
    numbers = FrameNumbers()
    (file,) = (tmp_path / "out").glob("*.bin")
    rows, _ = read_predictions(file, numbers)
    original = read_split(tmp_path / "waymo", "val")
    assert next(iter(numbers.numbers))[:2] == (original[0].context, original[0].timestamp)
    boxes = [item.box for item in original[0].objects if "FRONT" in item.boxes2d]
    np.testing.assert_allclose(rows[:2, 1:8], boxes, atol=1e-5)


def test_warns_without_protocol_buffers(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "waymo_open_dataset.protos", None)
    evaluate(NAME, tmp_path / "out", make(tmp_path))
    assert "make setup-waymo" in caplog.text
    assert not list((tmp_path / "out").glob("*.bin"))
