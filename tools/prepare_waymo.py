"""Prepare the Waymo Open Dataset (perception) for training, without TensorFlow."""

import argparse
import sys
from pathlib import Path

from qiml.data.waymo_format import parse_cameras
from qiml.data.waymo_prepare import find_segments, prepare
from qiml.errors import check_counts, exit_on_error

EXAMPLE = """\
ROOT holds training/ and validation/ (or one split's files): .tfrecord files of release 1.1 to 1.4, or the
folders of release 2.0 (camera_image, camera_calibration, lidar_box, projected_lidar_box and
lidar_camera_synced_box), local or in s3:// or gs://. Release 1 needs `make setup-waymo` once. Its JPEGs are
copied as they are; of release 2 only an index is made, and training reads images from the parquet files.

An interrupted run goes on where it stopped. A segment that does not read is named, the others are done, and
the exit code is 2.

examples:
  python tools/prepare_waymo.py /data/waymo_v1 --out datasets/waymo --workers 8
  python tools/prepare_waymo.py gs://waymo_open_dataset_v_2_0_1 --out datasets/waymo --cameras all
  python tools/prepare_waymo.py /data/waymo_v1 --out datasets/waymo --kitti datasets/waymo_kitti
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", help="folder or address of the release")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument(
        "--every", type=int, default=3, help="of train, take each so many-th frame (default 3)"
    )
    parser.add_argument("--every-val", type=int, default=1, help="of val and test (default 1)")
    parser.add_argument(
        "--cameras", default="FRONT", help="names with commas, or all (default FRONT)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    parser.add_argument(
        "--split",
        default="train",
        choices=("train", "val", "test"),
        help="what to call files that lie in no folder training, validation or testing (default train)",
    )
    parser.add_argument(
        "--kitti", type=Path, metavar="DIR", help="also write a folder in KITTI's layout"
    )
    args = parser.parse_args()
    with exit_on_error():
        check_counts(args, every=1, every_val=1, workers=1)
        cameras = parse_cameras(args.cameras)
        segments = find_segments(
            args.root, args.out, args.every, cameras, args.every_val, args.split
        )
        summary = prepare(segments, args.workers)
        print(summary.to_text())
        if args.kitti:
            # Detectron2 loads slowly, and would in every process.
            from qiml.data.waymo_kitti import export_kitti

            export_kitti(args.out, args.kitti)
    sys.exit(2 if summary.failures else 0)


if __name__ == "__main__":
    main()
