import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from qiml.data import waymo_parquet
from qiml.data.images import read_image
from qiml.data.waymo import load_waymo
from qiml.data.waymo_format import WaymoFrame, WaymoObject, keep_usable, parse_cameras, read_split
from qiml.data.waymo_kitti import export_kitti
from qiml.data.waymo_parquet import read_image_bytes
from qiml.data.waymo_prepare import find_segments, prepare, prepare_segment
from qiml.errors import ConfigError, DatasetError
from tests.data.waymo_scenes import NUMBERS, SEGMENT, SIZE, labelled, scene, write_v1, write_v2

ROOT = Path(__file__).parents[2]
ALL = tuple(NUMBERS)


@pytest.fixture
def protos():
    pytest.importorskip("waymo_open_dataset", reason="needs make setup-waymo")


def prepared(root: Path, out: Path, cameras=("FRONT",), every=1, **options):
    return prepare(find_segments(str(root), out, every, cameras, **options))


def without_files(dicts):
    return [{key: value for key, value in item.items() if key != "file_name"} for item in dicts]


def test_v2_reads_as_v1_does(protos, tmp_path):
    frames = scene(
        3, [labelled(0), labelled(1, kind=2, synced=False), labelled(2, points=0, kind=3)]
    )
    write_v1(tmp_path / "v1" / "training" / f"{SEGMENT}.tfrecord", frames)
    write_v2(tmp_path / "v2" / "training", frames)
    one, two = (prepared(tmp_path / v, tmp_path / f"out_{v}", ALL) for v in ("v1", "v2"))
    assert one.counts == two.counts
    first, second = (load_waymo(tmp_path / f"out_{v}", "train", ALL) for v in ("v1", "v2"))
    assert len(first) == 15 and without_files(first) == without_files(second)
    assert [a["category_id"] for a in first[0]["annotations"]] == [0, 1]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(read_image(a["file_name"]), read_image(b["file_name"]))


def test_images_are_stored_as_they_are(protos, tmp_path):
    frames = scene(2)
    write_v1(tmp_path / "in" / f"{SEGMENT}.tfrecord", frames)
    prepared(tmp_path / "in", tmp_path / "out", ALL)
    for frame in read_split(tmp_path / "out", "train"):
        source = next(f for f in frames if f["timestamp"] == frame.timestamp)
        for camera, name in frame.images.items():
            assert (tmp_path / "out" / "train" / name).read_bytes() == source["images"][camera]


def test_every_third_frame_trains_and_every_frame_evaluates(tmp_path):
    for split in ("training", "validation"):
        write_v2(tmp_path / "in" / split, scene(7))
    prepared(tmp_path / "in", tmp_path / "out", every=3)
    stamps = {s: [f.timestamp for f in read_split(tmp_path / "out", s)] for s in ("train", "val")}
    assert stamps["train"] == [1_000_000, 1_300_000, 1_600_000]
    assert len(stamps["val"]) == 7


def test_a_row_of_a_parquet_file(tmp_path):
    frames = scene(3)
    write_v2(tmp_path, frames)
    file = tmp_path / "camera_image" / f"{SEGMENT}.parquet"
    assert read_image_bytes(f"{file}#0") == frames[2]["images"]["FRONT"]
    assert read_image_bytes(f"{file}#14") == frames[0]["images"]["SIDE_RIGHT"]
    with pytest.raises(DatasetError, match="no such row"):
        read_image_bytes(f"{file}#15")
    with pytest.raises(DatasetError, match="does not read"):
        read_image_bytes(f"{tmp_path}/none.parquet#0")


def test_resumes_where_it_stopped(tmp_path, monkeypatch):
    for name in ("a", "b"):
        write_v2(tmp_path / "in", scene(1), name)
    segments = find_segments(str(tmp_path / "in"), tmp_path / "out", 1, ("FRONT",))
    prepare_segment(segments[0])
    before = segments[0].part.stat().st_mtime_ns
    summary = prepare(segments)
    assert summary.resumed == 1 and summary.counts["train"]["frames"] == 2
    assert segments[0].part.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"prepared with .*'every': 1"):
        prepare(find_segments(str(tmp_path / "in"), tmp_path / "out", 2, ("FRONT",)))


def test_an_interrupted_segment_leaves_no_index(tmp_path, monkeypatch):
    write_v2(tmp_path / "in", scene(3))
    written = []

    def stop(self):
        written.append(self)
        if len(written) == 2:
            raise KeyboardInterrupt
        return "{}"

    monkeypatch.setattr(WaymoFrame, "to_json", stop)
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path / "in", tmp_path / "out")
    assert not list((tmp_path / "out" / "train").glob("*.jsonl"))


def test_counts_what_is_left_out():
    box = (10.0, 0, 1, 4, 2, 1.5, 4.0)
    boxes2d = {"FRONT": (0, 0, 9, 9)}
    objects = [
        WaymoObject("ok", 1, box, (*box[:6], -9.0), 5, boxes2d=boxes2d),
        WaymoObject("elsewhere", 4, (*box[:6], 1.0), points=5),
        WaymoObject("unknown", 0, box, points=5),
        WaymoObject("sign", 3, box, points=5),
        WaymoObject("hidden", 1, box),
        WaymoObject("flat", 1, (*box[:3], 4, 0, 1.5, 0), points=5),
        WaymoObject("nan", 1, (math.nan, *box[1:]), points=5),
    ]
    counts = Counter()
    kept = keep_usable(objects, ["FRONT"], counts)
    assert [item.id for item in kept] == ["ok", "elsewhere"]
    assert kept[0].box[6] == pytest.approx(4.0 - 2 * math.pi)
    assert kept[0].synced_box[6] == pytest.approx(-9.0 + 2 * math.pi)
    assert counts == {
        "objects: Vehicle": 1,
        "objects: Cyclist": 1,
        "objects without a projected label in these images": 1,
        "corrected: headings beyond ±π": 1,
        "skipped: objects of unknown type": 1,
        "skipped: signs": 1,
        "skipped: objects without LiDAR points": 1,
        "skipped: objects without size": 1,
        "skipped: objects whose box is not finite": 1,
    }


def test_missing_images_calibrations_and_labels_are_counted(protos, tmp_path):
    frames = scene(1, cameras=("FRONT",)) + scene(1, objects=[])
    write_v1(tmp_path / "in" / "a.tfrecord", frames, calibrated=("FRONT", "SIDE_LEFT"))
    counts = prepared(tmp_path / "in", tmp_path / "out", ("FRONT_LEFT", "SIDE_LEFT")).counts[
        "train"
    ]
    assert counts == {
        "frames": 1,
        "frames without labels": 1,
        "skipped: images of FRONT_LEFT, not there": 1,
        "skipped: images of SIDE_LEFT, not there": 1,
        "skipped: images of FRONT_LEFT, without calibration": 1,
        "skipped: frames without any wanted image": 1,
    }


def test_release_without_lidar_points(protos, tmp_path):
    write_v1(tmp_path / "a.tfrecord", scene(1, [labelled(0, points=None)]))
    (failure,) = prepared(tmp_path, tmp_path / "out").failures
    assert "record 0" in failure and "release 1.1 or later" in failure


@pytest.mark.parametrize("component", ["camera_calibration", "projected_lidar_box"])
def test_missing_component(tmp_path, component):
    write_v2(tmp_path / "in", scene(1))
    (tmp_path / "in" / component / f"{SEGMENT}.parquet").unlink()
    (failure,) = prepared(tmp_path / "in", tmp_path / "out").failures
    assert component in failure and "no such file" in failure


def test_release_without_synced_boxes_and_labels(tmp_path):
    write_v2(tmp_path / "in" / "validation", scene(1, [labelled(0, synced=False)]))
    write_v2(tmp_path / "in" / "testing", scene(2, []))
    counts = prepared(tmp_path / "in", tmp_path / "out").counts
    assert counts["val"]["objects: Vehicle"] == 1
    assert counts["test"] == {"frames": 2, "frames without labels": 2}


def test_nothing_found(tmp_path):
    with pytest.raises(DatasetError, match=r"no \.tfrecord files"):
        find_segments(str(tmp_path), tmp_path / "out", 1, ("FRONT",))
    with pytest.raises(DatasetError, match=r"s4://"):
        find_segments("s4://bucket", tmp_path / "out", 1, ("FRONT",))


def test_a_file_system_that_does_not_answer_is_no_full_disk(tmp_path, monkeypatch):
    write_v2(tmp_path / "in", scene(1))

    class Silent:
        def get_file_info(self, _):
            raise OSError("no network")

    monkeypatch.setattr(waymo_parquet, "open_filesystem", lambda path: (Silent(), str(path)))
    with pytest.raises(DatasetError, match=f"{tmp_path}/in.*: found no network"):
        find_segments(str(tmp_path / "in"), tmp_path / "out", 1, ("FRONT",))


def test_a_source_image_that_is_gone_is_named(tmp_path):
    write_v2(tmp_path / "in", scene(1))
    prepared(tmp_path / "in", tmp_path / "out")
    for path in (tmp_path / "in").rglob("camera_image/*.parquet"):
        path.unlink()
    for path in (tmp_path / "out").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"no such file|does not read"):
        export_kitti(tmp_path / "out", tmp_path / "kitti")


def test_parse_cameras():
    assert parse_cameras("all") == ALL
    assert parse_cameras("front,side_left") == ("FRONT", "SIDE_LEFT")
    with pytest.raises(ConfigError, match="'REAR'"):
        parse_cameras("FRONT,REAR")


def test_unreadable_index(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.jsonl").write_text(json.dumps({"version": 0}) + "\n" + "{}\n")
    with pytest.raises(DatasetError, match="prepare_waymo"):
        read_split(tmp_path, "train")


def run_tool(*words):
    command = [sys.executable, "tools/prepare_waymo.py", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_tool(protos, tmp_path):
    write_v1(tmp_path / "in" / "good.tfrecord", scene(4))
    bad = write_v1(tmp_path / "in" / "bad.tfrecord", scene(2))
    data = bytearray(bad.read_bytes())
    data[1000] ^= 1
    bad.write_bytes(data)
    done = run_tool(
        tmp_path / "in", "--out", tmp_path / "out", "--workers", 2, "--kitti", tmp_path / "k"
    )
    # What reads is there; what does not is named, and the exit code says so.
    assert done.returncode == 2 and "FAILED bad" in done.stdout and "record 0" in done.stdout
    assert [f.timestamp for f in read_split(tmp_path / "out", "train")] == [1_000_000, 1_300_000]
    assert "objects: Vehicle" in done.stdout

    from qiml.data.kitti import load_kitti_format

    exported = load_kitti_format(tmp_path / "k", "train", ("Car", "Pedestrian"))
    original = load_waymo(tmp_path / "out", "train")
    for a, b in zip(exported, original, strict=True):
        assert (a["width"], a["height"]) == SIZE and a["image_id"] == b["image_id"]
        np.testing.assert_allclose(a["camera"], b["camera"], atol=1e-9)
        for x, y in zip(a["annotations"], b["annotations"], strict=True):
            np.testing.assert_allclose(x["box3d"], y["box3d"], atol=2e-4)


def test_tool_errors(tmp_path):
    done = run_tool(tmp_path, "--out", tmp_path / "out", "--every", 0)
    assert done.returncode == 2 and "--every" in done.stderr
    done = run_tool(tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.strip().splitlines()[-1].startswith("error: ")
