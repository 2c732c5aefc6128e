"""Each check finds what it is for, names the frame, and finds nothing else."""

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from qiml.data.kitti_format import KITTIObjects, read_objects, write_calibration, write_objects
from qiml.doctor.checks import check_labels
from qiml.doctor.images import check_duplicates, check_images
from qiml.doctor.problems import CHECKS, ERROR, WARNING, Problem
from qiml.doctor.splits import check_splits
from qiml.doctor.survey import survey
from tests.conftest import PROJECTION

FRAMES = 4


def examine(root: Path, split: str = "train") -> list[Problem]:
    own = survey(f"kitti_format:{root}:{split}")
    problems = [
        *own.problems,
        *check_labels(own),
        *check_images(own, workers=1),
        *check_duplicates([own]),
        *check_splits([own]),
    ]
    assert {problem.check for problem in problems} <= CHECKS.keys(), "a row of the table each"
    return problems


def edit(*columns: int, by: Callable[[np.ndarray], np.ndarray], frames: int = 1, rows=slice(0, 1)):
    """Breaks columns of some objects of the first frames."""

    def damage(root: Path) -> None:
        for number in range(frames):
            path = root / "training/label_2" / f"{number:06d}.txt"
            objects = read_objects(path, scored=False)
            objects.values[rows, columns] = by(objects.values[rows, columns])
            write_objects(path, objects)

    return damage


def replaced(name: str, old: str, new: str):
    def damage(root: Path) -> None:
        path = root / name
        path.write_text(re.sub(old, new, path.read_text()))

    return damage


def changed_image(change: Callable[[np.ndarray], np.ndarray]):
    def damage(root: Path) -> None:
        path = str(root / "training/image_2/000000.png")
        cv2.imwrite(path, change(cv2.imread(path)))

    return damage


def torn(root: Path) -> None:
    path = root / "training/image_2/000000.png"
    path.write_bytes(path.read_bytes()[:-100])


def copied(source: str, target: str):
    def damage(root: Path) -> None:
        (root / target).write_bytes((root / source).read_bytes())

    return damage


def removed(name: str):
    return lambda root: (root / name).unlink()


def another_camera(focal: float, frames: int):
    def damage(root: Path) -> None:
        projection = np.diag([focal, focal, 1]) @ PROJECTION
        for number in range(frames):
            write_calibration(root / "training/calib" / f"{number:06d}.txt", projection)

    return damage


def centres_instead_of_bottoms(root: Path) -> None:
    edit(11, by=lambda y: y - 0.8, frames=FRAMES, rows=slice(0, 3))(root)


@pytest.mark.parametrize(
    ("damage", "check", "severity", "message"),
    [
        (removed("training/image_2/000000.png"), "files", ERROR, "no such file"),
        (removed("training/calib/000000.txt"), "calibration", ERROR, "no such file"),
        (removed("training/label_2/000000.txt"), "labels", ERROR, "no such file"),
        (torn, "images", ERROR, "does not decode"),
        (copied("training/calib/000000.txt", "training/image_2/000000.png"), "images", ERROR, "identify"),
        (changed_image(np.zeros_like), "images", WARNING, "one colour"),
        (copied("training/image_2/000001.png", "training/image_2/000000.png"), "duplicates", WARNING, "same"),
        (copied("training/image_2/000000.png", "training/image_2/000000.jpg"), "duplicates", ERROR, "beside"),
        (replaced("training/calib/000000.txt", "P2", "P9"), "calibration", ERROR, "P2:"),
        (another_camera(0.2, 1), "calibration", WARNING, "0.1125 widths of the image"),
        (replaced("training/label_2/000000.txt", "Car", "Bus"), "labels", ERROR, "000000.txt:1: .*'Bus'"),
        (replaced("training/label_2/000000.txt", r"\A", "Car 1 2\n"), "labels", ERROR, ":1: .*3 columns"),
        (replaced("training/label_2/000000.txt", r"\A(.*\n)", r"\1\1"), "labels", WARNING, "object 2 .*same"),
        (edit(1, by=lambda o: o + 7), "labels", WARNING, "occlusion 7"),
        (edit(0, by=lambda t: t + 50), "labels", WARNING, "truncation 50"),
        (edit(3, 5, by=lambda x: x + 400), "2D boxes", WARNING, r"object 1 \(car, 10.0 m\).*320×96"),
        (edit(12, by=lambda z: z + 20), "projection", WARNING, "object 1 .*IoU 0"),
        (edit(11, by=lambda y: y - 1), "projection", WARNING, "object 1 "),
        (edit(7, 8, 9, by=lambda s: 100 * s, rows=slice(0, 3)), "sizes", WARNING, "150 160 390; and 2 more"),
        (edit(8, 9, by=lambda s: s[:, ::-1]), "sizes", WARNING, "h w l = 1.5 3.9 1.6"),
        (edit(12, by=lambda z: 1000 * z), "depths", WARNING, "z = 10000"),
        (edit(12, by=lambda z: -z), "depths", WARNING, "z = -10"),
        (edit(2, by=lambda a: -a), "headings", WARNING, "apart"),
        (edit(2, 13, by=lambda a: np.degrees(a)), "headings", WARNING, "rotation_y -89.9"),
    ],
)  # fmt: skip
def test_what_is_broken_in_one_frame_is_found(kitti_folder, damage, check, severity, message):
    root = kitti_folder(frames=FRAMES)
    damage(root)
    problems = examine(root)
    found = [p for p in problems if (p.check, p.severity, p.frame) == (check, severity, "000000")]
    assert any(re.search(message, problem.message) for problem in found), problems
    assert {problem.frame for problem in problems} == {"000000"}


@pytest.mark.parametrize(
    ("damage", "check", "message"),
    [
        (another_camera(1.6, FRAMES), "projection", "of 12 objects wrong in the same way"),
        (centres_instead_of_bottoms, "projection", "of 12 objects wrong in the same way"),
        (edit(2, by=lambda a: -a - 0.5, frames=FRAMES, rows=slice(0, 3)), "headings", "of 12 objects"),
    ],
)  # fmt: skip
def test_what_is_broken_everywhere_is_an_error(kitti_folder, damage, check, message):
    root = kitti_folder(frames=FRAMES)
    damage(root)
    (error,) = (problem for problem in examine(root) if problem.severity == ERROR)
    assert error.check == check and error.frame == "" and message in error.message
    assert str(root) in error.message


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (replaced("ImageSets/train.txt", "000001", "000000"), "train.txt:2: .*000000 again"),
        (replaced("ImageSets/train.txt", r"(?s)\A.*\Z", ""), "no frames"),
        (removed("ImageSets/train.txt"), "no such file"),
        (lambda root: (root / "training/label_2").rename(root / "elsewhere"), "label_2: found no such"),
    ],
)  # fmt: skip
def test_folders_that_do_not_train(kitti_folder, damage, message):
    root = kitti_folder(frames=FRAMES)
    damage(root)
    assert any(
        re.search(message, problem.message) and problem.severity == ERROR
        for problem in examine(root)
        if problem.check == "files"
    )


def test_other_classes_than_those_that_train(kitti_folder):
    objects = KITTIObjects.from_columns(
        ["Van"], bbox=np.array([[140.0, 30, 180, 60]]), dimensions=(2, 2, 5), location=(0, 2, 30),
        rotation_y=0, alpha=0, truncation=1, occlusion=0,
    )  # fmt: skip
    (problem,) = examine(kitti_folder(objects=objects))
    assert problem.severity == ERROR and "Pedestrian, Car, Cyclist" in problem.message


def test_frames_without_objects_are_fine(kitti_folder):
    root = kitti_folder(frames=FRAMES)
    for number in range(FRAMES - 1):
        (root / "training/label_2" / f"{number:06d}.txt").write_text("")
    assert examine(root) == []


def test_a_split_without_labels_is_fine(kitti_folder):
    assert examine(kitti_folder(split="test"), "test") == []


def test_splits_that_share_frames(kitti_folder):
    root = kitti_folder(frames=FRAMES)
    lists = root / "ImageSets"
    (lists / "val.txt").write_text("000001\n000003\n")
    (lists / "trainval.txt").write_text("000000\n000001\n")
    (lists / "train_2.txt").write_text("000000\n000001\n")
    (problem,) = examine(root)
    assert (problem.check, problem.severity) == ("splits", WARNING)
    assert "2 of train in val, too: 000001, 000003" in problem.message
    (lists / "val.txt").write_text("000005\n")
    assert examine(root) == []


def test_real_frames_that_were_broken_are_found(real_data, tmp_path):
    """A calibration of another recording, and a car moved by two metres."""
    source, root = real_data / "kitti", tmp_path / "kitti"
    ids = (source / "ImageSets/trainval.txt").read_text().split()[:6]
    for kind, ending in (("image_2", ".png"), ("label_2", ".txt"), ("calib", ".txt")):
        (root / "training" / kind).mkdir(parents=True)
        for name in ids:
            data = (source / "training" / kind / f"{name}{ending}").read_bytes()
            (root / "training" / kind / f"{name}{ending}").write_bytes(data)
    (root / "ImageSets").mkdir()
    (root / "ImageSets/train.txt").write_text("\n".join(ids))
    assert examine(root) == []
    for name in ids:
        path = root / "training/label_2" / f"{name}.txt"
        objects = read_objects(path, scored=False)
        near = np.flatnonzero((objects.types == "Car") & (objects.truncation == 0))
        if len(near):
            break
    objects.location[near[0], 0] += 2
    write_objects(path, objects)
    problems = examine(root)
    assert {problem.check for problem in problems} <= {"projection", "headings"}
    assert {problem.frame for problem in problems} == {name}
