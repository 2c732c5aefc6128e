import numpy as np
import pytest
import torch

from qiml.data.images import read_image
from qiml.data.synthetic import write_dataset
from qiml.data.waymo import load_waymo
from qiml.structures.boxes3d import Boxes3D
from qiml.structures.camera import Camera
from tools.make_synthetic import print_waymo_summary


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets") / "synthetic_waymo"
    assert write_dataset(root, 25, 5, (192, 128), workers=1, style="waymo")
    assert not write_dataset(root, 25, 5, (192, 128), workers=1, style="waymo")
    return root


def test_splits(root):
    train, val = load_waymo(root, "train"), load_waymo(root, "val")
    assert len(train) == 25 and len(val) == 5
    assert not {f["image_id"] for f in train} & {f["image_id"] for f in val}
    for frame in val:
        image = read_image(frame["file_name"])
        assert image.shape[:2] == (frame["height"], frame["width"]) == (128, 192)


def test_camera_is_waymos(root):
    for frame in load_waymo(root, "train"):
        camera = np.array(frame["camera"])
        # A field of view of 50°; KITTI's is 81°.
        assert 2 * np.degrees(np.arctan(96 / camera[0, 0])) == pytest.approx(50, abs=2)
        assert not camera[:, 3].any()


def test_boxes_project_onto_their_labels(root):
    frames = load_waymo(root, "train")
    kinds = {a["category_id"] for frame in frames for a in frame["annotations"]}
    assert kinds == {0, 1, 2}
    for frame in frames:
        boxes = Boxes3D([a["box3d"] for a in frame["annotations"]])
        projected = boxes.project(Camera(torch.tensor(frame["camera"])), (128, 192)).numpy()
        for box, annotation in zip(projected, frame["annotations"], strict=True):
            if annotation["box3d"][2] > 5:  # nearer boxes are cut at different near planes
                np.testing.assert_allclose(box, annotation["bbox"], atol=0.01)
            assert annotation["num_lidar_points"] >= 1


def test_a_split_without_frames_is_left_out_of_the_summary(tmp_path, capsys):
    write_dataset(tmp_path / "data", 1, 0, (96, 64), workers=1, style="waymo")
    print_waymo_summary(tmp_path / "data")
    assert "1 frames" in capsys.readouterr().out
