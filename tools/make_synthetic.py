"""Draw a synthetic dataset in KITTI's layout or like prepared Waymo data: nothing to download."""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from qiml.data.kitti_folder import KITTISplit
from qiml.data.kitti_format import KITTIObjects, read_objects
from qiml.data.synthetic import STYLES, write_dataset
from qiml.data.waymo_format import CLASS_TYPES, read_split
from qiml.errors import ConfigError, exit_on_error

EXAMPLE = """\
The frames depend on seed and size alone. An interrupted run goes on where it stopped when started
again; a complete folder with the same settings is left as it is.

example:
  python tools/make_synthetic.py --out datasets/synthetic --train 1200 --val 300
  python tools/make_synthetic.py --out datasets/synthetic_waymo --style waymo --size 384x256
"""


def parse_size(text: str) -> tuple[int, int]:
    """Width and height from text such as 416x128.

    Raises:
        ConfigError: the text is not two integers with an x between.
    """
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise ConfigError(
            "--size", found=f"'{text}'", expected="WIDTHxHEIGHT", mend="pass a size such as 416x128"
        )
    return int(sides[0]), int(sides[1])


def print_summary(root: Path) -> None:
    """Print what a dataset holds: objects by class, by occlusion level, and how far away."""
    frames = KITTISplit(root, "trainval")
    labels = [read_objects(frames.label_file(i), scored=False) for i in frames.image_ids]
    objects = KITTIObjects.concatenate(labels)
    print(f"{root}: {len(labels)} frames, {len(objects) / len(labels):.1f} objects a frame")
    print(f"{'':16}{'objects':>9}{'occlusion 0':>13}{'1':>8}{'2':>8}{'3':>8}{'depth 5 %':>12}"
          f"{'50 %':>8}{'95 %':>8}")  # fmt: skip
    for name in sorted(set(objects.types), key=lambda name: -np.sum(objects.types == name)):
        own = objects[objects.types == name]
        row = f"{name:16}{len(own):9d}"
        if name != "DontCare":
            levels = [np.mean(own.occlusion == level) for level in range(4)]
            row += f"{levels[0]:13.0%}" + "".join(f"{level:8.0%}" for level in levels[1:])
            depths = np.quantile(own.location[:, 2], (0.05, 0.5, 0.95))
            row += f"{depths[0]:10.1f} m" + "".join(f"{depth:6.1f} m" for depth in depths[1:])
        print(row)


def print_waymo_summary(root: Path) -> None:
    """Print how many objects of each class a dataset in Waymo's style holds."""
    splits = [split for split in ("train", "val") if (root / split).is_dir()]
    frames = [frame for split in splits for frame in read_split(root, split)]
    kinds = Counter(CLASS_TYPES[item.type] for frame in frames for item in frame.objects)
    print(f"{root}: {len(frames)} frames; {', '.join(f'{n} {k}' for k, n in kinds.items())}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--train", type=int, default=1200, help="training frames (default 1200)")
    parser.add_argument("--val", type=int, default=300, help="validation frames (default 300)")
    parser.add_argument("--size", default="416x128", help="WIDTHxHEIGHT (default 416x128)")
    parser.add_argument(
        "--style", choices=STYLES, default="kitti", help="whose camera and classes (default kitti)"
    )
    parser.add_argument(
        "--dense-depth",
        action="store_true",
        help="write true depth maps, too: training/depth_dense (kitti style only)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed, other scenes (default 0)"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a synthetic dataset of other settings"
    )
    args = parser.parse_args()
    with exit_on_error():
        drawn = write_dataset(
            args.out,
            args.train,
            args.val,
            parse_size(args.size),
            args.seed,
            args.workers,
            args.overwrite,
            args.style,
            args.dense_depth,
        )
        if not drawn:
            print(f"{args.out} is complete already; nothing to do")
        if args.style == "kitti":
            print_summary(args.out)
        else:
            print_waymo_summary(args.out)


if __name__ == "__main__":
    main()
