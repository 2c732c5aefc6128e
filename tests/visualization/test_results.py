import json

import numpy as np
import pytest

from qiml.data.kitti_format import KITTIObjects, read_objects
from qiml.data.sources import Frame, Images
from qiml.errors import OutputError
from qiml.visualization.results import ResultFolder, describe

BOX = [1.0, 0.5, 15, 1.6, 1.8, 4.0, 0.3]
FRAME = Frame("a", "folder/a.png", np.zeros((48, 64, 3), dtype=np.uint8))


def objects(**columns) -> KITTIObjects:
    bbox = np.array([[3.0, 1, 4, 2]])
    return KITTIObjects.from_boxes(["Car"], np.array([BOX]), bbox=bbox, alpha=0.2, **columns)


def test_every_frame_is_in_the_text_files_and_in_json(tmp_path):
    results = ResultFolder(tmp_path / "out")
    with results.pictures(Images([])) as write_picture:
        write_picture(FRAME, FRAME.image)
    results.add(FRAME, np.eye(3, 4), objects(score=0.75))
    results.write_json()
    files = sorted(p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.rglob("*.*"))
    assert files == ["detections.json", "kitti/a.txt", "pictures/a.jpg"]
    np.testing.assert_allclose(
        read_objects(tmp_path / "out" / "kitti" / "a.txt", scored=True).location, [[1, 1.3, 15]]
    )
    (frame,) = json.loads((tmp_path / "out" / "detections.json").read_text())["frames"]
    assert (frame["id"], frame["width"], frame["height"]) == ("a", 64, 48)
    assert frame["projection"] == np.eye(3, 4).tolist()
    (found,) = frame["objects"]
    assert found["class"] == "Car" and found["score"] == 0.75 and found["box2d"] == [3, 1, 4, 2]
    assert [*found["centre"], *found["height_width_length"], found["yaw"]] == BOX


def test_labels_have_no_score():
    json.dumps(describe(objects(truncation=0, occlusion=0)), allow_nan=False)
    assert describe(objects(truncation=0, occlusion=0))[0]["score"] is None
    assert describe(KITTIObjects.empty()) == []


def test_folders_that_cannot_be_written_to_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="file"):
            ResultFolder(folder)


def test_failing_later_is_told_too(tmp_path):
    results = ResultFolder(tmp_path)
    (tmp_path / "kitti").write_text("in the way")
    with pytest.raises(OutputError, match="may be written to"):
        results.add(FRAME, np.eye(3, 4), objects())
