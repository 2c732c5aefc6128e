"""tools/ablate.py as a user runs it: finished runs are kept, killed ones go on, failed ones are named."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from qiml.errors import ConfigError
from qiml.studies.cell import run_cell
from qiml.studies.records import read_records
from qiml.studies.runner import _take_gpu, visible_gpus
from qiml.studies.study import load_study
from tools import ablate as ablate_tool

ROOT = Path(__file__).parents[2]
STUDY = {
    "title": "A tiny study",
    "data": {"synthetic": {"size": "96x64", "train": 6, "val": 3, "seed": 3}},
    "groups": {
        "tiny": {
            "config": "tests/tiny.yaml",
            "train_frames": 4,
            "overrides": {"INPUT.FILTER.MIN_HEIGHT": 2.0, "TEST.VISIBLE_MIN_HEIGHT": 2.0},
        }
    },
    "variants": {
        "none": {"MODEL.QUASI_ISOMETRIC.ENABLED": False},
        "triplet": {"MODEL.QUASI_ISOMETRIC.ENABLED": False, "MODEL.CONTRASTIVE.NAME": "triplet"},
    },
    "baseline": "none",
    "seeds": [1, 2],
}


@pytest.fixture
def ablate(tmp_path, monkeypatch):
    """Start the tool on a study that differs from `STUDY` by `changes`."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))

    def start(*arguments, **changes):
        study = tmp_path / "mine.yaml"
        study.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
        folders = ["--results", tmp_path / "docs" / "results", "--output", tmp_path / "runs"]
        command = [sys.executable, ROOT / "tools" / "ablate.py", study, *folders, *arguments]
        return subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """What the tool prints of `ablate`'s last study, run in this process."""

    def run(*arguments):
        folders = ["--results", tmp_path / "docs" / "results", "--output", tmp_path / "runs"]
        command = ["ablate.py", tmp_path / "mine.yaml", *folders, *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        ablate_tool.main()
        return capsys.readouterr().out

    return run


def finish(process):
    text, _ = process.communicate(timeout=300)
    return process.returncode, text


def records(tmp_path):
    return read_records(tmp_path / "docs" / "results" / "mine.jsonl")


def test_finished_runs_are_kept_and_the_failed_one_is_named(ablate, ask, tmp_path):
    wrong = {"MODEL.WEIGHTS": str(tmp_path / "missing.pth")}
    variants = {"none": STUDY["variants"]["none"], "broken": wrong}
    code, text = finish(ablate("--jobs", 2, seeds=[1], variants=variants))
    assert code == 1 and "tiny/broken/seed1: found exit code 2" in text and "missing.pth" in text
    (first,) = records(tmp_path)
    assert first["variant"] == "none" and first["measures"]["ap3d_0.3"] is not None
    assert first["machine"].endswith(("cores, float32", "cores, bfloat16")) and "commit" in first
    assert first["measures"]["neck_inside"] >= 0 and first["measures"]["step_seconds"] > 0
    splits = tmp_path / "datasets" / "studies" / "scenes-96x64-seed3" / "ImageSets"
    ids = (splits / "train.txt").read_text().split()
    assert (splits / "train_4.txt").read_text().split() == ids[:4]

    code, text = finish(ablate("--jobs", 2, seeds=[1]))
    assert code == 0, text
    assert records(tmp_path)[0] == first and len(records(tmp_path)) == 2
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "2 of 2 runs" in page and "| `triplet` |" in page
    assert (tmp_path / "docs" / "images" / "results-mine.png").is_file()
    assert "2 of 2 runs finished" in ask("--list")
    assert "Differences to `triplet`" in ask("--compare", "triplet")
    assert (tmp_path / "docs" / "results.md").read_text() == page


@pytest.mark.parametrize("survives", [False, True], ids=["all killed", "training survives"])
def test_a_killed_study_goes_on(ablate, tmp_path, survives):
    seeds = [1, 2] if survives else [1]
    long = {
        "none": {**STUDY["variants"]["none"], "SOLVER.MAX_ITER": 60, "SOLVER.CHECKPOINT_PERIOD": 5}
    }
    process = ablate("--jobs", 1, variants=long, seeds=seeds)
    deadline = time.monotonic() + 200
    # Not the checkpoint itself: killed before it is named there, a run starts from the beginning.
    while not list((tmp_path / "runs").glob("*/*/*/last_checkpoint")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    if survives:
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert records(tmp_path) == []
    for folder in (tmp_path / "runs").glob("*/*/*"):  # as an evaluation on data elsewhere leaves it
        (folder / "kitti_results" / "kitti_format_elsewhere_val").mkdir(parents=True)

    code, text = finish(ablate("--jobs", 1, variants=long, seeds=seeds))
    assert code == 0, text
    # Never two trainings in one folder, and no run that nobody waits for.
    begun = [
        [int(i) for i in re.findall(r"Starting training from iteration (\d+)", file.read_text())]
        for file in sorted((tmp_path / "runs" / "mine" / "tiny").glob("*/console.txt"))
    ]
    if survives:
        assert begun == [[0, 60], [0]]
    else:
        ((first, second),) = begun
        assert first == 0 < second < 60
    assert [(r["seed"], r["seconds"] is None) for r in records(tmp_path)] == [
        (seed, seed == 1) for seed in seeds
    ]


def test_runs_as_ray_tasks(ablate, tmp_path):
    variants = {"none": STUDY["variants"]["none"]}
    code, text = finish(ablate("--ray", "local", seeds=[1], variants=variants))
    assert code == 0, text
    assert [record["variant"] for record in records(tmp_path)] == ["none"]


def test_data_without_cars_are_refused_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    path, group = tmp_path / "mine.yaml", STUDY["groups"]["tiny"]
    overrides = {**group["overrides"], "TEST.VISIBLE_MIN_HEIGHT": 5000.0}
    groups = {"tiny": {**group, "overrides": overrides}}
    path.write_text(yaml.safe_dump({**STUDY, "groups": groups}))
    with pytest.raises(ConfigError, match="found no Car that an evaluation counts"):
        run_cell(load_study(path).cells()[0], str(tmp_path / "runs"))
    assert not list(tmp_path.rglob("metrics.json"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--jobs", "0"), "--jobs: found 0; expected a number of at least 1"),
        (("--threads", "many"), "argument --threads: invalid int value: 'many'"),
        (("--seeds", "7", "7"), "seeds: found [7, 7]"),
    ],
)
def test_arguments_that_cannot_work(monkeypatch, capsys, arguments, message):
    study = str(ROOT / "configs" / "studies" / "main.yaml")
    monkeypatch.setattr(sys, "argv", ["ablate.py", study, *arguments])
    with pytest.raises(SystemExit, match="2"):
        ablate_tool.main()
    assert message in capsys.readouterr().err


def test_a_page_needs_a_finished_run(tmp_path, run_script):
    study = ROOT / "configs" / "studies" / "main.yaml"
    code, _, errors = run_script(
        ablate_tool.__file__, study, "--render", "--results", tmp_path / "results"
    )
    assert code == 2 and "no finished run of this study" in errors


def test_runs_side_by_side_take_a_gpu_each(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    assert visible_gpus() == ["5", "GPU-7"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert visible_gpus() == []
    places = multiprocessing.get_context("spawn").SimpleQueue()
    places.put("5")
    _take_gpu(places)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    _take_gpu(places)  # a process more than there are GPUs
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
