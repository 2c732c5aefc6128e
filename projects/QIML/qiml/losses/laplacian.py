"""Laplacian aleatoric uncertainty loss."""

import torch
from torch import Tensor

from qiml.losses.reduction import global_mean


def laplacian_uncertainty_loss(
    prediction: Tensor, target: Tensor, log_sigma: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Negative log-likelihood of a Laplace distribution with predicted spread, up to a constant.

    `√2 · exp(−s) · |prediction − target| + s` with s = log σ, mean over elements. The official code
    writes the factor 1.4142, and so do we, to be equal to it. GUPNet and its descendants write the same in
    the log variance v = 2s: give v / 2.
    Source: Chen et al., MonoPair (CVPR 2020), Eq. 8; MonoDLE `lib/losses/uncertainty_loss.py`.

    Args:
        prediction, target: (...) in metres.
        log_sigma: (...) log of the standard deviation in metres (aleatoric uncertainty).
        mask: (...) bool, which elements count; None: all.

    Returns:
        Scalar; 0 for no elements.
    """
    error = (prediction - target).abs()
    if mask is not None:
        # Before the exponential: where that is infinite, not even a gradient of 0 would be finite.
        error, log_sigma = error.where(mask, 0), log_sigma.where(mask, 0)
    return global_mean(1.4142 * torch.exp(-log_sigma) * error + log_sigma, mask)
