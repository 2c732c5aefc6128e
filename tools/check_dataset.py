#!/usr/bin/env python
"""Check data sets before hours of training: files, images, calibration, boxes, splits, duplicates."""

import argparse
import json
import os
import sys
from pathlib import Path

from qiml.data.catalog import CUSTOM_PREFIX, WAYMO_PREFIX
from qiml.doctor.checks import check_labels
from qiml.doctor.images import check_duplicates, check_images
from qiml.doctor.pictures import draw_worst
from qiml.doctor.problems import ERROR
from qiml.doctor.report import summarise, to_dict, to_text
from qiml.doctor.splits import check_splits
from qiml.doctor.survey import survey
from qiml.errors import ConfigError, check_counts, exit_on_error
from qiml.io import atomic_write_text, visible_files

EXAMPLES = """\
Prints a table of classes, a table of checks, and the worst problems of each kind. Writes all of them to
OUTPUT/report.json and pictures of the worst frames to OUTPUT/pictures: boxes that sit beside their objects
show at a glance. Inputs are never changed.

Errors are what training would fail on, or learn something else from than the images show; warnings what
some objects or frames suffer from. Exit code: 0 without errors, 1 with, 2 where the command cannot work.

Examples:

KITTI, and whether train and val share frames:
    $ python tools/check_dataset.py kitti_train kitti_val

A folder of your own in KITTI's layout, its list ImageSets/mine.txt, without decoding images:
    $ python tools/check_dataset.py /data/mine --split mine --no-images

Prepared Waymo data, the front camera; then all cameras:
    $ python tools/check_dataset.py datasets/waymo --split val
    $ python tools/check_dataset.py waymo_format:datasets/waymo:val:all
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = f"folder, or name as in DATASETS.TRAIN: kitti_train, {CUSTOM_PREFIX}ROOT:SPLIT, …"
    add("data", nargs="+", metavar="DATA", help=names)
    add("--split", default="train", help="of folders (default %(default)s)")
    decode = "decode every image; else only headers are read (default: decode)"
    add("--images", action=argparse.BooleanOptionalAction, default=True, help=decode)
    add("--workers", type=int, metavar="N", help="threads that decode (default: one a core)")
    add("--draw", type=int, default=8, metavar="N", help="pictures (default %(default)s; 0: none)")
    output = "folder of report.json and pictures (default %(default)s)"
    add("--output", type=Path, default=Path("output/check_dataset"), help=output)
    return parser.parse_args()


def name_of(data: str, split: str) -> str:
    """A folder's name in the catalogue; names stay as they are. Raises ConfigError for other paths."""
    folder = Path(data).expanduser()
    if not folder.is_dir():
        if os.sep in data and not data.startswith((CUSTOM_PREFIX, WAYMO_PREFIX)):
            raise ConfigError(
                data, found="no such folder", expected="a data set", mend="correct the path"
            )
        return data
    if visible_files(folder / split, "*.jsonl"):
        return f"{WAYMO_PREFIX}{folder}:{split}:FRONT"
    return f"{CUSTOM_PREFIX}{folder}:{split}"


def run(args: argparse.Namespace) -> int:
    """Check everything and tell of it; returns the number of errors."""
    check_counts(args, workers=1, draw=0)
    names = dict.fromkeys(name_of(data, args.split) for data in args.data)
    surveys = [survey(name) for name in names]
    problems = [problem for each in surveys for problem in (*each.problems, *check_labels(each))]
    problems += check_splits(surveys) + check_duplicates(surveys)
    for each in surveys if args.images else ():
        problems += check_images(each, args.workers)
    summaries = {each.name: summarise(each) for each in surveys}
    print(to_text(surveys, summaries, problems, skipped=() if args.images else ("images",)))
    report = args.output / "report.json"
    atomic_write_text(report, json.dumps(to_dict(summaries, problems), indent=1) + "\n")
    pictures = args.output / "pictures"
    drawn = draw_worst(surveys, problems, pictures, args.draw)
    errors = sum(problem.severity == ERROR for problem in problems)
    print(f"\n{errors} errors, {len(problems) - errors} warnings: {report}")
    if drawn:
        print(f"{len(drawn)} pictures of the worst frames: {pictures}")
    return errors


if __name__ == "__main__":
    with exit_on_error():
        sys.exit(bool(run(parse_arguments())))
