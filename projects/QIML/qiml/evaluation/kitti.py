"""KITTI's object benchmark, equal to the official C++ devkit; NumPy only.

On the command line: `python -m qiml.evaluation.kitti --help`. From Python::

    evaluation = evaluate(ground_truth, detections)      # a KITTIObjects for each frame
    evaluation.results("strict")["Car"]["AP40"]["3d"]    # [easy, moderate, hard]

    report = evaluate_files("label_2", "results")        # the same from files, with error tables
    print(report.to_text())

Other difficulties and overlaps can be given to both, for example `difficulties=[VISIBLE]`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from qiml.data.kitti_folder import read_image_ids
from qiml.errors import exit_on_error
from qiml.evaluation.figure import check_picture
from qiml.evaluation.kitti_evaluation import KITTIEvaluation, OverlapTables, evaluate
from qiml.evaluation.kitti_files import read_folders
from qiml.evaluation.kitti_report import KITTIReport
from qiml.evaluation.kitti_rules import (
    KITTI_CLASSES,
    KITTI_DIFFICULTIES,
    KITTI_OVERLAPS,
    VISIBLE,
    Difficulty,
    Overlaps,
    check_classes,
)

__all__ = [
    "KITTI_CLASSES", "KITTI_DIFFICULTIES", "KITTI_OVERLAPS", "VISIBLE", "Difficulty",
    "KITTIEvaluation", "KITTIReport", "Overlaps", "evaluate", "evaluate_files", "main",
]  # fmt: skip


def evaluate_files(
    label_dir: str | Path,
    result_dir: str | Path,
    *,
    ids: Sequence[str] | None = None,
    allow_missing: bool = False,
    classes: Sequence[str] = KITTI_CLASSES,
    difficulties: Sequence[Difficulty] = KITTI_DIFFICULTIES,
    overlaps: OverlapTables = KITTI_OVERLAPS,
    breakdown: bool = False,
) -> KITTIReport:
    """Evaluate a folder of result files.

    Args:
        label_dir: folder of ID.txt, 15 columns each.
        result_dir: folder of ID.txt, 16 columns each; or the folder above, if they lie in its
            `data`.
        ids: frames to evaluate; None takes all that have labels.
        allow_missing: take a missing result file for a frame without detections.
        classes: names to evaluate.
        difficulties: which objects count; error tables are about the last.
        overlaps: tables of minimal overlaps by name.
        breakdown: also find what each kind of error costs.

    Raises:
        DatasetError: folders, files or lines that do not fit; see :func:`read_folders`.
        ConfigError: a class without minimal overlaps.
    """
    check_classes(classes, overlaps)
    gt, dt = read_folders(label_dir, result_dir, ids, allow_missing)
    return KITTIReport.from_tables(
        gt, dt, classes=classes, difficulties=difficulties, overlaps=overlaps, breakdown=breakdown
    )


_EXAMPLE = """\
example:
  python -m qiml.evaluation.kitti datasets/kitti/training/label_2 output/kitti_results/kitti_val \\
      --ids datasets/kitti/ImageSets/val.txt --classes Car --json val.json --plot val.png

Rules, difficulties and thresholds are those of the official C++ devkit. AP40 is the mean of the
precision at recall 1/40, 2/40, ... 1 (KITTI's since 2019); AP11 at 0, 0.1, ... 1 (older papers).
"strict" overlaps are KITTI's own (Car 0.7, others 0.5); "relaxed" ones for bev and 3d are 0.5 and
0.25.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m qiml.evaluation.kitti",
        description="Average precision of KITTI result files: 2D boxes (2d), orientation (aos), "
        "bird's eye view (bev) and 3D boxes (3d); depth errors of what was found.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("label_dir", help="folder of label files, ID.txt (15 columns)")
    parser.add_argument(
        "result_dir", help="folder of result files, ID.txt (15 columns and a score)"
    )
    parser.add_argument(
        "--ids", metavar="FILE", help="frames to evaluate, one id a line; default: all labels"
    )
    parser.add_argument(
        "--classes", nargs="+", default=KITTI_CLASSES, metavar="CLASS", help="default: all three"
    )
    parser.add_argument("--json", metavar="OUT", help="write all numbers and curves to this file")
    parser.add_argument("--plot", metavar="OUT.png", help="draw precision over recall")
    parser.add_argument(
        "--breakdown",
        action="store_true",
        help="also show what errors of depth, position, size and heading cost",
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="count missing result files as empty"
    )
    options = parser.parse_args(arguments)
    with exit_on_error():
        if options.plot:
            check_picture(options.plot)
        report = evaluate_files(
            options.label_dir,
            options.result_dir,
            ids=read_image_ids(options.ids) if options.ids else None,
            allow_missing=options.allow_missing,
            classes=options.classes,
            breakdown=options.breakdown,
        )
        print(report.to_text())
        if options.json:
            report.write_json(options.json)
        if options.plot:
            from qiml.evaluation.kitti_plot import plot_precision_recall

            plot_precision_recall(report.evaluation, options.plot)


if __name__ == "__main__":
    main()
