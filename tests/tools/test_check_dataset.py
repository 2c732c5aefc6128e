"""The data doctor from its command line; its checks have tests of their own."""

import json
import re
import sys

import cv2
import pytest

from qiml.errors import ConfigError
from tools import check_dataset


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the tool; returns the number of errors, what it printed and its report."""

    def run(*words: object) -> tuple[int, str, dict]:
        output = tmp_path / "doctor"
        arguments = [*map(str, words), "--output", str(output)]
        monkeypatch.setattr(sys, "argv", ["check_dataset.py", *arguments])
        errors = check_dataset.run(check_dataset.parse_arguments())
        return errors, capsys.readouterr().out, json.loads((output / "report.json").read_text())

    return run


def test_a_good_folder(kitti_folder, run, tmp_path):
    root = kitti_folder(frames=3)
    errors, printed, report = run(root, "--draw", 2)
    assert errors == report["errors"] == report["warnings"] == 0 and report["problems"] == []
    assert "0 errors, 0 warnings" in printed and "3 frames, 0 without objects" in printed
    (summary,) = report["datasets"].values()
    assert summary["frames"] == 3 and list(summary["classes"]) == ["Car", "Cyclist", "Pedestrian"]
    car = summary["classes"]["Car"]
    assert (car["objects"], car["depth"], car["size"]) == (3, [10, 10, 10], [1.5, 1.6, 3.9])
    assert car["projection"]["objects"] == 3 and car["projection"]["least"] > 0.99
    pictures = sorted((tmp_path / "doctor" / "pictures").iterdir())
    assert len(pictures) == 2 and cv2.imread(str(pictures[0])).shape[1] > 1000


def test_names_of_the_catalogue(kitti_folder, run, monkeypatch):
    root = kitti_folder()
    kitti_folder(split="val", root=root)
    kitti_folder(split="test", root=root)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root.parent))
    root.rename(root.parent / "kitti")
    errors, printed, report = run("kitti_train", "kitti_val", "kitti_test", "--draw", 0)
    assert errors == 0 and list(report["datasets"]) == ["kitti_train", "kitti_val", "kitti_test"]
    assert [p["check"] for p in report["problems"]] == ["splits", "duplicates", "duplicates"]
    assert "2 of train in val, too: 000000, 000001" in printed


def test_images_need_not_be_decoded(kitti_folder, run):
    root = kitti_folder()
    image = root / "training/image_2/000001.png"
    image.write_bytes(image.read_bytes()[:-100])
    errors, printed, report = run(root)
    assert errors == 1 and report["problems"][0]["frame"] == "000001"
    assert f"error: images: {image}: found an image that does not decode" in printed
    errors, printed, _ = run(root, "--no-images")
    assert errors == 0 and "skipped" in printed


def test_images_that_are_links(kitti_folder, run):
    """One to nowhere is an error among others; one to another frame's image is that image."""
    root = kitti_folder(frames=3)
    images = root / "training/image_2"
    for name, target in (("000001", "nowhere"), ("000002", "000000.png")):
        (images / f"{name}.png").unlink()
        (images / f"{name}.png").symlink_to(target)
    errors, printed, report = run(root)
    assert errors == 1, printed
    found = {(p["check"], p["frame"]): p["message"] for p in report["problems"]}
    assert found.keys() == {("images", "000001"), ("duplicates", "000000")}
    assert re.search("same picture as that of .*frame 000002", found["duplicates", "000000"])


def test_an_image_of_another_data_set(kitti_folder, run):
    train, val = kitti_folder(), kitti_folder(split="val")
    image = val / "training/image_2/000001.png"
    image.unlink()
    image.symlink_to(train / "training/image_2/000001.png")
    _, _, report = run(f"kitti_format:{train}:train", f"kitti_format:{val}:val")
    links = [p for p in report["problems"] if p["frame"] == "000001"]
    assert any("frame 000001; expected different pictures" in p["message"] for p in links)


def test_pictures_of_an_earlier_check_go(kitti_folder, run, tmp_path):
    root = kitti_folder(frames=3)
    pictures = tmp_path / "doctor" / "pictures"
    pictures.mkdir(parents=True)
    (pictures / "mine.jpg").touch()
    for count in (2, 1):
        run(root, "--draw", count)
        assert len(list(pictures.iterdir())) == count + 1
    assert (pictures / "mine.jpg").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["kitti_trian"], "did you mean 'kitti_train'"),
        (["no/such/folder"], "no/such/folder: found no such folder"),
        (["kitti_format:no/such/folder:train"], "no/such/folder: found no such folder"),
        ([".", "--workers", "0"], "--workers: found 0"),
        ([".", "--draw", "-1"], "--draw: found -1"),
    ],
)
def test_what_cannot_work(run, words, message):
    with pytest.raises(ConfigError, match=message):
        run(*words)


def test_exit_codes(kitti_folder, tmp_path, run_script):
    good, bad = kitti_folder(), kitti_folder()
    (bad / "training/calib/000000.txt").unlink()
    for data, code in ((good, 0), (bad, 1), (tmp_path / "nowhere", 2)):
        found, _, errors = run_script(check_dataset.__file__, data, "--output", tmp_path / "out")
        assert found == code, errors
    assert errors.strip().splitlines()[-1].startswith(f"error: {tmp_path}/nowhere: found no")


def test_real_data_have_no_problems(real_data, run):
    """The 54 frames, the whole drive, and pictures of the worst."""
    names = [f"kitti_format:{real_data}/kitti:trainval"]
    names += [f"kitti_format:{real_data}/kitti_drive0009:{split}" for split in ("train", "val")]
    errors, printed, report = run(*names, "--no-images", "--draw", 3)
    assert errors == 0 and report["warnings"] == 0, printed
    assert [summary["frames"] for summary in report["datasets"].values()] == [54, 260, 60]
