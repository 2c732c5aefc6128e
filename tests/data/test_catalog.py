import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from qiml.data.catalog import BUILTIN_DATASETS, register_datasets
from qiml.errors import ConfigError


def test_builtin_names():
    assert set(BUILTIN_DATASETS) == {
        "kitti_train", "kitti_val", "kitti_trainval", "kitti_test",
        "synthetic_train", "synthetic_val",
        "waymo_train", "waymo_val", "waymo_test",
        "synthetic_waymo_train", "synthetic_waymo_val",
    }  # fmt: skip


@pytest.mark.parametrize("folder", ["kitti", "synthetic"])
def test_builtin_root_comes_from_the_environment_at_call_time(
    kitti_folder, tmp_path, monkeypatch, folder
):
    names = [f"{folder}_train", f"{folder}_val"]
    for datasets, frames in (("one", 1), ("two", 3)):
        root = tmp_path / datasets / folder
        root.mkdir(parents=True)
        for split in ("train", "val"):
            kitti_folder(frames=frames, split=split, root=root)
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / datasets))
        register_datasets(names)
        register_datasets(names)
        assert [len(DatasetCatalog.get(name)) for name in names] == [frames, frames]
        assert MetadataCatalog.get(names[1]).root == str(root)


def test_default_root(monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    register_datasets(["kitti_test"])
    assert MetadataCatalog.get("kitti_test").root == "datasets/kitti"
    assert MetadataCatalog.get("kitti_test").label_dir is None


def test_custom_folder(kitti_folder):
    name = f"kitti_format:{kitti_folder(frames=3)}:train"
    register_datasets([name])
    assert len(DatasetCatalog.get(name)) == 3
    assert MetadataCatalog.get(name).evaluator_type == "kitti"


def test_root_may_hold_a_colon(kitti_folder, tmp_path):
    root = tmp_path / "a:b"
    root.mkdir()
    kitti_folder(root=root)
    register_datasets([f"kitti_format:{root}:train"])
    assert len(DatasetCatalog.get(f"kitti_format:{root}:train")) == 2


def test_name_registered_elsewhere_is_left_alone():
    if "somebody_elses" not in DatasetCatalog:
        DatasetCatalog.register("somebody_elses", lambda: [{"image_id": "7"}])
    register_datasets(["somebody_elses"])
    assert DatasetCatalog.get("somebody_elses") == [{"image_id": "7"}]


@pytest.mark.parametrize(
    "name", ["kitty_train", "", "kitti_format:", "kitti_format:/data/mine", "kitti_format::train",
             "kitti_format:/data/mine:"],
)  # fmt: skip
def test_unknown_name(name):
    with pytest.raises(ConfigError) as caught:
        register_datasets([name])
    message = str(caught.value)
    assert "DATASETS.TRAIN or DATASETS.TEST" in message
    assert f"'{name}'" in message
    assert "kitti_trainval, kitti_test, synthetic_train" in message
    assert "kitti_format:ROOT:SPLIT" in message


def test_suggestion():
    with pytest.raises(ConfigError, match="did you mean 'kitti_train'"):
        register_datasets(["kitty_train"])
