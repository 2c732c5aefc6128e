"""Waymo's records, parquet and metric files, and the index that is made of them."""

import json
import math
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from qiml.data.tfrecord import read_records, write_records
from qiml.data.waymo import load_waymo
from qiml.data.waymo_format import read_split
from qiml.data.waymo_parquet import read_image_bytes, read_v2
from qiml.data.waymo_prepare import Segment, find_segments, prepare, prepare_segment
from qiml.evaluation.waymo import evaluate_files
from tests.data.waymo_scenes import SEGMENT, labelled, scene, v1_frame, write_v2
from tests.fuzz.harness import attempt, fuzz
from tests.fuzz.mutations import damaged_bytes, damaged_document, damaged_text

RECORDS = [bytes([number]) * (40 + number) for number in range(5)]
COMPONENTS = (
    "camera_calibration", "camera_image", "lidar_box", "lidar_camera_synced_box", "projected_lidar_box",
)  # fmt: skip


@pytest.fixture(scope="module")
def protos():
    pytest.importorskip("waymo_open_dataset", reason="needs make setup-waymo")


@fuzz(200, changes=st.data())
def test_records(tmp_path_factory, changes):
    path = tmp_path_factory.getbasetemp() / "a.tfrecord"
    write_records(path, RECORDS)
    path.write_bytes(changes.draw(damaged_bytes(path.read_bytes())))
    records = attempt("tfrecord", lambda: list(read_records(path)), path)
    # Checksums tell records of a damaged file from others; whole ones may be missing or repeated.
    assert records is None or set(records) <= set(RECORDS)


def check_prepared(target: str, segment: Segment, place: object) -> None:
    """A segment is there and reads, or it is not there."""
    counts = attempt(target, lambda: prepare_segment(segment), place)
    if counts is None:
        assert not segment.part.exists()
    elif counts["frames"]:
        check_frames(Path(segment.folder).parent)
    shutil.rmtree(segment.folder, ignore_errors=True)


def check_frames(root: Path) -> None:
    for item in load_waymo(root, "train", ("FRONT",)):
        numbers = [n for a in item["annotations"] for n in (*a["box3d"], *a["bbox"], a["alpha"])]
        assert all(map(math.isfinite, numbers))


@fuzz(100, changes=st.data())
def test_frames_of_the_first_release(protos, tmp_path_factory, changes):
    base = tmp_path_factory.getbasetemp()
    path = base / "v1.tfrecord"
    (frame,) = scene(1, cameras=("FRONT",))
    message = v1_frame(frame, calibrated=("FRONT",)).SerializeToString()
    write_records(path, [changes.draw(damaged_bytes(message))])
    check_prepared("v1 frames", Segment(str(path), str(base / "v1" / "train"), 1, ("FRONT",)), path)


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    """A segment of two frames of the second release, with the front camera."""
    root = tmp_path_factory.mktemp("v2")
    write_v2(root / "in", scene(2, [labelled(0), labelled(1, 30, -3, kind=2)], ("FRONT",)))
    return root


def with_component(release: Path, component: str, data: bytes, target: str) -> None:
    """Prepare the segment with another file for one component."""
    path = release / "in" / component / f"{SEGMENT}.parquet"
    content = path.read_bytes()
    path.write_bytes(data)
    (segment,) = find_segments(str(release / "in"), release / "out", 1, ("FRONT",))
    try:
        check_prepared(target, segment, SEGMENT)
    finally:
        path.write_bytes(content)


@fuzz(80, component=st.sampled_from(COMPONENTS), changes=st.data())
def test_parquet_files(release, component, changes):
    data = (release / "in" / component / f"{SEGMENT}.parquet").read_bytes()
    with_component(release, component, changes.draw(damaged_bytes(data)), "parquet files")


@fuzz(120, component=st.sampled_from(COMPONENTS), changes=st.data())
def test_parquet_values(release, component, changes):
    rows = pq.read_table(release / "in" / component / f"{SEGMENT}.parquet").to_pylist()
    name = changes.draw(st.sampled_from(sorted(rows[0])))
    values = (None, -1, 0, 2**40, math.nan, math.inf, "a", b"", b"\xff\xd8", [], [1.0], [None])
    value = changes.draw(st.sampled_from(values))
    for row in rows[: changes.draw(st.integers(1, len(rows)))] if value is None else rows:
        row[name] = value
    if changes.draw(st.booleans()) and value is None:
        rows = [{key: item for key, item in row.items() if key != name} for row in rows]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    with_component(release, component, sink.getvalue().to_pybytes(), "parquet values")


@fuzz(60, changes=st.data(), row=st.integers(-3, 5))
def test_images_in_parquet_files(release, tmp_path_factory, changes, row):
    data = (release / "in" / "camera_image" / f"{SEGMENT}.parquet").read_bytes()
    path = tmp_path_factory.mktemp("images") / "a.parquet"  # a new one: open files are kept
    path.write_bytes(changes.draw(damaged_bytes(data)))
    found = attempt("parquet images", lambda: read_image_bytes(f"{path}#{row}"), path)
    assert found is None or isinstance(found, bytes)


def _index(release: Path) -> str:
    prepare(find_segments(str(release / "in"), release / "whole", 1, ("FRONT",)))
    return next((release / "whole" / "train").glob("*.jsonl")).read_text()


def check_index(release: Path, data: bytes) -> None:
    root = release / "index"
    path = root / "train" / "a.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    frames = attempt("Waymo index", lambda: read_split(root, "train"), path.parent)
    if frames is not None:
        assert len(frames) == len(data.decode().splitlines()) - 2
        attempt("Waymo frames", lambda: check_frames(root), root)


@fuzz(120, changes=st.data())
def test_index(release, changes):
    check_index(release, changes.draw(damaged_text(_index(release))))


@fuzz(200, line=st.integers(0, 3), changes=st.data())
def test_values_of_the_index(release, line, changes):
    lines = _index(release).splitlines()
    value = changes.draw(damaged_document(json.loads(lines[line])))
    lines[line] = json.dumps(value, default=str)
    check_index(release, "\n".join(lines).encode())


@fuzz(120, changes=st.data(), side=st.integers(0, 1), let=st.booleans())
def test_metric_files(protos, tmp_path_factory, changes, side, let):
    from waymo_open_dataset.protos import metrics_pb2

    objects = metrics_pb2.Objects()
    for number in range(3):
        item = objects.objects.add(context_name="segment", frame_timestamp_micros=number, score=0.5)
        item.object.type, item.object.num_lidar_points_in_box = 1, 9
        item.object.num_top_lidar_points_in_box = 9
        item.object.most_visible_camera_name = "FRONT"
        for box in (item.object.box, item.object.camera_synced_box):
            box.center_x, box.length, box.width, box.height = 10.0 + number, 4, 2, 1.5
    files = [tmp_path_factory.getbasetemp() / name for name in ("gt.bin", "predictions.bin")]
    for file in files:
        file.write_bytes(objects.SerializeToString())
    files[side].write_bytes(changes.draw(damaged_bytes(files[side].read_bytes())))
    attempt("metric files", lambda: evaluate_files(*files, let=let), "")


@fuzz(40, changes=st.data())
def test_frames_of_the_second_release_are_counted(release, changes):
    """What is left out is counted: none goes missing without a word."""
    rows = changes.draw(st.lists(st.sampled_from((0, 1)), max_size=3))
    table = pq.read_table(release / "in" / "camera_image" / f"{SEGMENT}.parquet")
    folder = release / "few"
    shutil.copytree(release / "in", folder, dirs_exist_ok=True)
    file = folder / "camera_image" / f"{SEGMENT}.parquet"
    pq.write_table(table.take(pa.array(rows, pa.int64())), file)
    counts = Counter()
    frames = attempt("v2 frames", lambda: list(read_v2(str(file), ("FRONT",), 1, counts)), folder)
    assert len(frames) == counts["frames"] == len(set(rows))
