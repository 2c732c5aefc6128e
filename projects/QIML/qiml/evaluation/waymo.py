"""Waymo's 3D detection metric without TensorFlow; NumPy only.

On the command line: `python -m qiml.evaluation.waymo --help`. From Python::

    rows = evaluate(gt, pred, iou={1: 0.7, 2: 0.5, 4: 0.5})     # arrays, see its docstring
    rows["OBJECT_TYPE_TYPE_VEHICLE_LEVEL_1"]["APH"]
    rows = evaluate(gt, pred, let=True)                         # LET-3D-AP, APH, APL

    report = evaluate_files("ground_truths.bin", "predictions.bin")
    print(report.to_text())
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from qiml.data.kitti_folder import read_image_ids
from qiml.errors import ConfigError, exit_on_error
from qiml.evaluation.waymo_files import FrameNumbers, read_ground_truth, read_predictions
from qiml.evaluation.waymo_legacy import PROTOCOL, evaluate_folders
from qiml.evaluation.waymo_metric import evaluate
from qiml.evaluation.waymo_report import TITLES, WaymoReport
from qiml.evaluation.waymo_rules import iou_thresholds

__all__ = ["WaymoReport", "evaluate", "evaluate_files", "main"]


def evaluate_files(
    ground_truth: str | Path,
    predictions: str | Path,
    *,
    iou: Mapping[int | str, float] | None = None,
    let: bool = False,
) -> WaymoReport:
    """Evaluate what the official tools evaluate.

    Args:
        ground_truth, predictions: files with a serialised `metrics.Objects`.
        iou, let: as for :func:`evaluate`.

    Raises:
        ConfigError: Waymo's protocol buffers are not installed, or wrong thresholds.
        DatasetError: a file does not read, or holds a box that cannot be.
    """
    thresholds = iou_thresholds(iou, let)  # before files are read that may take minutes
    frames = FrameNumbers()
    gt, skipped = read_ground_truth(ground_truth, frames, let)
    pred, excused = read_predictions(predictions, frames)
    rows = evaluate(gt, pred, iou, let, overlap_with_nlz=excused)
    protocol = "let" if let else "official"
    return WaymoReport(protocol, thresholds, rows, len(frames), skipped)


_EXAMPLE = """\
examples:
  python -m qiml.evaluation.waymo ground_truths.bin predictions.bin --json val.json
  python -m qiml.evaluation.waymo ground_truths.bin predictions.bin --protocol let
  python -m qiml.evaluation.waymo ground_truths.bin predictions.bin --iou VEHICLE=0.5 PEDESTRIAN=0.3
  python -m qiml.evaluation.waymo label_0 results/data --protocol mono_front_legacy --iou VEHICLE=0.5

official and let: files of metrics.Objects, as for the official tools, whose numbers these are
(101 score cut-offs, Hungarian matching, LEVEL_2 for at most 5 LiDAR points). mono_front_legacy: folders
of KITTI text files with 16 columns, the last being LiDAR points (labels) or scores (results).
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m qiml.evaluation.waymo",
        description="Average precision (AP), weighted by heading (APH) and by longitudinal affinity "
        "(APL), by type, level and range.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("ground_truth", help="file of objects, or folder of labels (legacy)")
    parser.add_argument("predictions", help="file of detections, or folder of results (legacy)")
    parser.add_argument("--protocol", choices=TITLES, default="official", help="default: official")
    parser.add_argument(
        "--iou",
        nargs="+",
        metavar="TYPE=IoU",
        default=[],
        help="other thresholds than the official",
    )
    parser.add_argument("--ids", metavar="FILE", help="frames to evaluate (mono_front_legacy)")
    parser.add_argument("--json", metavar="OUT", help="write all numbers to this file")
    options = parser.parse_args(arguments)
    with exit_on_error():
        iou = _parse_thresholds(options.iou)
        if options.protocol == PROTOCOL:
            ids = read_image_ids(options.ids) if options.ids else None
            rows, frames = evaluate_folders(options.ground_truth, options.predictions, ids, iou)
            report = WaymoReport(PROTOCOL, iou_thresholds(iou, let=False), rows, frames)
        elif options.ids:
            raise ConfigError(
                "--ids",
                found=f"it with the protocol {options.protocol}",
                expected=f"{PROTOCOL}, whose files are named after frames",
                mend="leave it out",
            )
        else:
            let = options.protocol == "let"
            report = evaluate_files(options.ground_truth, options.predictions, iou=iou, let=let)
        print(report.to_text())
        if options.json:
            report.write_json(options.json)


def _parse_thresholds(words: Sequence[str]) -> dict[str, float]:
    thresholds = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            thresholds[name] = float(value)
        except ValueError as error:
            raise ConfigError(
                "--iou", found=f"'{word}'", expected="TYPE=IoU", mend="write it as VEHICLE=0.5"
            ) from error
    return thresholds


if __name__ == "__main__":
    main()
