import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def run(*words):
    command = [sys.executable, "tools/waymo_submission.py", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_archive(tmp_path):
    pytest.importorskip("waymo_open_dataset", reason="needs make setup-waymo")
    from waymo_open_dataset.protos import submission_pb2

    from qiml.evaluation.waymo_files import write_predictions

    rows = np.array([[0, 1, 2, 3, 4, 2, 1.5, 0.5, 1, 0.5]])
    write_predictions(tmp_path / "found.bin", rows, [("segment", 11)])
    out = tmp_path / "submission.tar.gz"
    options = ["--out", out, "--account", "me@example.org", "--method", "QIML", "--authors", "A B"]
    done = run(tmp_path / "found.bin", *options)
    assert done.returncode == 0, done.stderr
    with tarfile.open(out) as archive:
        submission = submission_pb2.Submission()
        submission.ParseFromString(archive.extractfile("submission.binproto").read())
    assert submission.authors == ["A B"] and len(submission.inference_results.objects) == 1

    done = run(tmp_path / "none.bin", *options)
    assert done.returncode == 2 and "none.bin" in done.stderr

    before = out.read_bytes()
    done = run(out, *options)
    assert done.returncode == 2 and "the file of predictions itself" in done.stderr
    assert out.read_bytes() == before
