import math
import re

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from qiml.data.kitti import KITTI_CLASSES, load_kitti_format, register_kitti_format
from qiml.data.kitti_folder import KITTISplit
from qiml.data.kitti_format import KITTIObjects, read_calibration, read_objects, write_objects
from qiml.errors import DatasetError

CAR_LINE = "Car 0 2 -10 10 20 60 50 1.5 1.6 3.9 3 1.5 12 {yaw}"


def test_frame_in_standard_form(kitti_folder):
    root = kitti_folder(frames=1, size=(320, 96))
    (frame,) = load_kitti_format(root, "train")
    assert frame["file_name"] == str(root / "training/image_2/000000.png")
    assert frame["image_id"] == "000000"
    assert (frame["width"], frame["height"]) == (320, 96)
    assert frame["camera"] == [[180, 0, 160, 9], [0, 180, 48, 0.1], [0, 0, 1, 0.003]]
    car, pedestrian, cyclist = frame["annotations"]  # without the DontCare region
    assert [KITTI_CLASSES[a["category_id"]] for a in (car, pedestrian, cyclist)] == [
        "Car", "Pedestrian", "Cyclist",
    ]  # fmt: skip
    assert car["bbox_mode"] == BoxMode.XYXY_ABS
    assert car["box3d"] == pytest.approx([1.5, 1.5 - 1.5 / 2, 10, 1.5, 1.6, 3.9, -1.57])
    assert car["alpha"] == pytest.approx(-1.57 - math.atan2(1.5, 10), abs=1e-4)
    assert (car["truncation"], car["occlusion"], car["ignore"]) == (0, 0, False)


def test_angles_are_wrapped_and_a_missing_alpha_is_computed(kitti_folder):
    root = kitti_folder(frames=1)
    label = root / "training/label_2/000000.txt"
    label.write_text(CAR_LINE.format(yaw=4))
    (car,) = load_kitti_format(root, "train")[0]["annotations"]
    assert car["box3d"][6] == pytest.approx(4 - 2 * math.pi)
    assert car["alpha"] == pytest.approx(4 - 2 * math.pi - math.atan2(3, 12))
    assert car["occlusion"] == 2


def test_classes_pick_and_order_annotations_without_case(kitti_folder):
    root = kitti_folder(frames=1)
    label = root / "training/label_2/000000.txt"
    label.write_text(label.read_text().replace("Car", "car"))
    annotations = load_kitti_format(root, "train", classes=("Cyclist", "Car"))[0]["annotations"]
    assert [a["category_id"] for a in annotations] == [1, 0]


@pytest.mark.parametrize("extension", [".jpg", ".jpeg", ".JPG"])
def test_jpeg_folder(kitti_folder, extension):
    root = kitti_folder(extension=extension, size=(330, 90))
    frames = load_kitti_format(root, "train")
    assert [(f["width"], f["height"]) for f in frames] == [(330, 90)] * 2
    assert frames[1]["file_name"].endswith(f"000001{extension}")


def test_empty_label_file_is_an_empty_frame(kitti_folder):
    root = kitti_folder(objects=[KITTIObjects.empty()] * 2)
    assert [f["annotations"] for f in load_kitti_format(root, "train")] == [[], []]


def test_without_labels_there_are_no_annotations(kitti_folder):
    root = kitti_folder(split="test")
    assert KITTISplit(root, "test").label_dir is None
    frames = load_kitti_format(root, "test")
    assert len(frames) == 2
    assert all("annotations" not in frame for frame in frames)

    root = kitti_folder(split="mine")
    for file in (root / "training/label_2").iterdir():
        file.unlink()
    (root / "training/label_2").rmdir()
    assert all("annotations" not in frame for frame in load_kitti_format(root, "mine"))


def test_all_needs_no_list(kitti_folder):
    root = kitti_folder(frames=3)
    (root / "ImageSets/train.txt").unlink()
    assert [f["image_id"] for f in load_kitti_format(root, "all")] == ["000000", "000001", "000002"]
    (root / "ImageSets/all.txt").write_text("000002\n000000\n")
    assert [f["image_id"] for f in load_kitti_format(root, "all")] == ["000002", "000000"]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("training/image_2/000001.png", "the image of frame 000001 as .png, .jpg or .jpeg"),
        ("training/calib/000001.txt", "calib/000001.txt: found no such file"),
        ("training/label_2/000001.txt", "label_2/000001.txt: found no such file"),
        ("ImageSets/train.txt", "ImageSets/train.txt: found no such file"),
    ],
)
def test_missing_file(kitti_folder, missing, message):
    root = kitti_folder()
    (root / missing).unlink()
    with pytest.raises(DatasetError, match=re.escape(message)):
        load_kitti_format(root, "train")


def test_missing_root_says_what_to_do(tmp_path):
    with pytest.raises(DatasetError, match="no such folder") as caught:
        load_kitti_format(tmp_path / "kitti", "train")
    for hint in ("training/{image_2,label_2,calib}", "3D object detection", "Chen split",
                 "DETECTRON2_DATASETS"):  # fmt: skip
        assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "found no frames"), ("000000\n000001\n000000", "found frame 000000 again")],
)
def test_malformed_list(kitti_folder, text, message):
    root = kitti_folder()
    (root / "ImageSets/train.txt").write_text(text)
    with pytest.raises(DatasetError, match=message):
        load_kitti_format(root, "train")


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_image_that_is_none(kitti_folder, content):
    root = kitti_folder()
    (root / "training/image_2/000001.png").write_bytes(content)
    with pytest.raises(DatasetError, match=r"000001.png: found .*expected a PNG or JPEG image"):
        load_kitti_format(root, "train")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [(14, None, "14 columns"), (15, "1 1", "17 columns"), (3, "nan", "'nan' as alpha"),
     (9, "-1.6", "positive sizes"), (0, "Lorry", "unknown class 'Lorry'")],
)  # fmt: skip
def test_malformed_label(kitti_folder, column, value, message):
    root = kitti_folder()
    fields = CAR_LINE.format(yaw=0).split()
    fields[column : column + 1] = [] if value is None else [value]
    (root / "training/label_2/000001.txt").write_text(" ".join(fields))
    with pytest.raises(DatasetError, match=rf"label_2/000001.txt:1: .*{message}"):
        load_kitti_format(root, "train")


def test_register(kitti_folder):
    root = kitti_folder()
    register_kitti_format("test_register", root, "train")
    register_kitti_format("test_register", root, "train")
    assert len(DatasetCatalog.get("test_register")) == 2
    metadata = MetadataCatalog.get("test_register")
    assert metadata.thing_classes == ["Pedestrian", "Car", "Cyclist"]
    assert (metadata.evaluator_type, metadata.root, metadata.split) == ("kitti", str(root), "train")
    assert metadata.label_dir == str(root / "training/label_2")

    register_kitti_format("test_register", kitti_folder(frames=3, split="test"), "test")
    assert len(DatasetCatalog.get("test_register")) == 3
    assert MetadataCatalog.get("test_register").label_dir is None


def test_real_frames(real_data):
    root = real_data / "kitti"
    frames = load_kitti_format(root, "trainval")
    assert len(frames) == 54
    assert [len(load_kitti_format(root, split)) for split in ("train", "val")] == [14, 40]
    assert any((f["width"], f["height"]) != (1242, 375) for f in frames)
    for frame in frames:
        image = cv2.imread(frame["file_name"])
        assert image.shape == (frame["height"], frame["width"], 3)
        folder = root / "training"
        np.testing.assert_array_equal(
            frame["camera"], read_calibration(folder / "calib" / f"{frame['image_id']}.txt")
        )
        labels = read_objects(folder / "label_2" / f"{frame['image_id']}.txt", scored=False)
        labels = labels[np.isin(labels.types, KITTI_CLASSES)]
        annotations = frame["annotations"]
        assert [KITTI_CLASSES[a["category_id"]] for a in annotations] == labels.types.tolist()
        boxes = np.array([a["box3d"] for a in annotations]).reshape(-1, 7)
        bottom = boxes[:, :3] + np.array([0, 0.5, 0]) * boxes[:, 3:4]
        np.testing.assert_allclose(bottom, labels.location, atol=1e-9)
        np.testing.assert_allclose(boxes[:, 3:6], labels.dimensions)
        # KITTI rounds to 2 decimals and some labels are just beyond pi.
        turns = (boxes[:, 6] - labels.rotation_y) / (2 * math.pi)
        np.testing.assert_allclose(turns, turns.round(), atol=1e-9)
        assert (np.abs(boxes[:, 6]) <= math.pi).all()


def test_real_p2(real_data):
    (frame,) = (
        f for f in load_kitti_format(real_data / "kitti", "val") if f["image_id"] == "000001"
    )
    assert frame["camera"] == [
        [721.5377, 0, 609.5593, 44.85728],
        [0, 721.5377, 172.854, 0.2163791],
        [0, 0, 1, 0.002745884],
    ]


def test_images_are_not_decoded_for_their_size(kitti_folder):
    root = kitti_folder(frames=1, size=(320, 96))
    image = root / "training/image_2/000000.png"
    image.write_bytes(image.read_bytes()[:2000])
    assert load_kitti_format(root, "train")[0]["width"] == 320


def test_written_labels_train(kitti_folder, tmp_path):
    """What write_objects writes, load_kitti_format reads."""
    objects = KITTIObjects.from_columns(
        ["Van", "Cyclist"], bbox=np.array([[1, 2, 30, 40.0]] * 2), dimensions=1.5,
        location=np.array([[0, 1, 9.0]] * 2), rotation_y=0.5, truncation=0.25, occlusion=1,
    )  # fmt: skip
    root = kitti_folder(frames=1)
    write_objects(root / "training/label_2/000000.txt", objects)
    (cyclist,) = load_kitti_format(root, "train")[0]["annotations"]
    assert cyclist["category_id"] == KITTI_CLASSES.index("Cyclist")
    assert cyclist["box3d"] == [0, 0.25, 9, 1.5, 1.5, 1.5, 0.5]
    assert (cyclist["truncation"], cyclist["occlusion"]) == (0.25, 1)
