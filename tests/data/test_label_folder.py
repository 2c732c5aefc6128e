import numpy as np
import pytest

from qiml.data.kitti_format import KITTIObjects, write_objects
from qiml.data.label_folder import LabelFolder
from qiml.errors import DatasetError


def objects(types, **columns) -> KITTIObjects:
    boxes3d = np.tile([1.0, 1, 20, 1.5, 1.6, 4, 0.3], (len(types), 1))
    bbox = np.tile([10.0, 10, 40, 30], (len(types), 1))
    return KITTIObjects.from_boxes(types, boxes3d, bbox=bbox, **columns)


@pytest.fixture
def folder(tmp_path):
    boxless = KITTIObjects.from_columns(["DontCare"], bbox=np.array([[1.0, 1, 9, 9]]))
    labels = KITTIObjects.concatenate([objects(["Van", "Car"], truncation=0, occlusion=0), boxless])
    write_objects(tmp_path / "a.txt", labels)
    write_objects(tmp_path / "b.txt", objects(["Pedestrian", "car"], score=0.5))
    write_objects(tmp_path / "c.txt", KITTIObjects.empty())
    return tmp_path


def test_classes_are_those_of_the_files(folder):
    assert LabelFolder(folder).class_names == ["Pedestrian", "Car", "Van", "car"]


def test_labels_and_results_are_told_apart(folder):
    read = LabelFolder(folder, ["Car", "Pedestrian"])
    assert read("a").types.tolist() == ["Car"] and np.isnan(read("a").score).all()
    assert read("b").types.tolist() == ["Pedestrian", "Car"], "names are compared without case"
    np.testing.assert_array_equal(read("b").score, 0.5)
    assert len(read("c")) == 0


def test_what_is_missing_or_malformed_is_named(folder, tmp_path):
    with pytest.raises(DatasetError, match=r"d\.txt"):
        LabelFolder(folder)("d")
    (folder / "a.txt").write_text("Car 1 2 3\n")
    with pytest.raises(DatasetError, match=r"a\.txt:1"):
        LabelFolder(folder)("a")
    with pytest.raises(DatasetError, match="no such folder"):
        LabelFolder(folder / "none")
    (folder / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"no \.txt files"):
        LabelFolder(folder / "empty")
