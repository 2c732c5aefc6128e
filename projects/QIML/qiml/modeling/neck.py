"""DLAUp: iterative deep aggregation of backbone levels up to stride 4."""

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn


def _conv_bn_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class BilinearUpsample(nn.ConvTranspose2d):
    """Learnable depthwise up-sampling that starts as bilinear interpolation."""

    def __init__(self, channels: int, factor: int):
        super().__init__(
            channels,
            channels,
            2 * factor,
            stride=factor,
            padding=factor // 2,
            groups=channels,
            bias=False,
        )
        ramp = 1 - (torch.arange(2 * factor) - (factor - 0.5)).abs() / factor
        with torch.no_grad():
            self.weight.copy_(ramp[:, None] * ramp)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H · factor, W · factor) of the same dtype."""
        if not x.is_cpu:
            return super().forward(x)
        # oneDNN has fast depthwise kernels for float32 alone: half precision takes several times as long.
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class IDAUp(nn.Module):
    """Merge ever coarser maps into the finest: project, up-sample, concatenate with the last merge, convolve.

    Args:
        in_channels: channels of the maps, finest first.
        out_channels: channels of every merge, equal to `in_channels[0]`.
        factors: up-sampling factor of each map relative to the finest.
        learned_upsampling: False repeats pixels instead, without weights.
    """

    def __init__(
        self,
        in_channels: list[int],
        out_channels: int,
        factors: list[int],
        learned_upsampling: bool,
    ):
        super().__init__()
        self.projections = nn.ModuleList(_conv_bn_relu(c, out_channels) for c in in_channels[1:])
        self.upsamples = nn.ModuleList(
            BilinearUpsample(out_channels, factor)
            if learned_upsampling
            else nn.Upsample(scale_factor=factor, mode="nearest")
            for factor in factors[1:]
        )
        self.nodes = nn.ModuleList(
            _conv_bn_relu(2 * out_channels, out_channels) for _ in in_channels[1:]
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of decreasing size to as many maps, all but the first replaced by merges at full size."""
        merged = [maps[0]]
        for level, project, upsample, node in zip(
            maps[1:], self.projections, self.upsamples, self.nodes, strict=True
        ):
            merged.append(node(torch.cat([merged[-1], upsample(project(level))], dim=1)))
        return merged


class DLAUp(nn.Module):
    """Neck of CenterNet and MonoDLE, without deformable convolutions.

    Source: Yu et al., Deep Layer Aggregation (CVPR 2018); MonoDLE `lib/backbones/dlaup.py`.

    Args:
        input_shape: the backbone's maps, whose strides double from one to the next.
        learned_upsampling: see :class:`IDAUp`.
    """

    def __init__(self, input_shape: dict[str, ShapeSpec], learned_upsampling: bool = True):
        super().__init__()
        self.in_features = sorted(input_shape, key=lambda name: input_shape[name].stride)
        channels = [input_shape[name].channels for name in self.in_features]
        scales = [
            input_shape[name].stride // input_shape[self.in_features[0]].stride
            for name in self.in_features
        ]
        self.out_channels = channels[0]
        self.stride = input_shape[self.in_features[0]].stride
        stages = []
        for first in range(len(channels) - 2, -1, -1):
            factors = [scale // scales[first] for scale in scales[first:]]
            stages.append(IDAUp(channels[first:], channels[first], factors, learned_upsampling))
            # From here on everything below this level has its size and width.
            channels[first + 1 :] = [channels[first]] * (len(channels) - first - 1)
            scales[first + 1 :] = [scales[first]] * (len(scales) - first - 1)
        self.stages = nn.ModuleList(stages)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Backbone maps to one map (B, C, H/4, W/4)."""
        maps = [features[name] for name in self.in_features]
        for stage_number, stage in enumerate(self.stages):
            first = len(maps) - 2 - stage_number
            maps[first:] = stage(maps[first:])
        return maps[-1]
