"""Metric losses on object descriptors that the quasi-isometric loss is compared with.

All order the *whole* descriptor space by depth, where the quasi-isometric loss bounds distances of
neighbours only.
"""

import torch
from torch import Tensor

from qiml.losses.metric import MetricLoss, pairwise_distances

_TRIPLETS_AT_ONCE = 2**23


def rank_n_contrast_loss(features: Tensor, depth: Tensor, temperature: float = 2.0) -> Tensor:
    """Rank-N-Contrast, which is also SupCR: each other object against those at least as far off in depth.

    With s_ij = −‖x_i − x_j‖ / T, not normalised, the mean over all i and j ≠ i of

        −log( exp(s_ij) / Σ exp(s_ik) over k ≠ i with |z_i − z_k| ≥ |z_i − z_j| )

    Source: Zha et al., Rank-N-Contrast (NeurIPS 2023); official `loss.py`, whose similarity and temperature
    these are. SupCR (Supervised Contrastive Regression) is the method's name in the first version of the same
    paper, arXiv 2210.01189; reimplementations of it have the same formula, some with a cosine similarity.
    The official code contrasts two augmented views of each sample; here an object is one sample.
    Costs N² log N time and N² memory: sorted by depth difference, the sums are cumulative ones.

    Args:
        features: (N, C) descriptors.
        depth: (N,) metres, or any depth-like unit: only the order of differences counts.
        temperature: T, positive, in the unit of the features.

    Returns:
        Scalar; 0, still in the graph, for fewer than two objects.
    """
    count = len(depth)
    if count < 2:
        return features.sum() * 0.0
    others = ~torch.eye(count, dtype=torch.bool, device=depth.device)
    logits = -pairwise_distances(features, features)[others].view(count, -1) / temperature
    gap, order = (depth[:, None] - depth).abs()[others].view(count, -1).sort(dim=1)
    logits = logits.gather(1, order)
    farther = logits.flip(1).logcumsumexp(1).flip(1)  # log Σ from here to the farthest
    # Objects at the same difference are in each other's sum: it starts at the first of them.
    normaliser = farther.gather(1, torch.searchsorted(gap, gap))
    return (normaliser - logits).mean()


def ordinal_triplet_loss(
    features: Tensor, depth: Tensor, margin: float = 1.0, gap: float = 1.0
) -> Tensor:
    """Hinge that puts whatever is farther off in depth farther off among the descriptors.

    Over all triplets of objects with |z_i − z_j| + gap < |z_i − z_k| the mean of the positive ones of
    ‖x_i − x_j‖ − ‖x_i − x_k‖ + margin. A baseline of ours after FaceNet's triplet loss (Schroff et al.,
    CVPR 2015): with plain distances, not squared, and depth in the place of identities.
    Costs N³ time; memory N², and some 100 MB at most for the triplets, seen a few anchors at a time.

    Args:
        features: (N, C) descriptors.
        depth: (N,) metres.
        margin: in the unit of the features, at least 0.
        gap: in metres, at least 0: differences closer than this are not ordered.

    Returns:
        Scalar; 0, still in the graph, where no triplet violates the margin.
    """
    distance = pairwise_distances(features, features)
    far = (depth[:, None] - depth).abs()
    near = (far + gap).fill_diagonal_(float("inf"))  # an object is no neighbour of itself
    # A distance stands in many triplets: its factor in their sum is a difference of two counts.
    anchors = max(1, _TRIPLETS_AT_ONCE // max(1, len(depth)) ** 2)
    chunks = zip(*(x.split(anchors) for x in (distance.detach(), near, far)), strict=True)
    counts = [_violations(*chunk, margin) for chunk in chunks]
    pull, push = (torch.cat(x) for x in zip(*counts, strict=True))
    violating = pull.sum()
    factor = (pull - push).to(distance.dtype)
    return ((factor * distance).sum() + margin * violating) / violating.clamp(min=1)


def _violations(
    distance: Tensor, near: Tensor, far: Tensor, margin: float
) -> tuple[Tensor, Tensor]:
    """How often (i, j) is the near and how often the far side of a violating triplet; (A, N) each."""
    violating = near[:, :, None] < far[:, None, :]
    violating &= distance[:, :, None] + margin > distance[:, None, :]
    return violating.sum(dim=2), violating.sum(dim=1)


class RankNContrastLoss(MetricLoss):
    """:func:`rank_n_contrast_loss` (SupCR) as a module: ``loss(features (N, C), depth (N,)) -> scalar``.

    Args:
        temperature: see there.
        weight, gather: see :class:`MetricLoss`.

    Raises:
        ValueError: the temperature is not positive.
    """

    def __init__(self, temperature: float = 2.0, weight: float = 0.5, gather: bool = True):
        super().__init__(weight, gather)
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        self.temperature = temperature

    def compare(self, features: Tensor, depth: Tensor) -> Tensor:
        return rank_n_contrast_loss(features, depth, self.temperature)


class OrdinalTripletLoss(MetricLoss):
    """:func:`ordinal_triplet_loss` as a module: ``loss(features (N, C), depth (N,)) -> scalar``.

    Args:
        margin, gap: see there.
        weight, gather: see :class:`MetricLoss`.

    Raises:
        ValueError: margin or gap is negative.
    """

    def __init__(
        self, margin: float = 1.0, gap: float = 1.0, weight: float = 0.5, gather: bool = True
    ):
        super().__init__(weight, gather)
        if margin < 0 or gap < 0:
            raise ValueError(f"margin and gap must not be negative: {margin}, {gap}")
        self.margin, self.gap = margin, gap

    def compare(self, features: Tensor, depth: Tensor) -> Tensor:
        return ordinal_triplet_loss(features, depth, self.margin, self.gap)
