"""Losses and targets by themselves."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from qiml.benchmark.memory import peak_bytes
from qiml.benchmark.official import host_targets, literal_quasi_isometric_loss
from qiml.benchmark.records import Comparison, Measure, Record
from qiml.benchmark.scale import Scale, made_up_batch
from qiml.benchmark.timing import Timer, forward_and_backward
from qiml.losses import QuasiIsometricLoss
from qiml.modeling.sampling import pooled_descriptors
from qiml.modeling.targets import flatten_objects, paint_object_depth, render_heatmap

CHANNELS = 64
STRIDE = 4
BOUNDS = (1.5, 0.5, 10.0, 10.0)
"""K, B, ε and T of the paper."""
LITERAL = "the formula on gathered pairs"


def random_descriptors(objects: int) -> tuple[Tensor, Tensor]:
    """Features (N, C) and depths (N,) with pairs of all kinds: inside the bounds, too close and too far."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(objects, CHANNELS, generator=generator).requires_grad_()
    return features, 5 + 50 * torch.rand(objects, generator=generator)


def compare_quasi_isometric(timer: Timer, scale: Scale) -> list[Record]:
    """Forward and backward against the formula as it reads, and the most memory in units of N² floats."""
    records: list[Record] = []
    for objects in scale.objects:
        features, depth = random_descriptors(objects)
        calls = {
            LITERAL: lambda x=features, z=depth: literal_quasi_isometric_loss(x, z, *BOUNDS),
            "official form, ours": quasi_isometric_call("official", features, depth),
            "ours": quasi_isometric_call("two_sided", features, depth),
        }
        both = {name: forward_and_backward(call, [features]) for name, call in calls.items()}
        *others, ours = timer.seconds(*both.values())
        what = f"quasi-isometric loss, {objects} objects"
        for name, seconds in zip(calls, others, strict=False):
            largest = objects == scale.objects[-1] and name == LITERAL
            aim = scale.aims.get("metric loss, time") if largest else None
            records.append(Comparison(what, name, seconds, ours, aim=aim))
    for name, call in both.items():
        floats = peak_bytes(call) / 4 / objects**2
        aim = scale.aims.get("metric loss, memory") if name == "ours" else None
        records.append(Measure(f"memory, {what}: {name}", floats, "N² floats", aim=aim))
    return records


def quasi_isometric_call(form: str, features: Tensor, depth: Tensor) -> Callable[[], Tensor]:
    return partial(QuasiIsometricLoss(form=form), features, depth)


def compare_descriptors(timer: Timer, scale: Scale) -> list[Record]:
    """Reading descriptors at objects against pooling the whole map."""
    images, objects = 8, 40
    height, width = scale.map_size
    features = torch.randn(images, CHANNELS, height // 3, width // 3)
    features = features.to(memory_format=torch.channels_last).requires_grad_()
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randint(side // 3, (objects,), generator=generator) for side in (width, height))
    image_index, cells = torch.arange(objects) % images, torch.stack([x, y], dim=1)

    def pooled_map() -> Tensor:
        return F.avg_pool2d(features, 5, stride=1, padding=2)[image_index, :, y, x].sum()

    def gathered() -> Tensor:
        return pooled_descriptors(features, image_index, cells, 5).sum()

    reference, ours = timer.seconds(
        *(forward_and_backward(call, [features]) for call in (pooled_map, gathered))
    )
    return [
        Comparison(f"{objects} descriptors", "average pooling of the whole map", reference, ours)
    ]


def compare_targets(timer: Timer, scale: Scale, classes: int = 3) -> list[Record]:
    """Heat map and painted depth of a batch against building them on the host, object by object."""
    width, height = scale.size
    map_size = (height // STRIDE, width // STRIDE)
    instances = [x["instances"] for x in made_up_batch(scale.batch, width, height, objects=12)]

    def rendered() -> None:
        targets = flatten_objects(instances, STRIDE, map_size)
        render_heatmap(targets, classes)
        paint_object_depth(
            targets.boxes2d, targets.depth, targets.image_index, len(instances), map_size
        )

    def on_host() -> None:
        for objects in instances:
            host_targets(objects, STRIDE, map_size, classes)

    reference, ours = timer.seconds(on_host, rendered)
    what = f"targets, batch {scale.batch}, 12 objects each"
    return [Comparison(what, "object by object on the host", reference, ours)]
