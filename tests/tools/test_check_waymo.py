import subprocess
import sys
from pathlib import Path

import cv2

from qiml.data.synthetic import write_dataset

ROOT = Path(__file__).parents[2]


def run(*words):
    command = [sys.executable, "tools/check_waymo.py", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_table_and_pictures(tmp_path):
    write_dataset(tmp_path / "data", 8, 2, (192, 128), workers=1, style="waymo")
    done = run(tmp_path / "data", "--draw", 2, "--pictures", tmp_path / "pictures")
    assert done.returncode == 0
    assert "FRONT        Vehicle" in done.stdout and "8 images" in done.stdout
    assert float(done.stdout.split("mean IoU ")[-1].split()[0]) > 0.9
    pictures = list((tmp_path / "pictures").glob("*.jpg"))
    assert len(pictures) == 2 and cv2.imread(str(pictures[0])) is not None


def test_nothing_prepared(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 2 and "prepare_waymo" in done.stderr.strip().splitlines()[-1]
