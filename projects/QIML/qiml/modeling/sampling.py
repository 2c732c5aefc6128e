"""Reading feature maps at objects instead of everywhere."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def gather_windows(features: Tensor, image_index: Tensor, cells: Tensor, size: int) -> Tensor:
    """Square windows of a feature map around cells, zero beyond the border.

    Args:
        features: (B, C, H, W).
        image_index: (M,) int64, which image of the batch.
        cells: (M, 2) int64 x, y inside the map.
        size: odd side of the window.

    Returns:
        (M, C, size, size).
    """
    height, width = features.shape[-2:]
    offsets = torch.arange(size, device=features.device) - size // 2
    columns, rows = cells[:, :1] + offsets, cells[:, 1:] + offsets
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[
        :, None
    ]
    # Channels last: one object reads size² contiguous vectors of C numbers.
    windows = features.permute(0, 2, 3, 1)[
        image_index[:, None, None],
        rows.clamp(0, height - 1)[:, :, None],
        columns.clamp(0, width - 1)[:, None],
    ]
    return (windows * inside[..., None]).permute(0, 3, 1, 2)


def apply_at_windows(branches: Sequence[nn.Sequential], windows: Tensor) -> list[Tensor]:
    """Branches `Conv3×3, ReLU, Conv1×1` evaluated at the centres of 3×3 windows only.

    Equal to running each branch over the whole map (padding 1) and reading it at those cells. Their
    first layers are one matrix product: for few objects, calls cost more than arithmetic.

    Args:
        branches: of one input; their hidden widths may differ.
        windows: (M, C, 3, 3) of :func:`gather_windows`.

    Returns:
        Per branch (M, K) in the weights' precision, K its output channels.
    """
    hidden = hidden_at_windows([branch[0] for branch in branches], windows)
    widths = [branch[0].out_channels for branch in branches]
    return [
        read_out(part, branch[2])
        for branch, part in zip(branches, hidden.split(widths, dim=1), strict=True)
    ]


def read_out(hidden: Tensor, layer: nn.Conv2d) -> Tensor:
    """A 1×1 convolution of hidden units (..., C), in the weights' precision even under autocast: (..., K).

    An answer in bfloat16 has three digits: depth, about e to the power of it, would come in steps of 1 %.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        return F.linear(hidden.to(layer.weight.dtype), layer.weight.flatten(1), layer.bias)


def hidden_at_windows(layers: Sequence[nn.Conv2d], windows: Tensor) -> Tensor:
    """ReLU of 3×3 convolutions at the centres of windows (M, C, 3, 3): (M, sum of output channels)."""
    # In the windows' own memory order, channels last: nothing is copied, forward or backward.
    weight = torch.cat([layer.weight.permute(0, 2, 3, 1).flatten(1) for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    return F.relu(F.linear(windows.permute(0, 2, 3, 1).flatten(1), weight, bias))


def pooled_descriptors(features: Tensor, image_index: Tensor, cells: Tensor, size: int) -> Tensor:
    """Average-pooled features at objects; cells beyond the border count as zero, as in the official code.

    Args:
        features, image_index, cells, size: as :func:`gather_windows`.

    Returns:
        (M, C) descriptors in float32.
    """
    return gather_windows(features, image_index, cells, size).float().mean(dim=(2, 3))
