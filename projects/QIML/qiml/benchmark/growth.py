"""How time grows with work: sizes, seconds, and the exponent that fits them."""

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from qiml.benchmark.evaluation import waymo_objects
from qiml.benchmark.losses import STRIDE, quasi_isometric_call, random_descriptors
from qiml.benchmark.records import Growth, Record
from qiml.benchmark.scale import Scale, made_up_batch, switched
from qiml.benchmark.timing import Timer, forward_and_backward
from qiml.benchmark.training import fast_detector, made_up_step
from qiml.data.loader import build_train_loader
from qiml.evaluation.waymo import evaluate as evaluate_waymo
from qiml.losses import heatmap_focal_loss
from qiml.modeling.box3d.centre_head import CentrePredictions
from qiml.modeling.targets import flatten_objects, render_heatmap


def time_growth(timer: Timer, scale: Scale, dataset: str) -> list[Record]:
    """All of them, from cheap to dear."""
    return [
        _grow(timer, "losses of an image", "objects", scale.growth_objects, _losses(scale)),
        _grow(timer, "quasi-isometric loss", "objects", scale.objects, _quasi_isometric),
        _grow(timer, "heat map and its loss", "classes", scale.growth_classes, _heatmap(scale)),
        _grow(timer, "Waymo's metric", "frames", scale.growth_frames, _waymo, at_most=1),
        time_loading(scale, dataset),
        time_step(timer, scale),
    ]


def _grow(
    timer: Timer,
    what: str,
    variable: str,
    sizes: Sequence[int],
    make: Callable[[int], Callable[[], object]],
    at_most: int | None = None,
) -> Growth:
    seconds = timer.seconds(*map(make, sizes), at_most=at_most)
    return Growth(what, variable, tuple(sizes), tuple(seconds))


def _losses(scale: Scale) -> Callable[[int], Callable[[], None]]:
    cfg = scale.load(*switched((True, True)))
    model = fast_detector(cfg).train()
    features = torch.randn(1, model.neck.out_channels, *scale.map_size, device=model.device)
    features = features.to(memory_format=torch.channels_last).requires_grad_()
    logits = torch.randn(1, model.box3d_head.num_classes, *scale.map_size, device=model.device)
    predictions = CentrePredictions(logits.requires_grad_(), features)

    def make(objects: int) -> Callable[[], None]:
        height, width = (side * STRIDE for side in scale.map_size)
        (sample,) = made_up_batch(1, width, height, objects=objects)

        def losses() -> Tensor:
            with model.mixed_precision():
                return sum(model.losses(features, predictions, [sample["instances"]]).values())

        return forward_and_backward(losses, [features, logits])

    return make


def _quasi_isometric(objects: int) -> Callable[[], None]:
    features, depth = random_descriptors(objects)
    return forward_and_backward(quasi_isometric_call("two_sided", features, depth), [features])


def _heatmap(scale: Scale) -> Callable[[int], Callable[[], None]]:
    height, width = (side * STRIDE for side in scale.map_size)
    instances = [x["instances"] for x in made_up_batch(scale.batch, width, height)]

    def make(classes: int) -> Callable[[], None]:
        targets = flatten_objects(instances, STRIDE, scale.map_size)
        targets.classes.clamp_(max=classes - 1)
        logits = torch.randn(scale.batch, classes, *scale.map_size).requires_grad_()
        return forward_and_backward(
            lambda: heatmap_focal_loss(logits, render_heatmap(targets, classes)), [logits]
        )

    return make


def _waymo(frames: int) -> Callable[[], object]:
    gt, found = waymo_objects(frames, boxes=30)
    return lambda: evaluate_waymo(gt, found)


def time_loading(scale: Scale, dataset: str) -> Growth:
    """Seconds on the clock that an image takes as worker processes are added; −1 is ideal."""
    seconds = []
    for workers in scale.growth_workers:
        cfg = scale.load(
            *("DATASETS.TRAIN", (dataset,), "SOLVER.IMS_PER_BATCH", 4),
            *("DATALOADER.NUM_WORKERS", workers, *switched((True, True))),
        )
        batches = iter(build_train_loader(cfg))
        _draw(batches, 2 * workers)  # what workers prepare ahead
        taken = min(_draw(batches, scale.frames) for _ in range(3))
        seconds.append(taken / (4 * scale.frames))
    return Growth("loading an image", "worker processes", scale.growth_workers, tuple(seconds))


def _draw(batches: Iterator, count: int) -> float:
    """Seconds it takes to draw that many."""
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    return time.perf_counter() - start


def time_step(timer: Timer, scale: Scale) -> Growth:
    """A step of one image as that grows."""
    ratio = scale.size[1] / scale.size[0]
    sizes = [(width, round(width * ratio / 32) * 32) for width in scale.growth_widths]
    steps = [
        made_up_step(scale.load(*switched((True, True)), "INPUT.SIZE", size), 1) for size in sizes
    ]
    seconds = timer.seconds(*steps, at_most=3)
    pixels = tuple(width * height for width, height in sizes)
    return Growth(f"{scale.name} step, batch 1", "pixels", pixels, tuple(seconds))
