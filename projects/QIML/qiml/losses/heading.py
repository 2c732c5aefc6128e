"""Multi-bin heading: encoding, decoding and loss of the observation angle alpha."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from qiml.losses.reduction import global_mean
from qiml.structures.boxes3d import wrap_angle

NUM_BINS = 12
BIN_SIZE = 2 * math.pi / NUM_BINS


def encode_heading(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Bin index and residual of observation angles; bin k is centred on k · 30°.

    Source: MonoDLE `lib/datasets/utils.py::angle2class`.

    Args:
        alpha: (M,) radians.

    Returns:
        bins (M,) int64 in [0, 12), residuals (M,) radians in [−π/12, π/12).
    """
    shifted = torch.remainder(alpha + BIN_SIZE / 2, 2 * math.pi)
    bins = (shifted / BIN_SIZE).long().clamp(max=NUM_BINS - 1)
    return bins, shifted - (bins + 0.5) * BIN_SIZE


def decode_heading(heading: Tensor) -> Tensor:
    """Observation angle of the best bin plus its residual.

    Args:
        heading: (M, 24), 12 bin logits then 12 residuals.

    Returns:
        alpha (M,) radians in [−π, π).
    """
    logits, residuals = heading.float().split(NUM_BINS, dim=1)
    bins = logits.argmax(dim=1)
    return wrap_angle(bins * BIN_SIZE + residuals.gather(1, bins[:, None]).squeeze(1))


def heading_loss(heading: Tensor, alpha: Tensor) -> Tensor:
    """Cross-entropy over the bins plus L1 on the residual of the true bin.

    Source: MonoDLE `lib/losses/centernet_loss.py::compute_heading_loss`.

    Args:
        heading: (M, 24), 12 bin logits then 12 residuals (radians).
        alpha: (M,) true observation angles in radians.

    Returns:
        Scalar; 0 for no objects.
    """
    logits, residuals = heading.float().split(NUM_BINS, dim=1)
    bins, residual = encode_heading(alpha)
    classification = F.cross_entropy(logits, bins, reduction="none")
    regression = (residuals.gather(1, bins[:, None]).squeeze(1) - residual).abs()
    return global_mean(classification) + global_mean(regression)
