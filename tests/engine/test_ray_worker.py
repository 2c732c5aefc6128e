from pathlib import Path
from types import SimpleNamespace

import pytest
import ray.train
import torch
from detectron2.utils import comm

from qiml.engine.ray_worker import (
    DAMAGED_LIST,
    OUTPUT,
    ReportToRay,
    finished_files,
    make_local_process_group,
    restore_checkpoint,
)
from qiml.engine.storage import RunStorage
from qiml.engine.trainer import Trainer
from qiml.errors import CheckpointError


def _local_ranks(rank, node_ranks):
    ray.train.get_context = lambda: SimpleNamespace(get_node_rank=lambda: node_ranks[rank])
    make_local_process_group()
    return comm.get_local_rank(), comm.get_local_size()


def test_machines_may_have_different_numbers_of_workers(spawn_workers):
    assert spawn_workers(_local_ranks, 3, [0, 0, 1]) == [(0, 2), (1, 2), (0, 1)]


@pytest.fixture
def storage(tmp_path):
    return RunStorage.open(str(tmp_path), "run")


@pytest.fixture
def stored(storage):
    """Three checkpoints in the run's folder, oldest first."""
    folders = []
    for iteration in (9, 19, 29):
        folder = Path(storage.path(f"checkpoint_2026-01-01_00-00-{iteration:02d}"))
        folder.mkdir(parents=True)
        name = f"model_{iteration:07d}.pth"
        torch.save({"iteration": iteration, "model": torch.zeros(1000)}, folder / name)
        (folder / "last_checkpoint").write_text(name)
        folders.append(folder)
    return folders


@pytest.fixture
def reported(stored, monkeypatch):
    """The same, known to Ray."""
    checkpoints = [ray.train.Checkpoint.from_directory(str(folder)) for folder in stored]
    monkeypatch.setattr(ray.train, "get_checkpoint", lambda: checkpoints[-1])
    results = [SimpleNamespace(checkpoint=checkpoint) for checkpoint in (*checkpoints, None)]
    monkeypatch.setattr(ray.train, "get_all_reported_checkpoints", lambda: results)
    return stored


def damage(folder):
    (file,) = folder.glob("*.pth")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_restores_the_latest_checkpoint(reported, storage, tmp_path):
    output = tmp_path / "output"
    restore_checkpoint(output, storage)
    assert (output / "last_checkpoint").read_text() == "model_0000029.pth"


def test_restores_the_one_before_a_damaged_one(reported, storage, tmp_path, caplog):
    output = tmp_path / "output"
    damage(reported[2])
    restore_checkpoint(output, storage)
    assert (output / "last_checkpoint").read_text() == "model_0000019.pth"
    assert f"{reported[2]} is damaged" in caplog.text


def test_does_not_start_over_in_silence(reported, storage, tmp_path):
    for folder in reported:
        damage(folder)
    with pytest.raises(CheckpointError, match="found damaged files"):
        restore_checkpoint(tmp_path / "output", storage)


@pytest.fixture
def unknown_to_ray(monkeypatch):
    monkeypatch.setattr(ray.train, "get_checkpoint", lambda: None)


def test_a_new_run_has_nothing_to_restore(unknown_to_ray, storage, tmp_path):
    output = tmp_path / "output"
    restore_checkpoint(output, storage)
    assert not output.exists()


def test_starts_anew_where_the_first_checkpoint_was_torn(unknown_to_ray, stored, storage, tmp_path):
    for folder in stored:
        damage(folder)
    restore_checkpoint(tmp_path / "output", storage)
    assert not (tmp_path / "output").exists()


def test_finds_checkpoints_that_ray_has_forgotten(unknown_to_ray, stored, storage, tmp_path):
    storage.write_text(DAMAGED_LIST, "")
    output = tmp_path / "output"
    restore_checkpoint(output, storage)
    assert (output / "last_checkpoint").read_text() == "model_0000029.pth"


def test_a_machine_that_is_taken_away_is_told_beforehand(
    kitti_folder, tiny_config, tmp_path, monkeypatch, storage
):
    """Then a checkpoint is handed over at once, and no other before the next is due."""
    handed = []

    def report(metrics, checkpoint=None):
        saved = torch.load(next(Path(checkpoint.path).glob("*.pth")), weights_only=True)
        handed.append((metrics["iteration"], saved["iteration"]))

    monkeypatch.setattr(ray.train, "report", report)
    monkeypatch.setattr(ReportToRay, "PREEMPTION_PERIOD", 2)
    told = iter((None, *[object()] * 9))
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: next(told))
    cfg = tiny_config(
        *("DATASETS.TRAIN", f"('kitti_format:{kitti_folder()}:train',)", "DATASETS.TEST", "()"),
        *("OUTPUT_DIR", tmp_path / "scratch", "SOLVER.MAX_ITER", 11, "SOLVER.CHECKPOINT_PERIOD", 9),
    )
    Trainer(cfg, after_checkpoint=ReportToRay(storage, period=9)).train()
    assert handed == [(4, 3), (9, 8), (11, 10)]
    assert storage.exists(f"{OUTPUT}/metrics.json")


def test_what_a_finished_run_leaves(tmp_path):
    names = ["log.txt", "metrics.json", "model_0000009.pth", "model_final.pth", "last_checkpoint"]
    for name in (*names, "kitti_results/data/1.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    left = sorted(str(path.relative_to(tmp_path)) for path in finished_files(tmp_path))
    assert left == ["kitti_results/data/1.txt", "log.txt", "metrics.json", "model_final.pth"]
