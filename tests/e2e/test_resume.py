"""Runs that are killed and resumed end as if nothing had happened.

Kills are few here; `QIML_TEST_KILLS=10 python -m pytest tests/e2e/test_resume.py` tries more.
"""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import write_kitti_folder

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("QIML_TEST_KILLS", 2))
ITERATIONS = 24
CHANGES = (
    *("SOLVER.MAX_ITER", ITERATIONS, "SOLVER.CHECKPOINT_PERIOD", 3),
    *("INPUT.AUGMENTATION.PHOTOMETRIC", 0.5, "MODEL_EMA.ENABLED", True),
    *("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "TEST.EVAL_PERIOD", 10),
    *("TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 3),
)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Function that starts train_net.py on five frames, as a process group of its own."""
    root = tmp_path_factory.mktemp("data")
    write_kitti_folder(root, frames=5)
    data = f"('kitti_format:{root}:train',)"

    def run(output, *changes, resume=False):
        command = [sys.executable, ROOT / "train_net.py", "--config-file", ROOT / "tests/tiny.yaml"]
        command += ["--resume"] if resume else []
        command += ["DATASETS.TRAIN", data, "DATASETS.TEST", data, *CHANGES, *changes]
        return subprocess.Popen(
            list(map(str, [*command, "OUTPUT_DIR", output])),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return run


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """Function: folder of a run that nothing happened to, and its seconds; made once for the same changes."""

    @functools.cache
    def run(*changes):
        folder, began = tmp_path_factory.mktemp("whole"), time.monotonic()
        finish(start(folder, "DATALOADER.NUM_WORKERS", 0, *changes))
        return folder, time.monotonic() - began

    return run


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def wait_for_line(process, file):
    """Until the run has written to the file; then it is in the middle of its training."""
    deadline = time.monotonic() + 120
    while not file.exists() or not file.stat().st_size:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_same_record(first, second):
    """Metrics but for the times; the files that stay."""
    checkpoints = [sorted(f.name for f in folder.glob("*.pth")) for folder in (first, second)]
    assert (
        checkpoints[0]
        == checkpoints[1]
        == ["model_0000020.pth", "model_0000023.pth", "model_final.pth"]
    )
    assert last_metrics(first) == last_metrics(second)
    assert not list(second.glob(".tmp-*"))


def last_metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    iterations = [line["iteration"] for line in lines]
    assert iterations == sorted(set(iterations))
    names = ("time", "images_per_second", "data_wait", "eta")
    return {k: v for k, v in lines[-1].items() if not any(name in k for name in names)}


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_any_moment(start, whole, tmp_path, workers, assert_same_checkpoint):
    killed = tmp_path / "killed"
    expected, length = whole()
    moments = random.Random(workers)
    for _ in range(KILLS):
        process = start(killed, "DATALOADER.NUM_WORKERS", workers, resume=True)
        # Most of a short run is its start: half of the kills shall come later.
        if moments.random() < 0.5:
            wait_for_line(process, killed / "last_checkpoint")
            time.sleep(moments.uniform(0, length / 4))
        else:
            time.sleep(moments.uniform(0, length))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finish(start(killed, "DATALOADER.NUM_WORKERS", workers, resume=True))
    assert_same_checkpoint(expected / "model_final.pth", killed / "model_final.pth")
    assert_same_record(expected, killed)


@pytest.mark.parametrize(
    "send, number",
    [(os.kill, signal.SIGTERM), (os.killpg, signal.SIGTERM), (os.killpg, signal.SIGINT)],
    ids=["SIGTERM", "SIGTERM to all, as schedulers", "SIGINT to all, as terminals"],
)
def test_told_to_stop(start, whole, tmp_path, send, number):
    """Finishes the step, saves, says how to go on, exits with 0."""
    stopped = tmp_path / "stopped"
    iterations = 60
    changes = ("SOLVER.MAX_ITER", iterations, "SOLVER.CHECKPOINT_PERIOD", 1000)
    process = start(stopped, *changes, "DATALOADER.NUM_WORKERS", 2)
    wait_for_line(process, stopped / "metrics.json")  # of step 20
    send(process.pid, number)
    output = finish(process)
    assert f"Stopped by {number.name} after " in output and "add --resume" in output
    assert "Traceback" not in output
    (checkpoint,) = stopped.glob("*.pth")
    assert (stopped / "last_checkpoint").read_text() == checkpoint.name
    saved = torch.load(checkpoint, weights_only=True)
    assert f"after {saved['iteration'] + 1} of {iterations}" in output

    finish(start(stopped, *changes, resume=True))
    folders = whole(*changes)[0], stopped
    a, b = (torch.load(f / "model_final.pth", weights_only=True)["model"] for f in folders)
    assert all(torch.equal(value, b[name]) for name, value in a.items())
