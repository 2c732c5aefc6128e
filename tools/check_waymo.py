"""Check prepared Waymo data: do boxes project onto their labels, and how do they look?"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from qiml.data.mapper import read_image
from qiml.data.waymo import WAYMO_CLASSES, load_waymo
from qiml.data.waymo_format import CAMERAS, parse_cameras
from qiml.errors import exit_on_error
from qiml.io import atomic_path
from qiml.structures.boxes3d import Boxes3D
from qiml.structures.camera import Camera
from qiml.visualization.panel import prediction_panel

EXAMPLE = """\
Prints the IoU of 3D boxes projected without lens distortion and the release's projected labels, and how many
objects each class has. About 0.98 is usual for the front camera; the rest is distortion, which is strongest
at the image's border.

example:
  python tools/check_waymo.py datasets/waymo --split val --draw 8 --pictures output/waymo_pictures
"""


def projected_iou(frame: dict) -> np.ndarray:
    """(N,) IoU of each annotation's projected 3D box with its label's 2D box.

    Args:
        frame: a dict of :func:`qiml.data.waymo.load_waymo`.
    """
    annotations = frame["annotations"]
    boxes = Boxes3D(torch.tensor([a["box3d"] for a in annotations], dtype=torch.float64))
    camera = Camera(torch.tensor(frame["camera"], dtype=torch.float64))
    projected = boxes.project(camera, (frame["height"], frame["width"])).numpy()
    label = np.array([a["bbox"] for a in annotations]).reshape(-1, 4)
    upper_left = np.maximum(projected[:, :2], label[:, :2])
    lower_right = np.minimum(projected[:, 2:], label[:, 2:])
    shared = (lower_right - upper_left).clip(0).prod(axis=1)
    areas = [(box[:, 2:] - box[:, :2]).prod(axis=1) for box in (projected, label)]
    return shared / np.maximum(sum(areas) - shared, 1e-9)


def draw(frame: dict, folder: Path) -> None:
    """Write a picture of a frame's boxes, in the image and from above."""
    annotations = frame["annotations"]
    picture = prediction_panel(
        read_image(frame["file_name"]),
        Camera(torch.tensor(frame["camera"])),
        Boxes3D([a["box3d"] for a in annotations]),
        [a["category_id"] for a in annotations],
        WAYMO_CLASSES,
    )
    with atomic_path(folder / f"{frame['image_id']}.jpg") as temporary:
        cv2.imwrite(str(temporary), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


def print_table(frames: list[dict]) -> None:
    """Print, for each camera and class, the number of objects and how their boxes project."""
    print(
        f"{'camera':<13}{'class':<12}{'objects':>9}{'mean IoU':>10}{'median':>9}{'worst 5 %':>11}"
    )
    found: dict[tuple[str, int], list[float]] = {}
    for frame in tqdm(frames, unit="image", desc="projecting"):
        for annotation, iou in zip(frame["annotations"], projected_iou(frame), strict=True):
            key = frame["waymo"]["camera"], annotation["category_id"]
            found.setdefault(key, []).append(iou)
    for (camera, kind), values in sorted(
        found.items(), key=lambda i: (CAMERAS.index(i[0][0]), i[0][1])
    ):
        worst = np.quantile(values, 0.05)
        print(f"{camera:<13}{WAYMO_CLASSES[kind]:<12}{len(values):>9}{np.mean(values):>10.3f}"
              f"{np.median(values):>9.3f}{worst:>11.3f}")  # fmt: skip
    everything = [value for values in found.values() for value in values]
    mean = f"{np.mean(everything):.3f}" if everything else "n/a"
    print(f"{len(frames)} images, {len(everything)} objects, mean IoU {mean}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder that tools/prepare_waymo.py made")
    parser.add_argument("--split", default="train", choices=("train", "val"), help="default train")
    parser.add_argument(
        "--cameras", default="FRONT", help="names with commas, or all (default FRONT)"
    )
    parser.add_argument("--draw", type=int, default=0, metavar="N", help="pictures to draw")
    parser.add_argument(
        "--pictures", type=Path, default=Path("output/waymo_pictures"), help="their folder"
    )
    args = parser.parse_args()
    with exit_on_error():
        frames = load_waymo(args.root, args.split, parse_cameras(args.cameras))
        print_table(frames)
        for index in np.unique(np.linspace(0, len(frames) - 1, args.draw).astype(int)):
            draw(frames[index], args.pictures)
        if args.draw:
            print(f"Pictures are in {args.pictures}")


if __name__ == "__main__":
    main()
