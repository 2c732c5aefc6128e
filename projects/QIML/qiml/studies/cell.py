"""One run of a study: train, evaluate, measure. Killed at any moment, it goes on where it was."""

import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from qiml.config import load_config
from qiml.data.catalog import CUSTOM_PREFIX, register_datasets
from qiml.data.kitti_folder import read_image_ids
from qiml.data.synthetic import write_dataset
from qiml.engine.descriptors import collect_descriptors
from qiml.engine.trained import load_trained_model
from qiml.errors import ConfigError, QIMLError
from qiml.evaluation.depth_error import calibrated, depth_errors
from qiml.evaluation.kitti_evaluation import evaluate_tables
from qiml.evaluation.kitti_evaluator import file_name_of
from qiml.evaluation.kitti_rules import VISIBLE, Difficulty, Overlaps
from qiml.evaluation.kitti_table import ObjectTable, read_table
from qiml.evaluation.manifold import measure
from qiml.io import alone, atomic_write_text
from qiml.modeling.precision import configured_dtype, convolution_dtype, dtype_name
from qiml.studies.study import PROJECT_ROOT, Cell, FolderData, SyntheticData
from qiml.visualization.report_run import read_metrics

CLASS = "Car"
# Three tables: a shift in depth of half a metre alone takes AP at .7 from 100 to about 1.
OVERLAPS = {f"{iou:.1f}": {CLASS: Overlaps(0.5, iou, iou)} for iou in (0.3, 0.5, 0.7)}
MANIFOLD_FRAMES = 500
DEPTHS = ((0.0, float("inf")), (0.0, 20.0), (20.0, 40.0), (40.0, float("inf")))


class CellFailed(QIMLError):
    """A run of a study ended with an error; the others go on."""


def run_cell(cell: Cell, output_root: str, threads: int = 1) -> dict:
    """Train a cell, or go on with it, and measure it.

    Args:
        cell: the run.
        output_root: folder of all runs; needed no more once the result is kept.
        threads: of PyTorch.

    Returns:
        The record to keep: the cell's place, `measures`, `seconds` (None if it went on with an earlier one)
        and what it ran on.

    Raises:
        CellFailed: the training failed or was interrupted.
        DatasetError, ConfigError: the data are missing or malformed.
    """
    commit = _commit()  # now: by the end of the run it may be another
    prepare_data(cell, threads)
    folder = cell.folder(Path(output_root))
    cfg = load_config(str(PROJECT_ROOT / cell.config), _overrides(cell, folder))
    _check_evaluated(cfg)
    # The training holds the lock, too, and lives on where only the study was killed: wait for it.
    with alone(folder / "training") as lock:
        start, is_new = time.monotonic(), not (folder / "last_checkpoint").exists()
        _train(cell, folder, threads, lock)
    torch.set_num_threads(threads)
    measures = measure_run(cfg)
    return {
        "study": cell.study,
        "group": cell.group,
        "variant": cell.variant,
        "seed": cell.seed,
        "identity": cell.identity,
        "measures": measures,
        "seconds": round(time.monotonic() - start, 1) if is_new else None,  # of a part of the run
        "threads": threads,
        "machine": describe_machine(cfg),
        "torch": torch.__version__,
        "commit": commit,
    }


def prepare_data(cell: Cell, workers: int = 1) -> None:
    """Draw the scenes where they are absent, and list the first frames where not all are to train."""
    draw_scenes(cell.data, workers)
    if cell.train_frames:
        _list_first_frames(cell)


def draw_scenes(data: SyntheticData | FolderData, workers: int) -> None:
    """Of synthetic data, where they are absent, in so many processes."""
    if isinstance(data, SyntheticData):
        size = tuple(int(side) for side in data.size.split("x"))
        write_dataset(
            *(data.root, data.train, data.val, size, data.seed),
            workers=workers,
            dense_depth=data.dense_depth,
        )


def _list_first_frames(cell: Cell) -> None:
    folder = cell.data.root / "ImageSets"
    ids = read_image_ids(folder / f"{_full_train_split(cell)}.txt")
    if cell.train_frames > len(ids):
        raise ConfigError(
            f"train_frames of group {cell.group}",
            found=str(cell.train_frames),
            expected=f"at most {len(ids)}",
            mend="draw more scenes or correct the number",
        )
    split, text = folder / f"{_train_split(cell)}.txt", "\n".join(ids[: cell.train_frames]) + "\n"
    if not split.exists():
        atomic_write_text(split, text)
    elif split.read_text().split() != text.split():
        raise ConfigError(
            split,
            found="a list of other frames",
            expected=f"the first {cell.train_frames} of {_full_train_split(cell)}.txt, or no such file",
            mend="rename it, or name another number of train_frames",
        )


def _full_train_split(cell: Cell) -> str:
    return getattr(cell.data, "train_split", "train")


def _train_split(cell: Cell) -> str:
    suffix = f"_{cell.train_frames}" if cell.train_frames else ""
    return _full_train_split(cell) + suffix


def _datasets(cell: Cell) -> tuple[str, str]:
    """Names of the training and the evaluation data."""
    root, val = cell.data.root, getattr(cell.data, "val_split", "val")
    return f"{CUSTOM_PREFIX}{root}:{_train_split(cell)}", f"{CUSTOM_PREFIX}{root}:{val}"


def _overrides(cell: Cell, folder: Path) -> list[str]:
    train, val = _datasets(cell)
    data = ["DATASETS.TRAIN", repr((train,)), "DATASETS.TEST", repr((val,))]
    # Evaluated at the end alone: what an earlier evaluation left would count as the end's.
    run = ["SEED", str(cell.seed), "OUTPUT_DIR", str(folder), "TEST.EVAL_PERIOD", "0"]
    return [*cell.overrides, *data, *run]


def _train(cell: Cell, folder: Path, threads: int, lock: TextIO) -> None:
    """`train_net.py --resume`: from the last checkpoint, or only the evaluation where all is trained."""
    command = [
        sys.executable,
        str(PROJECT_ROOT / "train_net.py"),
        "--config-file",
        str(PROJECT_ROOT / cell.config),
    ]
    command += ["--resume", *_overrides(cell, folder)]
    log = folder / "console.txt"
    with log.open("ab") as console:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            pass_fds=[lock.fileno()],
        )
    # A run that a signal stopped early saved its state and ended with 0.
    if ended.returncode or not list(folder.glob("kitti_*.json")):
        lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
        raise CellFailed(
            cell.name,
            found=f"exit code {ended.returncode} ({lines[-1]})",
            expected="a finished training",
            mend=f"see {log}, then start the study again: it goes on from there",
        )


def describe_machine(cfg) -> str:
    """What a run's rounding and minutes depend on, such as "x86_64 AVX2, 2 cores, float32"."""
    device = torch.device(cfg.MODEL.DEVICE)
    parts = [
        f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        f"{os.cpu_count()} cores",
        dtype_name(convolution_dtype(device, configured_dtype(cfg))),
    ]
    if device.type == "cuda":
        parts.insert(0, torch.cuda.get_device_name(device))
    return ", ".join(parts)


def _commit() -> str | None:
    """The project's, with "-dirty" where its code or a config differs from it; None outside a clone."""

    def git(*command: str) -> str:
        ended = subprocess.run(
            ["git", "-C", str(PROJECT_ROOT), *command], capture_output=True, text=True, check=True
        )
        return ended.stdout.strip()

    try:
        code = ("train_net.py", "tools", "projects", "configs")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *code)
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def measure_run(cfg) -> dict[str, float | None]:
    """What the tables show of a finished run.

    Args:
        cfg: of the run, with its OUTPUT_DIR.

    Returns:
        Name → number: `ap3d_0.3` and so on (AP40 in per cent of cars at the level "visible"),
        `depth_mae` (metres) and by range, some of them after :func:`calibrated`, how training went, and,
        after the kind of descriptor (`neck_inside`), the numbers of
        :func:`qiml.evaluation.manifold.measure`; None where there was nothing to measure.
    """
    measures = {**_detection_measures(cfg), **_cost_measures(cfg), **_manifold_measures(cfg)}
    return {
        name: None if value is None or math.isnan(value) else round(value, 6)
        for name, value in measures.items()
    }


def _check_evaluated(cfg) -> None:
    """Refuse, before the training, data of which there would be nothing to tell after it."""
    gt = _labels(cfg, _evaluated_ids(cfg))
    level = _visible(cfg.TEST.VISIBLE_MIN_HEIGHT)
    if not np.any(gt.of_types(CLASS) & ~level.ignores_objects(gt.objects)):
        raise ConfigError(
            str(cfg.DATASETS.TEST),
            found=f"no {CLASS} that an evaluation counts",
            expected="some: a study tells of cars",
            mend="check the split, or TEST.VISIBLE_MIN_HEIGHT, the least height of a box in pixels",
        )


def _evaluated_ids(cfg) -> list[str]:
    (dataset,) = cfg.DATASETS.TEST
    register_datasets([dataset])
    return [str(frame["image_id"]) for frame in DatasetCatalog.get(dataset)]


def _labels(cfg, ids: list[str]) -> ObjectTable:
    label_dir = Path(MetadataCatalog.get(cfg.DATASETS.TEST[0]).label_dir)
    return read_table([label_dir / f"{i}.txt" for i in ids], scored=False)


def _detection_measures(cfg) -> dict[str, float]:
    ids = _evaluated_ids(cfg)
    gt = _labels(cfg, ids)
    results = Path(cfg.OUTPUT_DIR) / "kitti_results" / file_name_of(cfg.DATASETS.TEST[0])
    dt = read_table([results / "data" / f"{i}.txt" for i in ids], scored=True)
    level = _visible(cfg.TEST.VISIBLE_MIN_HEIGHT)
    measures = _average_precision(gt, dt, level)
    errors = depth_errors(gt, dt, [CLASS], level, DEPTHS)[CLASS]
    whole = errors.pop("0+ m")
    measures |= {"depth_mae": whole["mean"], "depth_bias": whole["bias"]}
    measures["recall_2d"] = 100 * whole["matched"] / whole["objects"]
    measures |= {f"depth_mae_{name.split()[0]}": value["mean"] for name, value in errors.items()}
    shifted = calibrated(gt, dt, CLASS, level)
    precision = _average_precision(gt, shifted, level)
    measures |= {f"{name}_calibrated": precision[name] for name in ("ap3d_0.3", "ap3d_0.5")}
    (whole,) = depth_errors(gt, shifted, [CLASS], level, DEPTHS[:1])[CLASS].values()
    measures["depth_mae_calibrated"] = whole["mean"]
    return measures


def _average_precision(gt: ObjectTable, dt: ObjectTable, level: Difficulty) -> dict[str, float]:
    """AP40 in per cent by metric and overlap, such as "ap3d_0.3"."""
    evaluation = evaluate_tables(
        gt, dt, classes=[CLASS], difficulties=[level], overlaps=OVERLAPS, metrics=("bev", "3d")
    )
    found = {table: evaluation.results(table).get(CLASS, {}).get("AP40", {}) for table in OVERLAPS}
    return {
        f"ap{metric}_{table}": values.get(metric, [0.0])[0]
        for table, values in found.items()
        for metric in ("bev", "3d")
    }


def _visible(min_height: float) -> Difficulty:
    return Difficulty("visible", min_height, VISIBLE.max_occlusion, VISIBLE.max_truncation)


def _cost_measures(cfg) -> dict[str, float]:
    """Of what was logged; the median time of a step, since other work may have disturbed some."""
    curves = read_metrics(Path(cfg.OUTPUT_DIR) / "metrics.json")
    times = sorted(curves["time"][1])
    return {"step_seconds": times[len(times) // 2], "total_loss": curves["total_loss"][1][-1]}


def _manifold_measures(cfg) -> dict[str, float]:
    """Of every kind of descriptor that the detector has, whichever its loss saw.

    By bounds in metres for every variant; depth is predicted from the training objects.
    """
    model = load_trained_model(cfg, str(Path(cfg.OUTPUT_DIR) / "model_final.pth"))
    train, val = (
        collect_descriptors(cfg, model, name, MANIFOLD_FRAMES, model.descriptor_kinds)
        for name in (cfg.DATASETS.TRAIN[0], cfg.DATASETS.TEST[0])
    )
    measures = {}
    for kind, objects in val.items():
        if len(train[kind]) and len(objects):
            reference = (train[kind].descriptors, train[kind].depth)
            found = measure(
                objects.descriptors, objects.depth, reference=reference, depth_space="metric"
            )
            measures |= {f"{kind}_{name}": value for name, value in found.items()}
    return measures
