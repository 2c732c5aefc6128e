"""How large a benchmark is, and the networks and inputs it is about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances

from qiml.benchmark.records import Aim
from qiml.config import load_config
from qiml.data.catalog import register_datasets
from qiml.data.synthetic import STYLES
from qiml.structures.boxes3d import Boxes3D

ROOT = Path(__file__).resolve().parents[4]
AUXILIARY = ("MODEL.OBJECT_DEPTH.ENABLED", "MODEL.QUASI_ISOMETRIC.ENABLED")
CAR = 1  # of KITTI's classes
AIMS = {
    "step": Aim(5),  # times the official style's images/s
    "inference": Aim(3),  # the same, of one image
    "loading": Aim(60),  # images/s on a core
    "metric loss, share": Aim(1, at_most=True),  # per cent of a step
    "metric loss, time": Aim(2),  # times the speed of the formula as it reads, at the largest N
    "metric loss, memory": Aim(4, at_most=True),  # N² floats, at the largest N
    "waits": Aim(0, at_most=True),
}


@dataclass(frozen=True)
class Scale:
    """Sizes of everything that is timed.

    Attributes:
        repeats: of every measurement but the longest.
        config: of the detector that steps and inference are timed with.
        name: of that detector, to print.
        size: (width, height) of its input.
        batch: of its steps.
        quickstart_size, quickstart_batch: of the quick start's detector, for what is compared with it.
        frame: (width, height) of images on the disk.
        frames: how many of those.
        inference_batches: of its inference.
        objects: N of the quasi-isometric loss.
        map_size: (H, W) of the map that losses are timed on.
        steerable_maps: channels, height and width of the maps that steerable convolutions are timed on.
        growth_objects, growth_widths, growth_classes, growth_workers, growth_frames: what work grows by.
        waymo_frames: of Waymo's metric.
        aims: what the project set itself at full size.
    """

    repeats: int = 8
    config: str = "configs/kitti/monodle_dla34_qi_depth.yaml"
    name: str = "MonoDLE DLA-34"
    size: tuple[int, int] = (1280, 384)
    batch: int = 2
    quickstart_size: tuple[int, int] = (416, 128)
    quickstart_batch: int = 16
    frame: tuple[int, int] = (1242, 375)
    frames: int = 16
    inference_batches: tuple[int, ...] = (1, 8)
    objects: tuple[int, ...] = (50, 200, 1000)
    map_size: tuple[int, int] = (96, 320)
    steerable_maps: tuple[tuple[int, int, int], ...] = (
        (16, 384, 1280),
        (64, 96, 320),
        (256, 24, 80),
    )
    growth_objects: tuple[int, ...] = (5, 10, 20, 40, 80)
    growth_widths: tuple[int, ...] = (640, 896, 1280, 1792)
    growth_classes: tuple[int, ...] = (1, 3, 10, 30)
    growth_workers: tuple[int, ...] = (1, 2, 4)
    growth_frames: tuple[int, ...] = (1000, 4000, 16000)
    waymo_frames: int = 40_000
    aims: Mapping[str, Aim] = field(default_factory=lambda: AIMS)

    def load(self, *overrides: object) -> CfgNode:
        """The detector's config, without weights to download."""
        overrides = ("MODEL.BACKBONE.PRETRAINED", False, "INPUT.SIZE", self.size, *overrides)
        return load_config(str(ROOT / self.config), [str(word) for word in overrides])

    def load_quickstart(self, *overrides: object) -> CfgNode:
        """The quick start's."""
        overrides = ("INPUT.SIZE", self.quickstart_size, *overrides)
        config = ROOT / "configs/quickstart.yaml"
        return load_config(str(config), [str(word) for word in overrides])


QUICK = Scale(
    repeats=1,
    config="configs/quickstart.yaml",
    name="quick start",
    size=(96, 64),
    quickstart_size=(96, 64),
    quickstart_batch=2,
    frame=(128, 64),
    frames=4,
    inference_batches=(1, 2),
    objects=(10, 20, 50),
    map_size=(16, 24),
    steerable_maps=((8, 16, 24),),
    growth_objects=(2, 4, 8),
    growth_widths=(64, 96, 128),
    growth_classes=(1, 3),
    growth_workers=(1, 2),
    growth_frames=(20, 40),
    waymo_frames=20,
    aims={},
)
"""Everything once and tiny: to see that it runs, not how fast."""


def switched(flags: Sequence[bool]) -> list[object]:
    """Overrides that switch the object-depth head and the quasi-isometric loss."""
    return [word for pair in zip(AUXILIARY, flags, strict=True) for word in pair]


def draw_frames(root: Path, scale: Scale) -> str:
    """Made-up frames as files in KITTI's layout; the name of their data set.

    Sensor noise makes them as hard to decode as KITTI's photographs: some 850 KB each at its size.
    """
    style = STYLES["kitti"]
    for index in range(scale.frames):
        style.write_frame(root, scale.frame, seed=0, index=index)
    style.write_splits(root, scale.frames, 0)
    return f"kitti_format:{root}:train"


def read_frames(name: str, count: int) -> list[dict]:
    """The first dataset dicts of a data set."""
    register_datasets([name])
    return DatasetCatalog.get(name)[:count]


def made_up_batch(
    size: int, width: int, height: int, device: str = "cpu", objects: int = 6
) -> list[dict]:
    """Random images and objects as large as cars: 2D boxes cover some 8 % of the image, as KITTI's do."""
    generator = torch.Generator().manual_seed(0)
    batch = []
    camera = torch.tensor([[0.58 * width, 0, width / 2, 0], [0, 0.58 * width, height / 2, 0]])
    camera = torch.cat([camera, torch.tensor([[0.0, 0, 1, 0]])])
    for _ in range(size):
        image = torch.randint(0, 255, (3, height, width), dtype=torch.uint8, generator=generator)
        batch.append(
            {
                "image": image.to(device),
                "instances": _made_up_objects(objects, width, height, generator),
                "camera": camera,
                "affine": torch.eye(2, 3),
                "height": height,
                "width": width,
            }
        )
    return batch


def _made_up_objects(count: int, width: int, height: int, generator: torch.Generator) -> Instances:
    centres = torch.rand(count, 2, generator=generator)
    centres = centres * torch.tensor([width - 1.0, height - 1.0])
    depth = 5 + 50 * torch.rand(count, generator=generator)
    half = (width / 1280) * 540 / depth[:, None] * torch.tensor([1.5, 1.0])
    limits = torch.tensor([width, height] * 2) - 1.0
    corners = torch.cat([centres - half, centres + half], dim=1)
    boxes3d = torch.cat([torch.zeros(count, 2), depth[:, None], torch.ones(count, 4)], dim=1)
    return Instances(
        (height, width),
        gt_boxes=Boxes(torch.minimum(corners.clamp(min=0), limits)),
        gt_classes=torch.full((count,), CAR),
        gt_boxes3d=Boxes3D(boxes3d),
        gt_projected_centres=centres,
        gt_depth=depth,
        gt_alpha=torch.zeros(count),
        gt_has_3d=torch.ones(count, dtype=torch.bool),
        gt_apparent_depth=depth,
        gt_cameras=torch.zeros(count, 3, 4),
        gt_affines=torch.zeros(count, 2, 3),
    )
