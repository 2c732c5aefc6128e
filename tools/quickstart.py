"""The whole product in a few minutes on two CPU cores: synthetic scenes, training with both losses,
evaluation by KITTI's rules, pictures. `make demo` runs this; each step is a command of its own that is
printed before it runs, so that you can repeat and change it.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from qiml.config import load_config
from qiml.data.catalog import datasets_root, register_datasets
from qiml.data.images import write_image
from qiml.data.mapper import MonocularMapper
from qiml.engine.trained import load_trained_model
from qiml.errors import check_counts, exit_on_error
from qiml.visualization.frame import frame_panel

CONFIG = "configs/quickstart.yaml"
DATASET = "synthetic_val"
# What Detectron2 logs for machines; everything is in the run's log.txt.
QUIET = ("copypaste", "csv format", "Environment info", "Loading config")


def run(*command: str) -> None:
    """Run a command of the project, showing it and, from where it gets going, what it logs."""
    print(f"\n$ python {shlex.join(command)}", flush=True)
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, text=True, errors="replace"
    )
    started = False
    for line in process.stdout:
        # Before this Detectron2 prints the machine and the whole config.
        started = started or "Start" in line or command[0] != "train_net.py"
        if started and not any(word in line for word in QUIET):
            print(line, end="", flush=True)
    if process.wait():
        sys.exit(process.returncode)


def draw_predictions(
    output: Path, count: int, least_score: float, overrides: Sequence[str]
) -> list[Path]:
    """Pictures of the trained detector on frames spread over the evaluation data.

    Args:
        output: the run's folder; pictures go to its subfolder `pictures`.
        count: number of pictures.
        least_score: detections below are not drawn.
        overrides: of the config in training.

    Returns:
        The files.
    """
    cfg = load_config(CONFIG, ["OUTPUT_DIR", str(output), *overrides])
    register_datasets([*cfg.DATASETS.TRAIN, DATASET])
    model = load_trained_model(cfg, str(output / "model_final.pth")).for_inference()
    mapper, names = MonocularMapper(cfg, is_train=False), MetadataCatalog.get(DATASET).thing_classes
    frames = DatasetCatalog.get(DATASET)
    frames = [frame for frame in frames if len(frame["annotations"]) >= 3] or frames
    files = []
    for index in np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(int):
        frame = frames[index]
        with torch.no_grad():
            found = model([mapper(frame)])[0]["instances"]
        found = found[found.scores >= least_score]
        picture = frame_panel(frame, found, names)
        files.append(output / "pictures" / f"{frame['image_id']}.png")
        write_image(files[-1], picture)
    return files


def summarise(untrained: Path, trained: Path) -> str:
    """A table of the car results of both models at the last level, "visible" unless switched off."""
    rows = [("", "untrained", "trained")]
    reports = [json.loads(p.read_text()) for p in (untrained, trained)]
    level = reports[0]["order"][-1]
    for title, table in (("IoU .7", "results"), ("IoU .5", "relaxed_results")):
        for metric in ("bev", "3d"):
            values = [_average_precision(r, table, metric) for r in reports]
            name = f"Car AP40 {metric.upper()} ({title}, {level})"
            rows.append((name, *(f"{value:.2f}" for value in values)))
    return "\n".join(f"{name:34}{before:>12}{after:>12}" for name, before, after in rows)


def _average_precision(report: dict, table: str, metric: str) -> float:
    """0 where nothing was detected: the devkit does not evaluate a class without detections."""
    found = report[table].get("Car", {}).get("AP40", {}).get(metric)
    return found[-1] if found else 0.0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=int, default=2000, help="training frames (default 2000)")
    parser.add_argument("--val", type=int, default=400, help="evaluation frames (default 400)")
    parser.add_argument("--output", type=Path, default=Path("output/quickstart"), help="results")
    parser.add_argument("--pictures", type=int, default=8, help="pictures to draw (default 8)")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="config keys, such as SEED 7"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    check_counts(args, train=1, val=1, pictures=0)
    start = time.monotonic()
    untrained = args.output / "untrained"
    run("tools/make_synthetic.py", "--out", str(datasets_root() / "synthetic"),
        "--train", str(args.train), "--val", str(args.val))  # fmt: skip
    net = ("train_net.py", "--config-file", CONFIG)
    run(*net, "--eval-only", "OUTPUT_DIR", str(untrained), *args.overrides)
    run(*net, "OUTPUT_DIR", str(args.output), *args.overrides)
    pictures = draw_predictions(args.output, args.pictures, 0.1, args.overrides)
    report = f"kitti_{DATASET}.json"
    print(f"\n{summarise(untrained / report, args.output / report)}")
    print(f"\nPictures: {', '.join(map(str, pictures))}")
    print(f"To look at every frame and curve, open {args.output / 'report.html'} in a browser.")
    print(f"Everything is in {args.output}; {(time.monotonic() - start) / 60:.1f} minutes.")


if __name__ == "__main__":
    with exit_on_error():
        main()
