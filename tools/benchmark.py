"""Speed as ratios, measured in one run on this machine; nothing here is a test.

Each line times two ways to the same numbers: a stated reference, and what QIML does.
"""

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

import qiml.modeling  # noqa: F401  registers the detector
from qiml.config import load_config
from qiml.data.synthetic import render_scene
from qiml.engine.solver import build_optimizer
from qiml.evaluation.waymo import evaluate as evaluate_waymo
from qiml.io import atomic_write_text
from qiml.losses import QuasiIsometricLoss
from qiml.modeling.box3d.monodle import REGRESSION_CHANNELS
from qiml.modeling.sampling import pooled_descriptors
from qiml.modeling.steerable_conv import SteerableConv2d
from qiml.structures.boxes3d import Boxes3D

QUICKSTART = "configs/quickstart.yaml"
FULL_SIZE = "configs/kitti/monodle_dla34_qi_depth.yaml"
GOLDEN_SCENES = Path("tests/golden/kitti_random_scenes.tar.gz")
AUXILIARY = ("MODEL.OBJECT_DEPTH.ENABLED", "MODEL.QUASI_ISOMETRIC.ENABLED")
HEADS = ("MonoDLEHead", "GUPNetHead", "DIDM3DHead", "MonoConHead")


@dataclass(frozen=True)
class Comparison:
    """Seconds of a reference and of ours for the same work."""

    what: str
    reference: str
    reference_seconds: float
    seconds: float

    @property
    def ratio(self) -> float:
        return self.reference_seconds / self.seconds


def best_times(*calls: Callable[[], object], repeats: int) -> list[float]:
    """Shortest of `repeats` runs of each call, in turns so that both meet the same disturbances."""
    times = [float("inf")] * len(calls)
    for turn in range(repeats + 1):
        for index, call in enumerate(calls):
            start = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:  # the first warms up
                times[index] = min(times[index], time.perf_counter() - start)
    return times


def synthetic_batch(
    size: int, width: int, height: int, device: str, objects: int = 6
) -> list[dict]:
    """Random images and objects as large as cars: 2D boxes cover some 8 % of the image, as KITTI's do."""
    generator = torch.Generator().manual_seed(0)
    batch = []
    for _ in range(size):
        centres = torch.rand(objects, 2, generator=generator) * torch.tensor(
            [width - 1.0, height - 1.0]
        )
        depth = 5 + 50 * torch.rand(objects, generator=generator)
        half = (width / 1280) * 540 / depth[:, None] * torch.tensor([1.5, 1.0])
        corners = torch.cat([centres - half, centres + half], dim=1)
        limits = torch.tensor([width, height] * 2) - 1.0
        boxes3d = torch.cat(
            [torch.zeros(objects, 2), depth[:, None], torch.ones(objects, 4)], dim=1
        )
        instances = Instances(
            (height, width),
            gt_boxes=Boxes(torch.minimum(corners.clamp(min=0), limits)),
            gt_classes=torch.ones(objects, dtype=torch.int64),
            gt_boxes3d=Boxes3D(boxes3d),
            gt_projected_centres=centres,
            gt_depth=depth,
            gt_alpha=torch.zeros(objects),
            gt_has_3d=torch.ones(objects, dtype=torch.bool),
            gt_apparent_depth=depth,
            gt_cameras=torch.zeros(objects, 3, 4),
            gt_affines=torch.zeros(objects, 2, 3),
        )
        image = torch.randint(0, 255, (3, height, width), dtype=torch.uint8, generator=generator)
        batch.append({"image": image.to(device), "instances": instances.to(device)})
    return batch


class DenseRegression(torch.nn.Module):
    """The reference: branches over the whole map, read at objects afterwards, as in the official code."""

    def __init__(self, head: torch.nn.Module):
        super().__init__()
        self.head = head

    def forward(self, features, image_index, cells):
        maps = {name: self.head.get_submodule(name)(features) for name in REGRESSION_CHANNELS}
        return {n: m[image_index, :, cells[:, 1], cells[:, 0]].float() for n, m in maps.items()}


def training_step(
    overrides: list[str], batch_size: int, dense: bool = False, config: str = QUICKSTART
) -> Callable[[], None]:
    """A closure that does one optimisation step, of the quick-start network by default."""
    cfg = load_config(config, overrides)
    model = build_model(cfg).to(memory_format=torch.channels_last).train()
    if dense:
        object.__setattr__(model.box3d_head, "regress", DenseRegression(model.box3d_head))
    optimizer = build_optimizer(cfg, model)
    batch = synthetic_batch(batch_size, *cfg.INPUT.SIZE, cfg.MODEL.DEVICE)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        sum(model(batch).values()).backward()
        optimizer.step()

    return step


def compare_training(batch_size: int, repeats: int) -> list[Comparison]:
    without = [word for key in AUXILIARY for word in (key, "False")]
    ours = training_step([], batch_size)
    plain = training_step(without, batch_size)
    dense = training_step([], batch_size, dense=True)
    single = training_step(["SOLVER.AMP.ENABLED", "False"], batch_size)
    t_ours, t_plain, t_dense, t_single = best_times(ours, plain, dense, single, repeats=repeats)
    name = f"training step, batch {batch_size}"
    return [
        Comparison(name, "branches over the whole map", t_dense, t_ours),
        Comparison(name, "float32 instead of bfloat16", t_single, t_ours),
        Comparison(name, "without the two losses", t_plain, t_ours),
    ]


def compare_full_size(repeats: int) -> list[Comparison]:
    """What the two losses add to a step of MonoDLE with DLA-34; batch 2 of 1280×384."""
    steps = []
    for flags in ((False, False), (False, True), (True, False), (True, True)):
        overrides = ["MODEL.BACKBONE.PRETRAINED", "False"]
        overrides += [
            word for item in zip(AUXILIARY, map(str, flags), strict=True) for word in item
        ]
        steps.append(training_step(overrides, 2, config=FULL_SIZE))
    plain, *others = best_times(*steps, repeats=repeats)
    names = ("quasi-isometric loss", "object-depth head", "both")
    return [
        Comparison(f"DLA-34 step, {name}", "without the two losses", plain, seconds)
        for name, seconds in zip(names, others, strict=True)
    ]


@dataclass(frozen=True)
class InferenceCost:
    """What a detector that was trained with or without the two losses costs at inference."""

    head: str
    losses: bool
    parameters: int
    seconds: float


def compare_inference(repeats: int) -> list[InferenceCost]:
    """The quick-start network with each head, on one image; all its peaks are decoded."""
    rows = []
    for head in HEADS:
        detectors = [_inference_detector(head, losses) for losses in (False, True)]
        seconds = best_times(*(detect for _, detect in detectors), repeats=repeats)
        for losses, (parameters, _), time_taken in zip(
            (False, True), detectors, seconds, strict=True
        ):
            rows.append(InferenceCost(head, losses, parameters, time_taken))
    return rows


def _inference_detector(head: str, losses: bool) -> tuple[int, Callable[[], object]]:
    """Number of parameters, and a closure that detects in one image."""
    overrides = ["MODEL.BOX3D_HEAD.NAME", head, "MODEL.BOX3D_HEAD.SCORE_THRESHOLD", "0.0"]
    overrides += [word for key in AUXILIARY for word in (key, str(losses))]
    cfg = load_config(QUICKSTART, overrides)
    torch.manual_seed(0)
    detector = build_model(cfg).to(memory_format=torch.channels_last).for_inference()
    width, height = cfg.INPUT.SIZE
    (frame,) = synthetic_batch(1, width, height, cfg.MODEL.DEVICE)
    camera = torch.tensor([[240.0, 0, width / 2, 0], [0, 240, height / 2, 0], [0, 0, 1, 0]])
    frame |= {"camera": camera, "affine": torch.eye(2, 3), "height": height, "width": width}

    @torch.no_grad()
    def detect() -> object:
        return detector([frame])

    return sum(parameter.numel() for parameter in detector.parameters()), detect


def print_inference(rows: list[InferenceCost]) -> None:
    print(
        f"\n{'inference, 1 image 416×128':28}{'trained with':>14}{'parameters':>13}{'latency':>10}"
    )
    for row in rows:
        losses = "both losses" if row.losses else "none"
        print(f"{row.head:28}{losses:>14}{row.parameters:13,}{row.seconds * 1e3:7.1f} ms")


def compare_losses(repeats: int) -> list[Comparison]:
    def run(form: str, objects: int) -> Callable[[], None]:
        features = torch.randn(objects, 64, requires_grad=True)
        depth = 5 + 50 * torch.rand(objects)
        criterion = QuasiIsometricLoss(form=form)
        return lambda: criterion(features, depth).backward()

    rows = []
    for objects in (50, 200, 1000):
        official, ours = best_times(
            run("official", objects), run("two_sided", objects), repeats=repeats
        )
        rows.append(Comparison(f"metric loss, {objects} objects", "official form", official, ours))
    return rows


def compare_descriptors(repeats: int) -> list[Comparison]:
    features = torch.randn(8, 64, 32, 104).to(memory_format=torch.channels_last).requires_grad_()
    image_index = torch.arange(40) % 8
    cells = torch.stack([torch.randint(104, (40,)), torch.randint(32, (40,))], dim=1)

    def pooled_map() -> None:
        pooled = F.avg_pool2d(features, 5, stride=1, padding=2)
        pooled[image_index, :, cells[:, 1], cells[:, 0]].sum().backward()

    def gathered() -> None:
        pooled_descriptors(features, image_index, cells, 5).sum().backward()

    reference, ours = best_times(pooled_map, gathered, repeats=repeats)
    return [Comparison("40 descriptors", "average pooling of the whole map", reference, ours)]


SCALES = (0.83, 0.9, 1.0)
# Channels, height and width of maps that DLA-34's convolutions see in an image of 1280×384.
STEERABLE_MAPS = ((16, 384, 1280), (64, 96, 320), (256, 24, 80))


def compare_steerable(repeats: int) -> list[Comparison]:
    """Steerable convolutions of three scales in place of 3×3 ones, on one image.

    Against ordinary ones on each scale's maps, with kernels as large, 5×5, or with those replaced; and
    against the official code's way, which composes kernels in every call and lays scales beside channels.
    """
    rows = []
    for channels, height, width in STEERABLE_MAPS:
        maps = torch.randn(len(SCALES), channels, height, width)
        maps = maps.to(memory_format=torch.channels_last).requires_grad_()
        convolution = SteerableConv2d(channels, channels, 3, scales=SCALES)
        wide, narrow = (
            torch.nn.Conv2d(channels, channels, size, padding=size // 2, bias=False)
            for size in (5, 3)
        )
        ways = {
            "": lambda maps, convolution=convolution: [convolution(maps)],
            "5×5 convolution on each scale": partial(_on_each_scale, wide),
            "3×3 convolution on each scale": partial(_on_each_scale, narrow),
            "official code's way": partial(_official_steerable, convolution),
        }
        for training in (False, True):
            convolution.train(training)
            calls = [partial(_run_convolution, way, maps, training) for way in ways.values()]
            ours, *references = best_times(*calls, repeats=repeats)
            name = f"steerable {channels} ch, {'training' if training else 'inference'}"
            rows += [
                Comparison(name, reference, seconds, ours)
                for reference, seconds in zip(list(ways)[1:], references, strict=True)
            ]
    return rows


def _run_convolution(way: Callable, maps: torch.Tensor, training: bool) -> None:
    with torch.set_grad_enabled(training):
        answers = way(maps)
        if training:
            sum(answer.sum() for answer in answers).backward()


def _on_each_scale(convolution: torch.nn.Module, maps: torch.Tensor) -> list[torch.Tensor]:
    return [convolution(part) for part in maps.chunk(len(SCALES))]


def _official_steerable(convolution: SteerableConv2d, maps: torch.Tensor) -> list[torch.Tensor]:
    """Of maps (S, C, H, W) of one image."""
    size = convolution.basis.shape[-1]
    kernels = convolution.weight @ convolution.basis.flatten(1)
    kernels = kernels.unflatten(2, (len(SCALES), size, size)).permute(2, 0, 1, 3, 4)
    beside = maps.contiguous().flatten(0, 1)[None]
    return [F.conv2d(beside, kernels.flatten(0, 1), padding=size // 2, groups=len(SCALES))]


def time_evaluation(labels: Path, results: Path, devkit: Path | None, repeats: int) -> str:
    """KITTI evaluation as a process, from files to table, beside the official devkit's where it is given.

    Args:
        labels, results: folders of label and result files.
        devkit: binary of the C++ devkit, called as `BINARY LABELS RESULTS`.
        repeats: of each; the best counts.
    """
    ours = [sys.executable, "-m", "qiml.evaluation.kitti", str(labels), str(results)]
    commands = [ours] if devkit is None else [ours, [str(devkit), str(labels), str(results)]]
    calls = [partial(subprocess.run, c, check=True, stdout=subprocess.DEVNULL) for c in commands]
    seconds = best_times(*calls, repeats=repeats)
    text = f"KITTI evaluation of {len(list(results.glob('*.txt')))} frames, as a process: {seconds[0]:.2f} s"
    if devkit is not None:
        text += f"; devkit {seconds[1]:.2f} s, {seconds[1] / seconds[0]:.1f}×"
    return text


def evaluate_golden_scenes(repeats: int) -> str:
    """:func:`time_evaluation` on the made-up scenes that the tests use."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(GOLDEN_SCENES) as archive:
        archive.extractall(folder, filter="data")
        (labels,) = Path(folder).rglob("label_2")
        return time_evaluation(labels, labels.parent / "data", None, repeats)


def time_waymo_evaluation(frames: int, boxes: int = 30) -> str:
    """Time Waymo's metric, and LET, on made-up frames with as many objects as detections.

    Args:
        frames: how many, about 40,000 as in Waymo's validation split.
        boxes: objects of each.
    """
    rng = np.random.default_rng(0)
    count = frames * boxes
    kinds = rng.choice([1, 2, 4], count, p=[0.6, 0.3, 0.1])
    sizes = {1: (4.8, 2.1, 1.8), 2: (0.9, 0.85, 1.75), 4: (1.8, 0.8, 1.7)}
    gt = np.empty((count, 10))
    gt[:, 0] = np.repeat(np.arange(frames), boxes)
    gt[:, 1:4] = rng.uniform((-75, -40, 0), (75, 40, 2), (count, 3))
    gt[:, 4:7] = np.array([sizes[kind] for kind in kinds.tolist()])
    gt[:, 7], gt[:, 8], gt[:, 9] = rng.uniform(-3, 3, count), kinds, rng.integers(1, 3, count)
    found = gt.copy()
    found[:, 1:4] += rng.normal(0, 0.2, (count, 3))
    found[:, 9] = rng.random(count)
    seconds = []
    for let in (False, True):
        start = time.perf_counter()
        evaluate_waymo(gt, found, let=let)
        seconds.append(time.perf_counter() - start)
    return (
        f"Waymo evaluation of {frames} frames with {boxes} objects and detections each: "
        f"{seconds[0]:.1f} s; LET {seconds[1]:.1f} s"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument(
        "--repeats", type=int, default=8, help="of each measurement; the best counts"
    )
    parser.add_argument("--json", type=Path, help="also write the comparisons here")
    parser.add_argument(
        "--kitti",
        type=Path,
        nargs=2,
        metavar=("LABEL_DIR", "RESULT_DIR"),
        help="time the evaluation of these files (default: 400 made-up scenes)",
    )
    parser.add_argument(
        "--devkit",
        type=Path,
        help="with --kitti: binary of the C++ devkit, called with both folders",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    rows = compare_training(args.batch_size, args.repeats)
    rows += compare_full_size(min(args.repeats, 4))
    rows += compare_descriptors(args.repeats) + compare_losses(args.repeats)
    rows += compare_steerable(min(args.repeats, 3))
    print(f"\n{'what':34}{'ours':>10}   {'reference':34}{'its time':>10}{'ratio':>8}")
    for row in rows:
        print(
            f"{row.what:34}{row.seconds * 1e3:7.1f} ms   {row.reference:34}"
            f"{row.reference_seconds * 1e3:7.1f} ms{row.ratio:7.2f}×"
        )
    inference = compare_inference(args.repeats)
    print_inference(inference)
    step = rows[0].seconds
    (render,) = best_times(lambda: render_scene(seed=0, index=0), repeats=args.repeats)
    print(f"\ntraining: {args.batch_size / step:.0f} images/s of 416×128, data loading aside")
    print(f"drawing scenes: {1 / render:.0f} frames/s of 416×128 in one process")
    if args.kitti:
        print(time_evaluation(*args.kitti, args.devkit, repeats=3))
    else:
        print(evaluate_golden_scenes(repeats=3))
    print(time_waymo_evaluation(frames=40_000))
    if args.json:
        results = [{**asdict(row), "ratio": row.ratio} for row in rows]
        results += [asdict(row) for row in inference]
        atomic_write_text(args.json, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
