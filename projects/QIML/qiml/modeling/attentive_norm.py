"""Attentive normalisation: batch norm whose affine part is mixed anew for every image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AttentiveBatchNorm2d(nn.BatchNorm2d):
    """Batch norm followed by a weighted sum of several affine transforms, the weights read from the image.

    ::

        x ─┬─ batch norm ──────────────────────────────────────────────── × scale + shift ─▶
           └─ mean / std of each channel ─ linear ─ batch norm ─ hard sigmoid ─▶ mixture (B, mixtures)

    Its output at a cell depends on the whole map, so that it cannot be evaluated at objects alone.
    Source: Li et al., Attentive Normalization (ECCV 2020); MonoCon `mmdet3d/ops/attentive_norm.py`.

    Args:
        channels: of the map.
        mixtures: number of affine transforms.
        momentum, eps: of the batch norm; the defaults are MonoCon's.
    """

    def __init__(
        self, channels: int, mixtures: int = 10, *, momentum: float = 0.03, eps: float = 1e-3
    ):
        super().__init__(channels, eps, momentum, affine=False)
        self.scales = nn.Parameter(torch.empty(mixtures, channels).normal_(1.0, 0.1))
        self.shifts = nn.Parameter(torch.empty(mixtures, channels).normal_(0.0, 0.1))
        self.attention = nn.Linear(channels, mixtures, bias=False)
        nn.init.kaiming_normal_(self.attention.weight, mode="fan_out", nonlinearity="relu")
        self.attention_norm = nn.BatchNorm1d(mixtures)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape and dtype."""
        normalised = super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            mixture = self.mixture(x.float())
            scale, shift = mixture @ self.scales, mixture @ self.shifts
        scale, shift = (v[..., None, None].to(normalised.dtype) for v in (scale, shift))
        return torch.addcmul(shift, normalised, scale)

    def mixture(self, x: Tensor) -> Tensor:
        """Weights (B, mixtures) in [0, 1] of the affine transforms, from a map in float32."""
        variance, mean = torch.var_mean(x, dim=(2, 3))
        logits = self.attention(mean * (variance + 1e-3).rsqrt())
        norm = self.attention_norm
        if self.training and len(x) == 1:
            # One image has no batch statistics of its own: take the running ones.
            logits = F.batch_norm(
                logits, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )
        else:
            logits = norm(logits)
        return F.hardsigmoid(logits)
