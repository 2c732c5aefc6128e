import math
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qiml.data.kitti_format import (
    KNOWN_TYPES,
    KITTIObjects,
    read_calibration,
    read_objects,
    write_calibration,
    write_objects,
)
from qiml.errors import DatasetError

CAR = "Car 0.00 1 1.85 387.63 181.54 423.81 203.12 1.67 1.87 3.69 -16.53 2.39 58.49 1.57"
REGION = "DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10"


def read_text(tmp_path: Path, text: str, scored: bool = False, **options) -> KITTIObjects:
    file = tmp_path / "000007.txt"
    file.write_text(text)
    return read_objects(file, scored, **options)


def with_column(line: str, index: int, value: str) -> str:
    fields = line.split()
    fields[index] = value
    return " ".join(fields)


def test_reads_columns_in_kitti_order(tmp_path):
    objects = read_text(tmp_path, f"{CAR}\n{REGION}\n")
    assert objects.types.tolist() == ["Car", "DontCare"]
    car = objects[:1]
    assert (car.truncation, car.occlusion, car.alpha, car.rotation_y) == (0, 1, 1.85, 1.57)
    np.testing.assert_array_equal(car.bbox, [[387.63, 181.54, 423.81, 203.12]])
    np.testing.assert_array_equal(car.dimensions, [[1.67, 1.87, 3.69]])
    np.testing.assert_array_equal(car.location, [[-16.53, 2.39, 58.49]])
    assert np.isnan(objects.score).all()


def test_reads_scores(tmp_path):
    results = read_text(tmp_path, f"{CAR} 118.817\n", scored=True)
    assert results.score.tolist() == [118.817]


@pytest.mark.parametrize("text", ["", "\n", "  \n\n"])
@pytest.mark.parametrize("scored", [False, True])
def test_empty_file_is_a_frame_without_objects(tmp_path, text, scored):
    objects = read_text(tmp_path, text, scored)
    assert len(objects) == 0
    assert objects.bbox.shape == (0, 4)
    assert (objects.types == "Car").tolist() == []


def test_blank_lines_and_missing_last_newline_are_fine(tmp_path):
    assert len(read_text(tmp_path, f"{CAR}\n\n{CAR}")) == 2
    assert len(read_text(tmp_path, f"{CAR}\r\n{CAR}\r\n\r\n")) == 2


@pytest.mark.parametrize(
    ("line", "scored", "message"),
    [
        (CAR.rsplit(" ", 1)[0], False, "14 columns; expected 15 (labels)"),
        (f"{CAR} 0.5 1", False, "17 columns; expected 15 (labels)"),
        (f"{CAR} 0.5", False, "16 columns; expected 15 (labels)"),
        (CAR, True, "15 columns; expected 16 (results)"),
        (f"{CAR} 0.5 1", True, "17 columns; expected 16 (results)"),
        (with_column(CAR, 13, "far"), False, "'far' as z; expected a finite number"),
        (with_column(CAR, 3, "nan"), False, "'nan' as alpha; expected a finite number"),
        (with_column(CAR, 11, "-inf"), False, "'-inf' as x; expected a finite number"),
        (f"{CAR} nan", True, "'nan' as score; expected a finite number"),
        (with_column(CAR, 9, "-1.87"), False, "h w l = 1.67 -1.87 3.69; expected positive"),
        (with_column(CAR, 10, "0"), False, "h w l = 1.67 1.87 0; expected positive"),
        (with_column(f"{CAR} 1", 8, "-1"), True, "h w l = -1 1.87 3.69; expected positive"),
        (with_column(CAR, 6, "387.62"), False, "x1 y1 x2 y2 = 387.63 181.54 387.62 203.12"),
        (with_column(CAR, 5, "203.13"), False, "expected x1 <= x2 and y1 <= y2"),
        (with_column(CAR, 0, "Bus"), False, f"unknown class 'Bus'; expected one of "
         f"{' '.join(KNOWN_TYPES)}"),
    ],
)  # fmt: skip
def test_malformed_line_is_named(tmp_path, line, scored, message):
    good = f"{CAR} 0.5" if scored else CAR
    with pytest.raises(DatasetError, match=re.escape(message)) as caught:
        read_text(tmp_path, f"{good}\n\n{line}\n{good}\n", scored)
    assert f"{tmp_path}/000007.txt:3: found" in str(caught.value)
    assert "To mend it: " in str(caught.value)


def test_on_error_collects_every_fault_and_keeps_the_rest(tmp_path):
    faults = []
    text = "\n".join([CAR, with_column(CAR, 8, "-1"), REGION, "Car 1 2", with_column(CAR, 1, "?")])
    objects = read_text(tmp_path, text, on_error=faults.append)
    assert [str(fault).split(":")[1] for fault in faults] == ["2", "4", "5"]
    assert objects.types.tolist() == ["Car", "DontCare"]


def test_class_names(tmp_path):
    """Compared without case, kept as in the file; any name is read when asked for."""
    assert read_text(tmp_path, with_column(CAR, 0, "car")).types.tolist() == ["car"]
    bus = with_column(CAR, 0, "Bus")
    assert read_text(tmp_path, bus, known_types=None).types.tolist() == ["Bus"]
    assert read_text(tmp_path, bus, known_types=["Bus"]).types.tolist() == ["Bus"]
    with pytest.raises(DatasetError, match="one of Bus Coach"):
        read_text(tmp_path, CAR, known_types=["Bus", "Coach"])


def test_results_may_leave_3d_out(tmp_path):
    line = "Car -1 -1 -10 10 20 30 40 -1 -1 -1 -1000 -1000 -1000 -10 0.9"
    results = read_text(tmp_path, line, scored=True)
    assert results.location.tolist() == [[-1000] * 3]
    with pytest.raises(DatasetError, match="positive sizes"):
        read_text(tmp_path, line.rsplit(" ", 1)[0], scored=False)


@pytest.mark.parametrize("reader", [read_calibration, lambda path: read_objects(path, False)])
def test_unreadable_file(tmp_path, reader):
    with pytest.raises(DatasetError, match=r"absent\.txt: found no such file; expected a text"):
        reader(tmp_path / "absent.txt")
    with pytest.raises(DatasetError, match="directory"):
        reader(tmp_path)
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff")
    with pytest.raises(DatasetError, match=r"image\.png: found .*decode"):
        reader(tmp_path / "image.png")


def numbers(low: float, high: float, shape: tuple[int, ...]) -> st.SearchStrategy:
    return arrays(float, shape, elements=st.floats(low, high, allow_subnormal=False))


@st.composite
def objects_strategy(draw, scored: bool) -> KITTIObjects:
    n = draw(st.integers(0, 5))
    corners = draw(numbers(-100, 2000, (n, 2)))
    return KITTIObjects.from_columns(
        draw(st.lists(st.sampled_from(KNOWN_TYPES), min_size=n, max_size=n)),
        bbox=np.hstack([corners, corners + draw(numbers(0, 500, (n, 2)))]),
        dimensions=draw(numbers(0.1, 20, (n, 3))),
        location=draw(numbers(-100, 100, (n, 3))),
        rotation_y=draw(numbers(-4, 4, (n,))),
        alpha=draw(numbers(-4, 4, (n,))),
        truncation=draw(numbers(0, 1, (n,))),
        occlusion=draw(arrays(np.int64, n, elements=st.integers(-1, 3))),
        score=draw(numbers(-100, 100, (n,))) if scored else math.nan,
    )


@pytest.mark.parametrize("scored", [False, True])
def test_written_objects_read_back(scored):
    tolerance = np.array([0.005, 0, *[0.00005] * 12, 0.0000005]) + 1e-12

    @given(objects_strategy(scored))
    def round_trip(objects):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "000000.txt"
            write_objects(file, objects)
            again = read_objects(file, scored)
            assert [path.name for path in Path(folder).iterdir()] == ["000000.txt"]
            write_objects(file, again)  # rounding happens once
            twice = read_objects(file, scored)
        assert again.types.tolist() == objects.types.tolist()
        difference = again.values - objects.values
        assert (np.isnan(difference) | (np.abs(difference) <= tolerance)).all()
        assert (np.isnan(again.score) != scored).all()
        np.testing.assert_array_equal(twice.values, again.values)

    round_trip()


def test_written_text_is_tidy(tmp_path):
    two_d_only = KITTIObjects.from_columns(
        ["Car"], bbox=np.array([[1.0, 2.5, 3.00001, 100.0]]), score=0.25, alpha=-1e-9
    )
    write_objects(tmp_path / "r.txt", two_d_only)
    assert (tmp_path / "r.txt").read_text() == (
        "Car -1 -1 0 1 2.5 3 100 -1 -1 -1 -1000 -1000 -1000 -10 0.25\n"
    )


def test_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "000000.txt"
    file.write_text("old")
    objects = KITTIObjects.from_columns(["Car", "Car"], bbox=np.zeros((2, 4)), score=[1, math.nan])
    with pytest.raises(ValueError, match="finite"):
        write_objects(file, objects)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_index_and_concatenate(tmp_path):
    objects = read_text(tmp_path, f"{CAR}\n{REGION}\n{CAR}\n")
    assert objects[objects.types == "Car"].types.tolist() == ["Car", "Car"]
    assert objects[np.array([1, 0])].types.tolist() == ["DontCare", "Car"]
    joined = KITTIObjects.concatenate([objects[:2], KITTIObjects.empty(), objects[2:]])
    assert joined.types.tolist() == objects.types.tolist()
    np.testing.assert_array_equal(joined.values, objects.values)
    assert len(KITTIObjects.concatenate([])) == 0


def test_calibration_round_trip(tmp_path):
    projection = np.array(
        [[721.5377, 0, 609.5593, 44.85728], [0, 720, 172.854, -0.2], [0, 0, 1, 0.0027]]
    )
    write_calibration(tmp_path / "calib" / "c.txt", projection)
    np.testing.assert_allclose(read_calibration(tmp_path / "calib" / "c.txt"), projection, 1e-12)
    keys = [line.split(":")[0] for line in (tmp_path / "calib" / "c.txt").read_text().splitlines()]
    assert keys == ["P0", "P1", "P2", "P3", "R0_rect", "Tr_velo_to_cam", "Tr_imu_to_velo"]
    with pytest.raises(ValueError, match="finite 3x4"):
        write_calibration(tmp_path / "d.txt", projection * math.nan)


P2 = "P2: 700 0 600 40 0 700 180 0.2 0 0 1 0.003"


def test_p2_is_found_by_key(tmp_path):
    file = tmp_path / "c.txt"
    file.write_text("Tr_velo_to_cam: 1 2\n\nP2 : 7 0 6 1 0 7 5 0 0 0 1 0\nP0: 0\n")
    expected = [[7, 0, 6, 1], [0, 7, 5, 0], [0, 0, 1, 0]]
    np.testing.assert_array_equal(read_calibration(file), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "c.txt: found no line starting with 'P2:'"),
        (P2.replace("P2", "P3"), "c.txt: found no line starting with 'P2:'"),
        (P2.rsplit(" ", 1)[0], "c.txt:1: found 11 numbers in P2; expected 12"),
        (f"P0: 1\n{P2} 5", "c.txt:2: found 13 numbers in P2; expected 12"),
        (P2.replace("600", "nan"), "c.txt:1: found 'nan' in P2"),
        (P2.replace("600", "x"), "c.txt:1: found 'x' in P2"),
        (P2.replace("700", "0"), "c.txt:1: found focal lengths 0 and 0 in P2"),
    ],
)
def test_malformed_calibration(tmp_path, text, message):
    (tmp_path / "c.txt").write_text(text)
    with pytest.raises(DatasetError, match=re.escape(message)):
        read_calibration(tmp_path / "c.txt")


def test_real_labels_survive_a_round_trip(real_data, tmp_path):
    """KITTI's labels have two decimals, so writing them loses nothing."""
    files = sorted((real_data / "kitti/training/label_2").iterdir())
    assert len(files) == 54
    for file in files:
        objects = read_objects(file, scored=False)
        write_objects(tmp_path / file.name, objects)
        again = read_objects(tmp_path / file.name, scored=False)
        assert again.types.tolist() == objects.types.tolist()
        np.testing.assert_array_equal(again.values, objects.values)
