"""The folder that `write_dataset` and tools/make_synthetic.py leave: whole, resumable, never another's."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from qiml.data.depth_map import read_depth_map
from qiml.data.kitti import load_kitti_format
from qiml.data.kitti_format import read_calibration, read_objects
from qiml.data.synthetic import render_scene, write_dataset
from qiml.errors import ConfigError
from qiml.io import alone

ROOT = Path(__file__).resolve().parents[2]


def folder_contents(root) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_frames_do_not_depend_on_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("qiml.data.synthetic.dataset._REPAYS_PROCESSES", 0)
    one, two = tmp_path / "one", tmp_path / "two"
    assert write_dataset(one, 9, 3, (160, 64), seed=5, workers=1)
    assert write_dataset(two, 9, 3, (160, 64), seed=5, workers=2)
    assert folder_contents(one) == folder_contents(two)
    frame = render_scene(5, 4, (160, 64))
    image = cv2.imread(str(one / "training/image_2/000004.png"))[..., ::-1]
    np.testing.assert_array_equal(image, frame.image)
    label = read_objects(one / "training/label_2/000004.txt", scored=False)
    assert label.types.tolist() == frame.objects.types.tolist()
    np.testing.assert_allclose(label.values, frame.objects.values, atol=0.0051)
    calibration = read_calibration(one / "training/calib/000004.txt")
    np.testing.assert_allclose(calibration, frame.projection, rtol=1e-10)


def test_layout_of_the_folder(tmp_path):
    root = tmp_path / "data"
    write_dataset(root, 3, 2, (96, 48), workers=1)
    splits = {path.stem: path.read_text().split() for path in (root / "ImageSets").iterdir()}
    ids = [f"{index:06d}" for index in range(5)]
    assert splits == {"val": ids[:2], "train": ids[2:], "trainval": ids}
    for folder, ending in (("image_2", "png"), ("label_2", "txt"), ("calib", "txt")):
        names = sorted(path.name for path in (root / "training" / folder).iterdir())
        assert names == [f"{image_id}.{ending}" for image_id in ids]
    assert not root.with_name("data.partial").exists()


def test_goes_on_after_an_interruption(tmp_path):
    root, partial = tmp_path / "data", tmp_path / "data.partial"
    write_dataset(root, 4, 1, (96, 48), workers=1)
    complete = folder_contents(root)
    root.rename(partial)
    shutil.rmtree(partial / "ImageSets")
    kept = (partial / "training/image_2/000001.png").stat().st_mtime_ns
    (partial / "training/label_2/000003.txt").unlink()
    (partial / "training/image_2/000003.png").write_bytes(b"half an image")
    assert write_dataset(root, 4, 1, (96, 48), workers=1)
    assert folder_contents(root) == complete
    assert (root / "training/image_2/000001.png").stat().st_mtime_ns == kept


def test_complete_folder_is_left_alone_and_other_settings_are_refused(tmp_path):
    root = tmp_path / "data"
    write_dataset(root, 2, 1, (96, 48), workers=1)
    before = folder_contents(root)
    assert not write_dataset(root, 2, 1, (96, 48), workers=2)
    with pytest.raises(ConfigError, match=r"num_train 2; .*num_train 3\. .*--overwrite"):
        write_dataset(root, 3, 1, (96, 48))
    assert folder_contents(root) == before
    assert write_dataset(root, 2, 1, (96, 48), seed=1, workers=1, overwrite=True)
    after = folder_contents(root)
    assert after.keys() == before.keys()
    assert after["training/image_2/000000.png"] != before["training/image_2/000000.png"]


def test_dense_depth_is_written_beside_the_same_frames(tmp_path):
    plain, dense = tmp_path / "plain", tmp_path / "dense"
    write_dataset(plain, 2, 1, (96, 48), workers=1)
    write_dataset(dense, 2, 1, (96, 48), workers=1, dense_depth=True)
    before, after = folder_contents(plain), folder_contents(dense)
    names = {f"training/depth_dense/00000{index}.png" for index in range(3)}
    assert after.keys() - before.keys() == names
    assert all(after[name] == before[name] for name in before if name != "synthetic.json")
    frame = render_scene(0, 1, (96, 48), dense_depth=True)
    found = read_depth_map(dense / "training/depth_dense/000001.png", (96, 48))
    np.testing.assert_allclose(found, frame.depth, atol=1 / 512)
    frames = load_kitti_format(dense, "train")
    assert [Path(f["depth_file_name"]).stem for f in frames] == ["000001", "000002"]
    assert "depth_file_name" not in load_kitti_format(plain, "train")[0]

    assert not write_dataset(dense, 2, 1, (96, 48), workers=1)  # it has all that is asked for
    with pytest.raises(ConfigError, match=r"dense_depth None; .*dense_depth True"):
        write_dataset(plain, 2, 1, (96, 48), workers=1, dense_depth=True)
    with pytest.raises(ConfigError, match=r"num_val 1, dense_depth True; .*num_val 0"):
        write_dataset(dense, 2, 0, (96, 48), workers=1)


def test_a_foreign_folder_is_never_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="something else than a synthetic dataset"):
        write_dataset(tmp_path, 2, 1, (96, 48), overwrite=True)
    assert folder_contents(tmp_path) == {"notes.txt": b"mine"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_train": 0}, "num_train: found 0"),
        ({"num_val": -1}, "num_val: found -1"),
        ({"workers": 0}, "workers: found 0"),
        ({"seed": -1}, "seed: found -1"),
        ({"size": (416, 8)}, "size: found 416x8"),
        ({"style": "waymo", "dense_depth": True}, "style: found 'waymo' with dense depth"),
    ],
)
def test_numbers_out_of_range(tmp_path, change, message):
    arguments = {"num_train": 1, "num_val": 1, **change}
    with pytest.raises(ConfigError, match=message):
        write_dataset(tmp_path / "data", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_second_call_waits_for_the_first(tmp_path):
    """It would replace the folder that the first is filling, or has just filled."""
    root = tmp_path / "data"
    call = threading.Thread(target=write_dataset, args=(root, 1, 0, (96, 64)))
    with alone(root):
        call.start()
        call.join(0.3)
        assert call.is_alive() and not list(tmp_path.glob("data*"))
        write_settings = root / "synthetic.json"
        root.mkdir()
        write_settings.write_text(
            json.dumps({"version": 1, "num_train": 1, "num_val": 0, "size": [96, 64], "seed": 0})
        )
    call.join(30)
    assert list(root.iterdir()) == [write_settings]  # complete, as far as it can tell


def test_command_line(tmp_path):
    def run(*options):
        command = [sys.executable, ROOT / "tools/make_synthetic.py", "--out", tmp_path / "data"]
        return subprocess.run(
            [*command, "--val", "2", "--size", "96x48", "--workers", "1", *options],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "projects/QIML")},
        )

    first, second = run("--train", "6"), run("--train", "6")
    assert first.returncode == second.returncode == 0, first.stderr
    assert "8 frames" in first.stdout and "Car" in first.stdout
    assert "drawing 96x48: 100%" in first.stderr and "drawing" not in second.stderr
    assert second.stdout.startswith(f"{tmp_path / 'data'} is complete already")
    for options, message in (
        (("--train", "7"), "--overwrite"),
        (("--train", "6", "--size", "96*48"), "pass a size such as 416x128"),
    ):
        refused = run(*options)
        assert refused.returncode == 2 and message in refused.stderr
        assert "Traceback" not in refused.stderr
