"""The whole benchmark, topic by topic."""

import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import cv2
import torch
from tqdm import tqdm

from qiml.benchmark import data, evaluation, growth, inference, losses, steerable, training
from qiml.benchmark.page import Report
from qiml.benchmark.records import Record
from qiml.benchmark.scale import Scale, draw_frames, read_frames
from qiml.benchmark.timing import Timer, cpu_seconds
from qiml.engine.memory import keep_freed_memory
from qiml.modeling.precision import computes_in

LIBRARIES = ("torch", "torchvision", "timm", "opencv-python-headless", "numpy")


@dataclass(frozen=True)
class Inputs:
    """What is measured on.

    Attributes:
        dataset: name of a data set whose training frames are loaded; "" for made-up ones.
        labels, results: folders for KITTI's metric; None: the made-up scenes of the tests.
        devkit: the official C++ devkit, to compare it with.
    """

    dataset: str = ""
    labels: Path | None = None
    results: Path | None = None
    devkit: Path | None = None


def run(scale: Scale, inputs: Inputs, command: str, cpu_time: bool = False) -> Report:
    """Measure everything.

    Args:
        scale: how large.
        inputs: what on.
        command: for the page.
        cpu_time: count CPU time of all threads together instead of time on the clock.
    """
    keep_freed_memory()
    cv2.setNumThreads(1)  # as the loaders do
    with tempfile.TemporaryDirectory() as folder:
        dataset = inputs.dataset or draw_frames(Path(folder), scale)
        frames = read_frames(dataset, scale.frames)
        topics = _topics(scale, inputs, frames, dataset)
        records: list[Record] = []
        # An estimate needs to know that some topics take longer than others.
        with tqdm(total=sum(topic.weight for topic in topics), smoothing=0, unit="") as progress:
            clock = cpu_seconds if cpu_time else time.perf_counter
            timer = Timer(scale.repeats, clock, progress)
            for topic in topics:
                progress.set_description(topic.name)
                records += topic.measure(timer)
                progress.update(topic.weight)
    clock = "CPU time of all threads" if cpu_time else "on the clock"
    return Report(command, machine(), clock, records)


@dataclass(frozen=True)
class _Topic:
    """A part of the benchmark; `weight`: about the seconds it takes, for the progress bar."""

    name: str
    weight: int
    measure: Callable[[Timer], list[Record]]


def _topics(scale: Scale, inputs: Inputs, frames: list[dict], dataset: str) -> list[_Topic]:
    kitti = (inputs.labels, inputs.results, inputs.devkit)
    return [
        _Topic("training step", 90, lambda t: _steps_and_terms(t, scale, frames, dataset)),
        _Topic("what the losses add", 50, lambda t: training.compare_losses_added(t, scale)),
        _Topic("quick start's step", 20, lambda t: training.compare_quickstart(t, scale)),
        _Topic("waits for the device", 3, lambda _: training.measure_waits(scale)),
        _Topic("inference", 60, lambda t: inference.compare_inference(t, scale)),
        _Topic("heads", 5, lambda t: inference.compare_heads(t, scale)),
        _Topic("quasi-isometric loss", 10, lambda t: losses.compare_quasi_isometric(t, scale)),
        _Topic("descriptors", 2, lambda t: losses.compare_descriptors(t, scale)),
        _Topic("steerable convolutions", 20, lambda t: steerable.compare_steerable(t, scale)),
        _Topic("targets", 2, lambda t: losses.compare_targets(t, scale)),
        _Topic("loading", 10, lambda t: data.compare_loading(t, scale, frames, dataset)),
        _Topic("drawing", 1, lambda t: data.time_drawing(t, scale)),
        _Topic("KITTI's metric", 10, lambda t: evaluation.time_kitti(t, *kitti)),
        _Topic("Waymo's metric", 60, lambda t: evaluation.time_waymo(t, scale)),
        _Topic("checkpoint", 5, lambda t: training.time_checkpoint(t, scale)),
        _Topic("growth", 90, lambda t: growth.time_growth(t, scale, dataset)),
    ]


def _steps_and_terms(timer: Timer, scale: Scale, frames: list[dict], dataset: str) -> list[Record]:
    records, step_seconds = training.compare_official(timer, scale, frames, dataset)
    return records + training.time_loss_terms(timer, scale, step_seconds)


def machine() -> dict[str, str]:
    """Processor, threads, memory, GPU and versions; nothing that names the machine."""
    found = {
        "processor": f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} in use",
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
    }
    if torch.cuda.is_available():
        found["GPU"] = torch.cuda.get_device_name()
    if not computes_in("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16):
        found["bfloat16"] = "slow here, float32 in its place"
    return found | {library: version(library) for library in LIBRARIES}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
