"""Steerable convolutions of three scales in place of 3×3 ones, on one image."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qiml.benchmark.records import Comparison, Record
from qiml.benchmark.scale import Scale
from qiml.benchmark.timing import Timer, forward_and_backward
from qiml.modeling.steerable_conv import SteerableConv2d

SCALES = (0.83, 0.9, 1.0)


def compare_steerable(timer: Timer, scale: Scale) -> list[Record]:
    """Against ordinary ones on each scale's maps, with kernels as large, 5×5, or with those replaced.

    And against the official code's way, which composes kernels in every call and lays scales beside channels.
    """
    return [
        record
        for size in scale.steerable_maps
        for training in (False, True)
        for record in _compare(timer, *size, training)
    ]


def _compare(
    timer: Timer, channels: int, height: int, width: int, training: bool
) -> list[Comparison]:
    maps = torch.randn(len(SCALES), channels, height, width)
    maps = maps.to(memory_format=torch.channels_last).requires_grad_()
    steerable = SteerableConv2d(channels, channels, 3, scales=SCALES).train(training)
    wide, narrow = (
        nn.Conv2d(channels, channels, size, padding=size // 2, bias=False) for size in (5, 3)
    )
    ways = {
        "ours": (steerable, lambda: [steerable(maps)]),
        "5×5 convolution on each scale": (wide, partial(_on_each_scale, wide, maps)),
        "3×3 convolution on each scale": (narrow, partial(_on_each_scale, narrow, maps)),
        "official code's way": (steerable, partial(_official, steerable, maps)),
    }
    calls = [_call(way, [maps, *module.parameters()], training) for module, way in ways.values()]
    ours, *references = timer.seconds(*calls, at_most=3)
    what = f"steerable convolution, {channels} ch, {'training' if training else 'inference'}"
    return [
        Comparison(what, reference, seconds, ours)
        for reference, seconds in zip(list(ways)[1:], references, strict=True)
    ]


def _call(
    way: Callable[[], Sequence[Tensor]], parameters: list[Tensor], training: bool
) -> Callable[[], object]:
    if not training:
        return torch.no_grad()(way)
    return forward_and_backward(lambda: sum(answer.sum() for answer in way()), parameters)


def _on_each_scale(convolution: nn.Module, maps: Tensor) -> list[Tensor]:
    return [convolution(part) for part in maps.chunk(len(SCALES))]


def _official(convolution: SteerableConv2d, maps: Tensor) -> list[Tensor]:
    """Of maps (S, C, H, W) of one image."""
    size = convolution.basis.shape[-1]
    kernels = convolution.weight @ convolution.basis.flatten(1)
    kernels = kernels.unflatten(2, (len(SCALES), size, size)).permute(2, 0, 1, 3, 4)
    beside = maps.contiguous().flatten(0, 1)[None]
    return [F.conv2d(beside, kernels.flatten(0, 1), padding=size // 2, groups=len(SCALES))]
