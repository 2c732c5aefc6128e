"""Dimension-aware L1 loss."""

from torch import Tensor

from qiml.losses.reduction import global_mean


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
    relative = global_mean(error / (target if relative_to is None else relative_to.detach()))
    # Where every error is 0 both means are 0: the ratio is then irrelevant, but must not be NaN.
    compensation = global_mean(error).detach() / relative.detach().clamp(min=1e-12)
    return relative * compensation
