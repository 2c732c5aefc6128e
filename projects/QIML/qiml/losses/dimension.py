"""Dimension-aware L1 loss."""

import torch
from torch import Tensor

from qiml.losses.reduction import global_mean, global_sum


def dimension_aware_l1_loss(
    prediction: Tensor, target: Tensor, relative_to: Tensor | None = None
) -> Tensor:
    """L1 relative to the size, rescaled so that its value equals the plain L1 loss.

    An error of a few centimetres costs more IoU on a small side than on a large one; dividing by
    the side shares the gradient accordingly, the (detached) rescaling keeps the magnitude.
    Source: Ma et al., Delving into Localization Errors (MonoDLE, CVPR 2021), Sec. 3.4;
    `lib/losses/dim_aware_loss.py`.

    Args:
        prediction, target: (M, 3) h, w, l in metres; targets positive.
        relative_to: (M, 3) positive sizes that errors are divided by, without gradient; None: the true ones.

    Returns:
        Scalar; 0 for no objects.
    """
    error = (prediction - target).abs()
    relative = error / (target if relative_to is None else relative_to.detach())
    # Of all workers: a ratio of each its own would weigh their objects differently.
    plain_sum, relative_sum = global_sum(torch.stack([error.sum(), relative.sum()]))
    # Where every error is 0 both sums are 0: the ratio is then irrelevant, but must not be NaN.
    return global_mean(relative) * plain_sum / relative_sum.clamp(min=1e-12)
