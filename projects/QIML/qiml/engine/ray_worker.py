"""One worker of a training on a Ray cluster: the same trainer, in Ray's process group."""

import argparse
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from qiml.config import load_config_text
from qiml.engine.checkpoint import is_intact
from qiml.engine.metrics import WINDOW
from qiml.engine.setup import start_run
from qiml.engine.storage import RunStorage
from qiml.engine.trainer import Trainer
from qiml.errors import CheckpointError

OUTPUT = "output"
"""Folder of STORAGE/NAME with what train_net.py leaves in OUTPUT_DIR."""

RAYS_LIST = "checkpoint_manager_snapshot.json"
"""Of the run's checkpoints, in STORAGE/NAME."""
DAMAGED_LIST = f"{RAYS_LIST}.damaged"
"""What is kept of a list that could not be read."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What the driver tells every worker.

    Attributes:
        config: the whole config as YAML.
        datasets: absolute folder of the data sets, on every machine.
        storage: of the run.
    """

    config: str
    datasets: str
    storage: RunStorage


def train_worker(settings: dict[str, Job]) -> dict:
    """Train, or go on training, as one of several workers; returns the results of the last evaluation.

    Ray calls it in a thread of a process of its own, after it has made the process group, and again after a
    failure. Everything local goes to a folder that is given up at the end; what stays goes to the storage.

    Args:
        settings: {"job": the job}; Ray passes a dictionary.
    """
    job = settings["job"]
    os.environ["DETECTRON2_DATASETS"] = job.datasets
    make_local_process_group()
    with tempfile.TemporaryDirectory(prefix="qiml-", dir=Path.cwd()) as scratch:
        output = Path(scratch)
        cfg = load_config_text(job.config)
        device = ray.train.torch.get_device()
        cfg.MODEL.DEVICE, cfg.OUTPUT_DIR = str(device), scratch
        cfg.freeze()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if comm.is_main_process():
            job.storage.download(OUTPUT, output)  # the record so far, to be continued
        restore_checkpoint(output, job.storage)
        start_run(cfg, argparse.Namespace(config_file="", eval_only=False))
        report = ReportToRay(job.storage, cfg.SOLVER.CHECKPOINT_PERIOD)
        trainer = Trainer(cfg, after_checkpoint=report)
        trainer.resume_or_load(resume=True)
        results = trainer.train() or {}
        if comm.is_main_process():
            job.storage.upload(finished_files(output), output, OUTPUT)
        ray.train.report({"iteration": trainer.max_iter, **flatten_results_dict(results)})
        return dict(results)


def make_local_process_group() -> None:
    """Tell Detectron2 which workers share this machine; their number may differ from machine to machine."""
    if comm.get_world_size() == 1:
        return
    node_ranks = [None] * comm.get_world_size()
    dist.all_gather_object(node_ranks, ray.train.get_context().get_node_rank())
    for node in sorted(set(node_ranks)):
        ranks = [rank for rank, other in enumerate(node_ranks) if other == node]
        group = dist.new_group(ranks)  # every worker must take part in making every group
        if comm.get_rank() in ranks:
            comm._LOCAL_PROCESS_GROUP = group


def restore_checkpoint(output: Path, storage: RunStorage) -> None:
    """Copy the latest intact checkpoint of the run, if it has any, to a folder, as if saved there.

    Raises:
        CheckpointError: the run has checkpoints, but none is intact.
    """
    checkpoints = _checkpoints(storage)
    if not checkpoints:
        return
    for checkpoint in reversed(checkpoints):
        checkpoint.to_directory(str(output))
        last = output / "last_checkpoint"
        if last.is_file() and is_intact(output / last.read_text()):
            return
        logger.warning("%s is damaged: going on from the checkpoint before it", checkpoint.path)
    raise CheckpointError(
        ", ".join(checkpoint.path for checkpoint in checkpoints),
        found="damaged files",
        expected="at least one checkpoint as it was written",
        mend="restore them from a copy, or start a new run under another --name",
    )


def _checkpoints(storage: RunStorage) -> list[ray.train.Checkpoint]:
    """Oldest first: those on Ray's list or, where that was lost, those in the run's folder."""
    if ray.train.get_checkpoint():
        return [r.checkpoint for r in ray.train.get_all_reported_checkpoints() if r.checkpoint]
    if not storage.exists(DAMAGED_LIST):
        return []  # a folder may be there all the same, torn when its worker was lost
    folders = storage.folders("checkpoint_")  # Ray's names, which go on with date and time
    return [ray.train.Checkpoint(folder, storage.filesystem) for folder in folders]


class ReportToRay(HookBase):
    """Hands every checkpoint to Ray, and the record of the run to the storage, when it has been saved.

    Told that a machine is about to be taken away, it saves and hands over one more at once.

    Args:
        storage: of the run.
        period: SOLVER.CHECKPOINT_PERIOD.
    """

    PREEMPTION_PERIOD = 20  # steps; the question costs milliseconds

    def __init__(self, storage: RunStorage, period: int):
        self.storage, self.period = storage, period
        self._saved_before_preemption = False

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        is_due = done % self.period == 0 or done == self.trainer.max_iter
        if not is_due and done % self.PREEMPTION_PERIOD == 0:
            is_due = self._preemption_is_near()
            if is_due and comm.is_main_process():
                self.trainer.checkpointer.save(f"model_{done - 1:07d}", iteration=done - 1)
        if is_due:
            self.report()

    def _preemption_is_near(self) -> bool:
        """True once: Ray restarts the workers when the machine has gone."""
        if self._saved_before_preemption or ray.train.get_preemption_info() is None:
            return False
        self._saved_before_preemption = True
        return True

    def report(self) -> None:
        """On every worker: Ray waits for all of them."""
        checkpointer, storage = self.trainer.checkpointer, self.trainer.storage
        metrics = {"iteration": self.trainer.iter + 1}
        if not comm.is_main_process():
            ray.train.report(metrics)
            return
        latest = storage.latest_with_smoothing_hint(WINDOW)
        metrics |= {name: value for name, (value, _) in latest.items()}
        output = Path(checkpointer.save_dir)
        self.storage.upload(record_files(output), output, OUTPUT)
        saved = Path(checkpointer.get_checkpoint_file())
        with tempfile.TemporaryDirectory(dir=output) as folder:
            os.link(saved, Path(folder) / saved.name)
            (Path(folder) / "last_checkpoint").write_text(saved.name)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def record_files(output: Path) -> Iterator[Path]:
    """The record of a run: its config, log, metrics and results, not its checkpoints."""
    for file in output.iterdir():
        if file.is_file() and file.suffix != ".pth" and file.name != "last_checkpoint":
            yield file


def finished_files(output: Path) -> Iterator[Path]:
    """What a finished run leaves: its record, result files and final weights."""
    yield from record_files(output)
    yield from (file for file in output.glob("*/**/*") if file.is_file())
    yield from output.glob("model_final.pth")
