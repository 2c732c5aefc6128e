"""Penalty-reduced focal loss on centre heat maps."""

import torch
from torch import Tensor

from qiml.losses.reduction import global_sum_ratio


def heatmap_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """CornerNet's focal loss (alpha 2, beta 4), divided by the number of centres.

    Source: Law & Deng, CornerNet (ECCV 2018), Eq. 1; MonoDLE `lib/losses/focal_loss.py`. Probabilities
    are clamped to [1e-4, 1 − 1e-4] as there.

    Args:
        logits: (B, C, H, W) raw heat map.
        target: (B, C, H, W) in [0, 1], exactly 1 at centres.

    Returns:
        Scalar; the plain sum over background where the batch has no centre.
    """
    probability = logits.float().sigmoid().clamp(1e-4, 1 - 1e-4)
    is_centre = target.eq(1)
    positive = torch.log(probability) * (1 - probability) ** 2
    negative = torch.log(1 - probability) * probability**2 * (1 - target) ** 4
    total = -torch.where(is_centre, positive, negative).sum()
    return global_sum_ratio(total, is_centre.sum())
