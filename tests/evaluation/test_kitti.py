"""KITTI's rules: golden values of the official devkit, single rules, and a slow reference."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qiml.data.kitti_format import KITTIObjects
from qiml.errors import ConfigError, DatasetError
from qiml.evaluation.kitti import (
    KITTI_CLASSES,
    KITTI_OVERLAPS,
    VISIBLE,
    Difficulty,
    evaluate,
    evaluate_files,
)
from qiml.evaluation.kitti_rules import METRICS
from tests.evaluation import slow_kitti
from tests.evaluation.hard_scenes import as_dicts, hard_frames

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def assert_equal_to_devkit(archive: Path, golden: str, folder: Path) -> None:
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    report = evaluate_files(root / "label_2", root / "data")
    expected = json.loads((GOLDEN / golden).read_text())
    assert report.evaluation.frames == expected["frames"]
    results = report.to_dict()["results"]
    assert results.keys() == expected["results"].keys()
    for name, averages in expected["results"].items():
        for average, metrics in averages.items():
            assert results[name][average].keys() == metrics.keys()
            for metric, values in metrics.items():
                # The devkit writes its curves with six digits.
                assert results[name][average][metric] == pytest.approx(values, abs=1e-4)


def test_golden_random_scenes(tmp_path):
    archive = GOLDEN / "kitti_random_scenes.tar.gz"
    assert_equal_to_devkit(archive, "kitti_random_expected.json", tmp_path)


def test_golden_real_detections(real_data, tmp_path):
    archive = real_data / "kitti_eval" / "pointgnn_car_val.tar.gz"
    assert_equal_to_devkit(archive, "kitti_pointgnn_expected.json", tmp_path)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_equals_the_slow_reference(seed):
    """100 × 20 frames, both overlap tables, every class, metric and difficulty."""
    truth, found = hard_frames(seed, frames=20)
    evaluation = evaluate(truth, found)
    truth, found = ([as_dicts(objects) for objects in frames] for frames in (truth, found))
    for table, classes in KITTI_OVERLAPS.items():
        limits = {name: {m: limit.of(m) for m in METRICS} for name, limit in classes.items()}
        slow, fast = slow_kitti.evaluate(truth, found, limits), evaluation.results(table)
        assert fast.keys() == slow.keys()
        for name, averages in slow.items():
            for average, metrics in averages.items():
                assert fast[name][average].keys() == metrics.keys()
                for metric, values in metrics.items():
                    assert fast[name][average][metric] == pytest.approx(values, abs=1e-9)


# Single rules. A road of objects far apart, each 100 pixels high, fully visible.


def road(*types: str, scores: float | list[float] = np.nan) -> KITTIObjects:
    count = len(types)
    x = 10.0 * np.arange(count)
    return KITTIObjects.from_columns(
        types,
        bbox=np.stack([100 * x, 0 * x + 50, 100 * x + 200, 0 * x + 150], axis=1),
        dimensions=[[1.5, 1.6, 4.0]] * count,
        location=np.stack([x, 0 * x + 1.7, 0 * x + 20], axis=1),
        rotation_y=0.3,
        alpha=0.1,
        truncation=0,
        occlusion=0,
        score=scores,
    )


def shifted(objects: KITTIObjects, pixels: float = 0, metres: float = 0) -> KITTIObjects:
    moved = KITTIObjects(objects.types, objects.values.copy())
    moved.bbox[:, [0, 2]] += pixels
    moved.location[:, 2] += metres
    return moved


def precision(truth, found, metric="2d", name="Car", level=1) -> float:
    """Best precision: that at the first cut-off or a later one."""
    return evaluate([truth], [found]).curves["strict"][name][metric][level][0]


def test_perfect_detections_reach_100():
    truth = [road("Car", "Pedestrian", "Cyclist") for _ in range(50)]
    scores = np.linspace(0.1, 0.9, 50)
    found = [road("Car", "Pedestrian", "Cyclist", scores=score) for score in scores]
    for averages in evaluate(truth, found).results().values():
        for metrics in averages.values():
            assert list(metrics) == list(METRICS)
            for values in metrics.values():
                assert values == pytest.approx([100, 100, 100])


def test_orientation_is_weighed():
    truth, found = road("Car"), road("Car", scores=0.5)
    for turn, expected in ((0, 1), (np.pi / 2, 0.5), (np.pi, 0), (2 * np.pi, 1)):
        found.alpha[:] = 0.1 + turn
        assert precision(truth, found, "aos") == pytest.approx(expected, abs=1e-12)


def test_orientation_is_left_out_if_one_detection_of_any_class_lacks_it():
    found = road("Car", "Truck", scores=0.5)
    found.alpha[1] = -10
    evaluation = evaluate([road("Car")], [found])
    assert list(evaluation.results()["Car"]["AP40"]) == ["2d", "bev", "3d"]


@pytest.mark.parametrize(
    ("column", "axis", "value", "lost"),
    [
        ("bbox", 0, -1, {"2d"}),
        ("location", 0, -1000, {"bev", "3d"}),
        ("location", 1, -1000, {"3d"}),
        ("location", 2, -1000, {"bev", "3d"}),
        ("dimensions", 0, 0, {"3d"}),
        ("dimensions", 1, -1, {"bev", "3d"}),
        ("dimensions", 2, 0, {"bev", "3d"}),
    ],
)
def test_a_metric_without_valid_detections_is_left_out(column, axis, value, lost):
    found = road("Car", "Pedestrian", scores=0.5)
    getattr(found, column)[0, axis] = value
    results = evaluate([road("Car", "Pedestrian")], [found]).results()
    assert set(METRICS) - set(results["Car"]["AP40"]) - {"aos"} == lost
    assert set(results["Pedestrian"]["AP40"]) == set(METRICS)


def test_a_class_without_detections_is_left_out():
    truth = road("Car", "Pedestrian")
    assert list(evaluate([truth], [road("Car", scores=1.0)]).results()) == ["Car"]


def test_nothing_to_find_and_nothing_found():
    assert evaluate([], []).results() == {}
    assert evaluate([KITTIObjects.empty()], [KITTIObjects.empty()]).results() == {}
    only_false = evaluate([KITTIObjects.empty()], [road("Car", scores=1.0)]).results()
    assert only_false["Car"]["AP40"]["3d"] == [0, 0, 0]


@pytest.mark.parametrize(
    ("name", "neighbour"), [("Car", "Van"), ("Pedestrian", "Person_sitting"), ("Car", "vAN")]
)
def test_neighbouring_classes_excuse(name, neighbour):
    found = road(name, name, scores=[0.5, 0.9])
    assert precision(road(name, neighbour), found, name=name) == 1
    assert precision(road(name, "Truck"), found, name=name) == 0.5


def test_dontcare_excuses_detections_inside_it_in_2d_only():
    truth, found = road("Car", "DontCare"), road("Car", "Car", scores=[0.5, 0.9])
    truth.values[1, 7:14] = -1, -1, -1, -1000, -1000, -1000, -10
    assert precision(truth, found) == 1
    assert precision(truth, found, "3d") == 0.5
    found.bbox[1, 0] -= 80  # 200 of 280 pixels inside: enough
    assert precision(truth, found) == 1
    found.bbox[1, 0] -= 20  # 200 of 300: too few
    assert precision(truth, found) == 0.5


@pytest.mark.parametrize(("height", "objects"), [(24, 0), (25, 0), (25.01, 1), (40, 1), (40.01, 2)])
def test_objects_must_exceed_the_least_height(height, objects):
    """Too low an object is ignored: the detection on it is neither true nor false."""
    truth, found = road("Car"), road("Car", scores=0.5)
    truth.bbox[0, 3] = found.bbox[0, 3] = 50 + height
    found.bbox[0, 3] += 2  # the detection itself is high enough
    levels = evaluate([truth], [found]).curves["strict"]["Car"]["2d"][:2, 0]
    assert levels.tolist() == [objects == 2, objects >= 1]


@pytest.mark.parametrize(("height", "counts"), [(24, 0), (24.99, 0), (25, 1), (25.9, 1), (26, 1)])
def test_detections_of_whole_pixels_must_reach_the_least_height(height, counts):
    """A false detection that is too low does not count."""
    truth, found = road("Car"), road("Car", "Car", scores=[0.5, 0.9])
    found.bbox[1, 3] = 50 + height
    assert precision(truth, found) == (0.5 if counts else 1)


def test_a_low_detection_of_another_class_is_taken_but_not_counted():
    truth = road("Car", "Car")
    truth.bbox[1, 3] = 50 + 25.5
    found = road("Car", "Pedestrian", scores=[0.5, 0.9])
    found.bbox[1, 3] = 50 + 24.9
    # The second car is matched to an ignored detection, so it is not missed: but it still is among
    # those whose number sets the levels of recall.
    assert evaluate([truth], [found]).results()["Car"]["AP40"]["2d"][1] == pytest.approx(0)
    found.types[1] = "Car"
    assert precision(truth, found) == 1


@pytest.mark.parametrize(
    ("column", "limits"), [("occlusion", (0, 1, 2)), ("truncation", (0.15, 0.3, 0.5))]
)
def test_occlusion_and_truncation_limits_are_included(column, limits):
    for level, limit in enumerate(limits):
        truth, found = road("Car"), road("Car", scores=0.5)
        getattr(truth, column)[:] = limit
        assert precision(truth, found, level=level) == 1
        getattr(truth, column)[:] = limit + 0.01
        assert precision(truth, found, level=level) == 0


def test_overlap_must_exceed_the_limit():
    truth, found = road("Pedestrian"), road("Pedestrian", scores=0.5)
    found.bbox[0, 2] += 200  # twice as wide: exactly 0.5
    assert precision(truth, found, name="Pedestrian") == 0
    found.bbox[0, 2] -= 1e-9
    assert precision(truth, found, name="Pedestrian") == 1


def test_of_equal_scores_the_first_sets_the_cutoff():
    """First pass by score, second by overlap: the worse of two overlaps is the false one."""
    truth = road("Car")
    better, worse = road("Car", scores=0.5), shifted(road("Car", scores=0.5), pixels=20)
    for order in ([better, worse], [worse, better]):
        assert precision(truth, KITTIObjects.concatenate(order)) == 0.5
    worse.score[:] = 0.9
    assert precision(truth, KITTIObjects.concatenate([better, worse])) == 1


def test_bottom_faces_are_compared():
    truth, found = road("Car"), road("Car", scores=0.5)
    found.location[:, 1] -= 0.45  # of 1.5 m height: 1.05 m in common, 1.95 m in all
    assert precision(truth, found, "bev") == 1
    assert precision(truth, found, "3d") == 0
    assert evaluate([truth], [found]).curves["relaxed"]["Car"]["3d"][0, 0] == 1
    found.dimensions[:, 0] = 1.0  # 1 m in common, 1.5 m in all
    assert precision(truth, found, "3d") == 0
    found.dimensions[:, 0] = 1.5
    found.location[:, 1] = 1.7
    assert precision(truth, found, "3d") == 1


def test_custom_difficulties():
    truth, found = road("Car", "Car"), road("Car", "Car", scores=[0.5, 0.9])
    truth.bbox[:, 3] = found.bbox[:, 3] = 50 + 12
    truth.location[1, 2] = found.location[1, 2] = 50
    near = Difficulty("near", 0, 2, 0.5, depth_range=(0, 20.5))
    evaluation = evaluate([truth], [found], difficulties=[VISIBLE, near], metrics=["3d"])
    assert evaluation.curves["strict"]["Car"]["3d"][:, 0].tolist() == [1, 1]
    assert evaluate([truth], [found]).curves["strict"]["Car"]["3d"].max() == 0
    found.rotation_y[1] += np.pi / 2  # a false detection, but out of range
    assert evaluate([truth], [found], difficulties=[near]).curves["strict"]["Car"]["3d"][0, 0] == 1


def test_wrong_arguments():
    with pytest.raises(ConfigError, match="'Bus'"):
        evaluate([], [], classes=[*KITTI_CLASSES, "Bus"])
    with pytest.raises(DatasetError, match="1 of ground truth, 0 of detections"):
        evaluate([road("Car")], [])
    with pytest.raises(DatasetError, match="frame number 1: found nan as score of a Car"):
        evaluate([road("Car")] * 2, [road("Car", scores=1.0), road("Car")])
