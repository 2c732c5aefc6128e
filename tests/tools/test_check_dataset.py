import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def check(*arguments: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, ROOT / "tools/check_dataset.py", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "projects/QIML")},
    )


def test_good_folder(kitti_folder, tmp_path):
    report = tmp_path / "report.json"
    done = check(kitti_folder(frames=3), "--decode", "--json", report)
    assert done.returncode == 0, done.stderr
    assert "0 problems" in done.stdout
    assert "3 frames, 0 without objects" in done.stdout
    assert json.loads(report.read_text()) == {
        "problems": [],
        "frames": 3,
        "frames_without_objects": 0,
        "classes": {
            "Car": {"objects": 3, "depth": [10, 10, 10]},
            "Cyclist": {"objects": 3, "depth": [12, 12, 12]},
            "DontCare": {"objects": 3},
            "Pedestrian": {"objects": 3, "depth": [7, 7, 7]},
        },
    }


def test_every_problem_is_reported(kitti_folder):
    root = kitti_folder(frames=5)
    training = root / "training"
    (training / "image_2/000000.png").unlink()
    (training / "calib/000000.txt").write_text("P0: 1\n")
    (training / "label_2/000001.txt").unlink()
    (training / "calib/000002.txt").unlink()
    with open(training / "label_2/000002.txt", "a") as file:
        file.write("Car 1 2\nBus 0 0 0 1 2 3 4 1 1 1 0 0 9 0\n")
    image = training / "image_2/000004.png"
    image.write_bytes(image.read_bytes()[:2000])

    done = check(root, "--decode")
    assert done.returncode == 2
    places = [line.split(": found")[0] for line in done.stdout.splitlines() if ": found" in line]
    assert [place.removeprefix(f"{training}/") for place in places] == [
        "image_2/000000.png",
        "calib/000000.txt",
        "label_2/000001.txt",
        "calib/000002.txt",
        "label_2/000002.txt:5",
        "label_2/000002.txt:6",
        "image_2/000004.png",
    ]
    assert "7 problems" in done.stdout
    assert check(root).stdout.count(": found") == 6  # the truncated image passes


def test_missing_folder(tmp_path):
    done = check(tmp_path / "kitti", "--split", "val")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}/kitti/training/image_2: found no such folder")
    assert "Traceback" not in done.stderr


def test_real_data(real_data):
    done = check(real_data / "kitti", "--split", "trainval", "--decode")
    assert done.returncode == 0, done.stdout
    assert "54 frames" in done.stdout
