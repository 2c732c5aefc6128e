import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from qiml.config import load_config
from qiml.data.catalog import register_datasets
from qiml.data.mapper import MonocularMapper
from qiml.data.waymo import load_waymo, register_waymo
from qiml.data.waymo_prepare import find_segments, prepare
from qiml.errors import ConfigError, DatasetError
from qiml.structures.boxes3d import Boxes3D
from qiml.structures.camera import Camera
from tests.data.waymo_scenes import NUMBERS, labelled, scene, write_v2


@pytest.fixture
def root(tmp_path):
    side = labelled(1, -0.5, 20, kind=4, boxes2d={"SIDE_LEFT": [30.0, 30.0, 9.0, 9.0]})
    unseen, empty = labelled(2, boxes2d={}), labelled(3, boxes2d={"FRONT": [20.0, 20.0, 0.0, 5.0]})
    write_v2(tmp_path / "in" / "training", scene(2, [labelled(0, points=120), side, unseen, empty]))
    prepare(find_segments(str(tmp_path / "in"), tmp_path / "waymo", 1, tuple(NUMBERS)))
    return tmp_path / "waymo"


def test_front_camera(root):
    first, second = load_waymo(root, "train")
    assert first["image_id"] == "1000_000_000_020_000_1000000_FRONT"
    assert (first["width"], first["height"]) == (96, 64)
    assert first["camera"] == [[100.0, 0, 47.5, 0], [0, 101.0, 31.0, 0], [0, 0, 1, 0]]
    assert first["waymo"]["timestamp"] == 1_000_000 and second["waymo"]["timestamp"] == 1_100_000
    (car,) = first["annotations"]
    assert car["bbox"] == [30.0, 24.0, 50.0, 36.0] and car["num_lidar_points"] == 120
    # The camera-synced box, from (20.1, 0.5, 1) of the vehicle; the camera sits at (1.5, 0.1, 2.1).
    np.testing.assert_allclose(car["box3d"][:6], [-0.4, 1.1, 18.6, 1.6, 2.0, 4.5], atol=1e-9)
    assert car["box3d"][6] == pytest.approx(-np.pi / 2 - 0.3)
    assert car["alpha"] == pytest.approx(car["box3d"][6] + np.arctan2(0.4, 18.6))


def test_other_cameras(root):
    dicts = load_waymo(root, "train", tuple(NUMBERS))
    assert len(dicts) == 10
    (cyclist,) = dicts[3]["annotations"]
    assert dicts[3]["waymo"]["camera"] == "SIDE_LEFT" and cyclist["category_id"] == 2
    # 20 m to the left of the vehicle is straight ahead of the camera that looks there.
    np.testing.assert_allclose(cyclist["box3d"][2], 19.9, atol=0.05)


def test_registration(root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root.parent))
    name = f"waymo_format:{root}:train:FRONT,SIDE_LEFT"
    register_datasets(["waymo_train", "waymo_val", name])
    assert len(DatasetCatalog.get("waymo_train")) == 2 and len(DatasetCatalog.get(name)) == 4
    metadata = MetadataCatalog.get(name)
    assert metadata.thing_classes == ["Vehicle", "Pedestrian", "Cyclist"]
    assert metadata.evaluator_type == "waymo" and metadata.cameras == ("FRONT", "SIDE_LEFT")
    with pytest.raises(DatasetError, match="prepare_waymo"):
        DatasetCatalog.get("waymo_val")
    for wrong in ("waymo_format:train:FRONT", f"waymo_format:{root}:train:REAR"):
        with pytest.raises(ConfigError):
            register_datasets([wrong])


def test_cameras_that_were_not_prepared(tmp_path):
    write_v2(tmp_path / "in", scene(1))
    prepare(find_segments(str(tmp_path / "in"), tmp_path / "out", 1, ("FRONT",)))
    with pytest.raises(DatasetError, match="no images of SIDE_LEFT"):
        load_waymo(tmp_path / "out", "train", ("SIDE_LEFT",))


@pytest.mark.parametrize(
    ("points", "has_3d"), [((), True), ((119, 0, 0), True), ((120, 0, 0), False)]
)
def test_few_lidar_points_give_no_3d_supervision(root, points, has_3d):
    register_waymo("waymo_points", root, "train")
    options = ["DATASETS.TRAIN", "('waymo_points',)", "INPUT.SIZE", "(96, 64)"]
    options += ["INPUT.FILTER.LIDAR_POINTS", str(points), "INPUT.FILTER.MIN_HEIGHT", "5.0"]
    mapper = MonocularMapper(load_config("", [*options, "INPUT.AUGMENTATION.CROP", "0.0"]))
    sample = mapper(load_waymo(root, "train")[0], np.random.default_rng(0))
    assert sample["instances"].gt_has_3d.tolist() == [has_3d]


def test_as_many_numbers_as_classes(root):
    register_waymo("waymo_points", root, "train")
    cfg = load_config(
        "", ["DATASETS.TRAIN", "('waymo_points',)", "INPUT.FILTER.LIDAR_POINTS", "(1,)"]
    )
    with pytest.raises(ConfigError, match="LIDAR_POINTS"):
        MonocularMapper(cfg)


def test_real_boxes_project_onto_their_labels(real_data, tmp_path):
    pytest.importorskip("waymo_open_dataset", reason="needs make setup-waymo")
    prepare(find_segments(str(real_data / "waymo"), tmp_path, 1, ("FRONT",)))
    (frame,) = load_waymo(tmp_path, "train")
    annotations = frame["annotations"]
    assert len(annotations) == 8
    boxes = Boxes3D(torch.tensor([a["box3d"] for a in annotations], dtype=torch.float64))
    camera = Camera(torch.tensor(frame["camera"], dtype=torch.float64))
    projected = boxes.project(camera, (frame["height"], frame["width"])).numpy()
    label = np.array([a["bbox"] for a in annotations])
    overlap = np.minimum(projected[:, 2:], label[:, 2:]) - np.maximum(
        projected[:, :2], label[:, :2]
    )
    shared = overlap.clip(0).prod(axis=1)
    areas = [(b[:, 2:] - b[:, :2]).prod(axis=1) for b in (projected, label)]
    iou = shared / (sum(areas) - shared)
    assert iou.mean() > 0.97 and iou.min() > 0.95


def test_a_frame_that_is_there_twice(root):
    """Two releases prepared into one folder: ground truth would count twice."""
    (part,) = (root / "train").glob("*.jsonl")
    (root / "train" / f"z_{part.name}").write_bytes(part.read_bytes())
    with pytest.raises(DatasetError, match=f"z_{part.name}: found frame 1000000 of .* again"):
        load_waymo(root, "train")
