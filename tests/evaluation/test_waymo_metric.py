from pathlib import Path

import numpy as np
import pytest

from qiml.errors import ConfigError, DatasetError
from qiml.evaluation.waymo_metric import average_precision, evaluate
from qiml.evaluation.waymo_rules import quantile_cutoffs, row_names
from tests.evaluation.slow_waymo import slow_precision_recall

GOLDEN = Path(__file__).parents[1] / "golden"
STRICT = {1: 0.7, 2: 0.5, 3: 0.5, 4: 0.5}
LOOSE = {1: 0.5, 2: 0.3, 3: 0.3, 4: 0.3}
VEHICLE = "OBJECT_TYPE_TYPE_VEHICLE_LEVEL_1"


def table(rows):
    return np.array([[row["AP"], row["APH"], row["APL"]] for row in rows.values()])


@pytest.fixture(scope="module")
def reference():
    return np.load(GOLDEN / "waymo_random_reference.npz")


@pytest.mark.parametrize(
    ("case", "iou", "let"),
    [("det_strict", STRICT, False), ("det_loose", LOOSE, False), ("let", LOOSE, True)],
)
def test_official_values(reference, case, iou, let):
    rows = evaluate(reference["gt"], reference["pred"], iou=iou, let=let)
    assert list(rows) == reference[f"{case}_names"].tolist()
    np.testing.assert_allclose(table(rows), reference[case], atol=1e-6)


def test_official_thresholds_are_the_default(reference):
    gt, pred = reference["gt"], reference["pred"]
    assert evaluate(gt, pred) == evaluate(gt, pred, iou=STRICT)
    assert evaluate(gt, pred, let=True) == evaluate(gt, pred, iou=LOOSE, let=True)
    named = {"Vehicle": 0.5, "TYPE_PEDESTRIAN": 0.3, "sign": 0.3, "CYCLIST": 0.3}
    assert evaluate(gt, pred, iou=named) == evaluate(gt, pred, iou=LOOSE)


def test_order_of_rows_does_not_matter(reference):
    rng = np.random.default_rng(0)
    gt, pred = rng.permutation(reference["gt"]), rng.permutation(reference["pred"])
    np.testing.assert_allclose(
        table(evaluate(gt, pred, let=True)),
        table(evaluate(reference["gt"], reference["pred"], let=True)),
        atol=1e-12,
    )


def crowd(seed):
    """A frame whose boxes overlap so much that matchings are entangled."""
    rng = np.random.default_rng(seed)
    sizes, kind = [4.0, 2.0, 1.5], 1
    gt = [[0, *rng.uniform(-2, 2, 2), 0, *sizes, rng.uniform(-3, 3), kind, rng.integers(1, 3)]
          for _ in range(4)]  # fmt: skip
    pred = [
        [*row[:1], *(row[1:4] + rng.normal(0, 0.3, 3)), *sizes, row[7] + rng.normal(0, 0.3), kind]
        for row in [*gt, *gt[:2]]
    ]
    return gt, [[*row, round(rng.random(), 3)] for row in pred]


@pytest.mark.parametrize("seed", range(20))
def test_equals_matching_anew_at_each_cutoff(seed):
    gt, pred = crowd(seed)
    rows = evaluate(np.array(gt), np.array(pred), iou={1: 0.1})
    for level in (1, 2):
        precision, heading, recall = np.array(slow_precision_recall(gt, pred, 0.1, level)).T
        row = rows[f"OBJECT_TYPE_TYPE_VEHICLE_LEVEL_{level}"]
        assert row["AP"] == pytest.approx(average_precision(precision, recall), abs=1e-5)
        assert row["APH"] == pytest.approx(average_precision(heading, recall), abs=1e-5)


def box(x=10.0, score=1.0, heading=0.0, frame=0, kind=1, y=0.0):
    return [frame, x, y, 1, 4, 2, 1.5, heading, kind, score]


def test_perfect_detections():
    rows = evaluate([box(10), box(40, kind=2)], [box(10), box(40, kind=2)])
    assert rows[VEHICLE] == {"AP": 1.0, "APH": 1.0, "APL": 1.0}
    assert rows["RANGE_TYPE_PEDESTRIAN_[30, 50)_LEVEL_2"]["AP"] == 1.0
    assert rows["RANGE_TYPE_PEDESTRIAN_[0, 30)_LEVEL_2"]["AP"] == 0.0


def test_heading_counts_by_its_smaller_turn():
    rows = evaluate([box(heading=3.1)], [box(heading=-3.1 + 4 * np.pi)])
    assert rows[VEHICLE]["APH"] == pytest.approx(1 - (2 * np.pi - 6.2) / np.pi)


def test_earlier_detection_wins_a_tie():
    pair = [box(score=0.9), box(score=0.9, heading=np.pi)]
    assert evaluate([box()], pair)[VEHICLE]["APH"] == pytest.approx(0.5)
    assert evaluate([box()], pair[::-1])[VEHICLE]["APH"] == pytest.approx(0.0)


def test_level_1_counts_found_level_2_objects_but_misses_none():
    gt, pred = [box(10, 1), box(30, 2), box(50, 2)], [box(10), box(30)]
    rows = evaluate(gt, pred)
    assert rows[VEHICLE]["AP"] == 1.0
    assert rows["OBJECT_TYPE_TYPE_VEHICLE_LEVEL_2"]["AP"] == pytest.approx(2 / 3)


def test_tolerance_is_along_the_line_of_sight():
    gt, pred = [box(50)], [box(53)]
    assert evaluate(gt, pred)[VEHICLE]["AP"] == 0
    found = evaluate(gt, pred, let=True)[VEHICLE]
    assert found["AP"] == 1 and 0.3 < found["APL"] < 0.5
    assert evaluate(gt, [box(50, y=3.0)], let=True)[VEHICLE]["AP"] == 0


def test_detections_in_no_label_zones_are_never_false():
    pred = [box(10, 0.5), box(60, 0.9)]
    assert evaluate([box(10)], pred)[VEHICLE]["AP"] == pytest.approx(0.5)
    excused = evaluate([box(10)], pred, overlap_with_nlz=np.array([False, True]))
    assert excused[VEHICLE]["AP"] == 1.0


@pytest.mark.parametrize("empty", [[], np.empty((0, 10))])
def test_nothing_to_evaluate(empty):
    for gt, pred in ((empty, empty), ([box()], empty), (empty, [box()])):
        rows = evaluate(gt, pred)
        assert list(rows) == row_names() and not table(rows).any()


def test_recall_gaps_keep_the_precision_beyond():
    # One point at recall 1: the curve is flat down to 0, as the official integration has it.
    assert average_precision(np.array([0.6]), np.array([1.0])) == pytest.approx(0.6)
    # From (0.5, 1) to (1, 0.2): the precision is 0.2 until the last 0.05, which is a slope.
    expected = 0.45 * 0.2 + 0.05 * 0.6 + 0.5 * 1.0
    assert average_precision(np.array([1, 0.2]), np.array([0.5, 1])) == pytest.approx(expected)


def test_quantile_cutoffs():
    scores = np.arange(100) / 100
    np.testing.assert_allclose(quantile_cutoffs(scores, 5), [0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(quantile_cutoffs(scores[:3], 5), [0, 0.25, 0.5, 0.75, 1.0])
    assert quantile_cutoffs(scores, 1).tolist() == [0]


@pytest.mark.parametrize(
    ("gt", "what"),
    [
        ([box()[:-1]], "shape"),
        ([box(float("nan"))], "nan as x"),
        ([box(kind=7)], "7.0 as type"),
        ([box(score=3)], "3.0 as level"),
    ],
)
def test_bad_rows(gt, what):
    with pytest.raises(DatasetError, match=what):
        evaluate(gt, [])


def test_unknown_types_are_told(caplog):
    evaluate([box(kind=0)], [box(kind=0)])
    assert "ground truth: 1 boxes of unknown type" in caplog.text


@pytest.mark.parametrize("iou", [{"Car": 0.5}, {5: 0.5}, {1: 0.0}, {1: 1.5}])
def test_bad_thresholds(iou):
    with pytest.raises(ConfigError):
        evaluate([], [], iou=iou)
