"""Check a folder in KITTI's layout and summarise it."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from qiml.data.kitti_folder import KITTISplit, read_image_size
from qiml.data.kitti_format import KITTIObjects, read_calibration, read_objects
from qiml.errors import DatasetError, exit_on_error
from qiml.io import atomic_write_text

EXAMPLE = """\
Every malformed or missing file is printed, a line each. Exit code: 0 without problems, else 2.

example:
  python tools/check_dataset.py datasets/kitti --split trainval --decode
"""


def check_frame(frames: KITTISplit, image_id: str, decode: bool) -> tuple[list[str], KITTIObjects]:
    """Read all files of a frame.

    Returns:
        The problems found, and the objects of the well-formed lines of its label file.
    """
    problems: list[DatasetError] = []
    objects = KITTIObjects.empty()
    try:
        read_image_size(frames.image_file(image_id), decode)
    except DatasetError as error:
        problems.append(error)
    try:
        read_calibration(frames.calibration_file(image_id))
    except DatasetError as error:
        problems.append(error)
    try:
        if label_file := frames.label_file(image_id):
            objects = read_objects(label_file, scored=False, on_error=problems.append)
    except DatasetError as error:
        problems.append(error)
    return [str(problem) for problem in problems], objects


def summarise(frames: list[KITTIObjects]) -> dict:
    """Counts of frames and objects, and how far away each class is.

    Returns:
        `frames`, `frames_without_objects`, and `classes`: name -> `objects` and, but for DontCare,
        the smallest, median and largest `depth` in metres.
    """
    objects = KITTIObjects.concatenate(frames)
    classes = {}
    for name in np.unique(objects.types).tolist():
        depth = objects.location[objects.types == name, 2]
        classes[name] = {"objects": len(depth)}
        if name.lower() != "dontcare":
            classes[name]["depth"] = np.quantile(depth, [0, 0.5, 1]).round(2).tolist()
    return {
        "frames": len(frames),
        "frames_without_objects": sum(len(frame) == 0 for frame in frames),
        "classes": classes,
    }


def print_table(summary: dict) -> None:
    print(f"{summary['frames']} frames, {summary['frames_without_objects']} without objects")
    print(f"{'class':<16}{'objects':>9}{'nearest':>10}{'median':>10}{'farthest':>10}  (depth in m)")
    for name, row in summary["classes"].items():
        depths = "".join(f"{depth:>10.2f}" for depth in row.get("depth", []))
        print(f"{name:<16}{row['objects']:>9}{depths}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder that holds training/ and ImageSets/")
    parser.add_argument(
        "--split",
        default="train",
        help="a list in ImageSets; 'test' reads testing/; 'all' needs no list (default: train)",
    )
    parser.add_argument("--decode", action="store_true", help="also decode every image (slow)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write problems and summary")
    arguments = parser.parse_args()

    with exit_on_error():
        frames = KITTISplit(arguments.root, arguments.split)
    problems, objects = [], []
    for image_id in tqdm(frames.image_ids, unit="frame", desc=arguments.split):
        frame_problems, frame_objects = check_frame(frames, image_id, arguments.decode)
        problems += frame_problems
        objects.append(frame_objects)
    summary = summarise(objects)
    print("\n".join([*problems, f"{len(problems)} problems in {arguments.root}"]))
    print_table(summary)
    if arguments.json:
        report = json.dumps({"problems": problems, **summary}, indent=2)
        atomic_write_text(arguments.json, report + "\n")
    sys.exit(2 if problems else 0)


if __name__ == "__main__":
    main()
