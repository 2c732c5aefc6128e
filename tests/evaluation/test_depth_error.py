"""Errors of matched detections, and what they cost."""

import numpy as np
import pytest

from qiml.data.kitti_format import KITTIObjects
from qiml.evaluation.depth_error import (
    calibrated,
    component_errors,
    depth_errors,
    replaced_by_truth,
)
from qiml.evaluation.kitti import KITTI_DIFFICULTIES, KITTI_OVERLAPS
from qiml.evaluation.kitti_table import ObjectTable
from tests.evaluation.test_kitti import road

HARD = KITTI_DIFFICULTIES[-1]


def tables(truth: KITTIObjects, found: KITTIObjects) -> tuple[ObjectTable, ObjectTable]:
    gt, dt = ObjectTable.from_frames([truth], False), ObjectTable.from_frames([found], True)
    return gt, dt


def test_depth_errors_by_range():
    truth, found = road("Car", "Car", "Car"), road("Car", "Car", "Car", scores=0.5)
    truth.location[:, 2] = 10, 30, 60
    found.location[:, 2] = 9, 33, 61
    found.bbox[2] += 1000  # not matched
    errors = depth_errors(*tables(truth, found), ["Car", "Cyclist"], HARD)
    assert list(errors) == ["Car"]
    near, middle, far = errors["Car"].values()
    assert near == {
        "objects": 1, "matched": 1, "mean": 1, "median": 1, "bias": -1, "relative": 10,
    }  # fmt: skip
    assert middle["bias"] == 3 and middle["relative"] == pytest.approx(10)
    assert far["objects"] == 1 and far["matched"] == 0 and far["mean"] is None


def test_the_best_scored_detection_is_matched_and_each_only_once():
    truth = road("Car")
    found = KITTIObjects.concatenate([road("Car", scores=0.5), road("Car", scores=0.9)])
    found.location[1, 2] += 5
    assert depth_errors(*tables(truth, found), ["Car"], HARD)["Car"]["20-40 m"]["mean"] == 5
    truth = KITTIObjects.concatenate([truth, truth])
    assert depth_errors(*tables(truth, found), ["Car"], HARD)["Car"]["20-40 m"]["mean"] == 2.5


def test_detections_without_3d_box_are_left_out():
    truth, found = road("Car"), road("Car", scores=0.5)
    found.location[:] = -1000
    assert depth_errors(*tables(truth, found), ["Car"], HARD)["Car"]["20-40 m"]["matched"] == 0
    assert component_errors(*tables(truth, found), ["Car"], HARD) == {}


def test_calibrated_detections_are_right_on_the_median():
    truth, found = road("Car", "Car", "Car"), road("Car", "Car", "Car", scores=0.5)
    truth.location[:, 2] = 10, 30, 40
    found.location[:] = truth.location
    centres = found.location - [0, 1.5 / 2, 0]
    found.location[:] = centres * [[1.1], [1.25], [1.3]] + [0, 1.5 / 2, 0]
    gt, dt = tables(truth, found)
    mended = calibrated(gt, dt, "Car", HARD).objects
    np.testing.assert_allclose(mended.location[1], truth.location[1])
    np.testing.assert_allclose(mended.location[:, 2], found.location[:, 2] / 1.25)
    assert not np.allclose(dt.objects.location[1], truth.location[1])  # as it was
    nothing = tables(truth, found[:0])
    assert calibrated(*nothing, "Car", HARD) is nothing[1]


def test_components():
    truth, found = road("Car"), road("Car", scores=0.5)
    truth.location[:] = found.location[:] = 5, 2, 20
    middle = 2 - 1.5 / 2
    found.location[:] = 5 * 1.1, middle * 1.1 + 1.5 / 2, 20 * 1.1  # along the viewing ray
    found.rotation_y[:] += 2 * np.pi - 0.1
    found.dimensions[:, 1] += 0.3
    errors = component_errors(*tables(truth, found), ["Car"], HARD)["Car"]
    assert errors["depth"]["mean"] == pytest.approx(2)
    assert errors["lateral"]["mean"] == pytest.approx(0, abs=1e-12)
    assert errors["size"]["mean"] == pytest.approx(0.1)
    assert errors["heading"]["mean"] == pytest.approx(np.degrees(0.1))


@pytest.mark.parametrize("wrong", ["depth", "lateral", "size", "heading"])
def test_replacing_the_wrong_component_mends_the_detections(wrong):
    names = ["Car"] * 100
    truth, found = road(*names), road(*names, scores=list(np.linspace(0.1, 0.9, 100)))
    truth.location[:, 0] = found.location[:, 0] = np.linspace(-300, 300, 100)
    if wrong == "depth":
        found.location[:, 1] -= 0.75  # to the centre, out along the viewing ray, and back
        found.location[:] *= 1.1
        found.location[:, 1] += 0.75
    elif wrong == "lateral":
        found.location[:, 0] += 2
    elif wrong == "size":
        found.dimensions[:] *= 1.5
        found.location[:, 1] += 0.25 * 1.5
    else:
        found.rotation_y[:] += np.pi / 2
    evaluations = replaced_by_truth(
        *tables(truth, found), ["Car"], KITTI_DIFFICULTIES, KITTI_OVERLAPS
    )
    ap = {what: e.results()["Car"]["AP40"]["3d"][0] for what, e in evaluations.items()}
    mended = {f"true {wrong}", "all true"}
    mended |= {"true location"} if wrong in ("depth", "lateral") else set()
    assert {what for what, value in ap.items() if value == pytest.approx(100)} == mended
    assert all(value == 0 for what, value in ap.items() if what not in mended)
