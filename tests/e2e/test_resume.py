"""Runs that are killed and resumed end as if nothing had happened.

Kills are few here; `QIML_TEST_KILLS=10 python -m pytest tests/e2e/test_resume.py` tries more.
"""

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

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("QIML_TEST_KILLS", 2))
ITERATIONS = 24
CHANGES = (
    *("SOLVER.MAX_ITER", ITERATIONS, "SOLVER.CHECKPOINT_PERIOD", 3),
    *("INPUT.AUGMENTATION.PHOTOMETRIC", 0.5, "MODEL_EMA.ENABLED", True),
    *("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "TEST.EVAL_PERIOD", 10),
    *("TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 3),
)


@pytest.fixture
def start(kitti_folder, monkeypatch):
    """Function that starts train_net.py on five frames, as a process group of its own."""
    data = f"('kitti_format:{kitti_folder(frames=5)}:train',)"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(output, *arguments):
        command = [sys.executable, ROOT / "train_net.py", "--config-file", ROOT / "tests/tiny.yaml"]
        command += [*arguments, "DATASETS.TRAIN", data, "DATASETS.TEST", data, *CHANGES]
        return subprocess.Popen(
            list(map(str, [*command, "OUTPUT_DIR", output])),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return run


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def wait_for_checkpoint(process, output, name):
    """Until the run has written it; then it is in the middle of its training."""
    deadline = time.monotonic() + 120
    while not (output / name).exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def leaves(value, path=""):
    """Nested dicts and lists as (path, leaf)."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}/{index}")
    else:
        yield path, value


def assert_same_run(first, second):
    """Every entry of the last checkpoints, bit for bit; metrics but for the times; the files that stay."""
    a, b = (
        dict(leaves(torch.load(folder / "model_final.pth", weights_only=True)))
        for folder in (first, second)
    )
    assert a.keys() == b.keys()
    for key, value in a.items():
        same = torch.equal(value, b[key]) if isinstance(value, torch.Tensor) else value == b[key]
        assert same, key
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
def test_killed_at_any_moment(start, tmp_path, workers):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.monotonic()
    finish(start(whole, "DATALOADER.NUM_WORKERS", 0))
    length = time.monotonic() - began
    moments = random.Random(workers)
    for _ in range(KILLS):
        process = start(killed, "--resume", "DATALOADER.NUM_WORKERS", workers)
        # Most of a short run is its start: half of the kills shall come later.
        if moments.random() < 0.5:
            wait_for_checkpoint(process, killed, "last_checkpoint")
            time.sleep(moments.uniform(0, length / 4))
        else:
            time.sleep(moments.uniform(0, length))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finish(start(killed, "--resume", "DATALOADER.NUM_WORKERS", workers))
    assert_same_run(whole, killed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop(start, tmp_path, number):
    """Finishes the step, saves, says how to go on, exits with 0; SIGINT as a terminal sends it: to all."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    process = start(stopped, "DATALOADER.NUM_WORKERS", 2, "SOLVER.CHECKPOINT_PERIOD", 1000)
    # The optimiser's file is there from the first logged step on.
    while not (stopped / "metrics.json").exists():
        time.sleep(0.01)
    time.sleep(0.3)
    send = os.killpg if number == signal.SIGINT else os.kill
    send(process.pid, number)
    output = finish(process)
    assert f"Stopped by {number.name} after " in output and "add --resume" in output
    assert "Traceback" not in output
    (checkpoint,) = stopped.glob("*.pth")
    assert (stopped / "last_checkpoint").read_text() == checkpoint.name
    saved = torch.load(checkpoint, weights_only=True)
    assert f"after {saved['iteration'] + 1} of {ITERATIONS}" in output

    finish(start(stopped, "--resume"))
    finish(start(whole))
    a, b = (torch.load(f / "model_final.pth", weights_only=True)["model"] for f in (whole, stopped))
    assert all(torch.equal(value, b[name]) for name, value in a.items())
