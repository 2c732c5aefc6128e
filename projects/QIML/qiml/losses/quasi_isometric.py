"""The (K, B, ε)-quasi-isometric metric loss on object descriptors.

For two objects whose depths differ by Δz (0 < Δz ≤ ε), the distance D of their descriptors is held inside

    Δz / K − B  ≤  D  ≤  K · Δz + B        (u = D − K·Δz − B,   l = Δz/K − D − B;  > 0 violates)

Source: Choi, Shin & Im, Depth-discriminative Metric Learning for Monocular 3D Object Detection
(NeurIPS 2023); official code DDML-M3DOD `lib/losses/centernet_loss.py::_update_K_return_loss`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qiml.losses.metric import MetricLoss, pairwise_distances

LOG_DEPTH_SCALE = 25.0
"""Log-depth in units comparable with metres: 25·ln z has slope 1 at 25 m, a typical object distance."""
_ROWS_AT_ONCE = 128


def official_loss(
    features: Tensor, depth: Tensor, k: float, b: float, epsilon: float, temperature: float
) -> Tensor:
    """The official code's form, value for value and gradient for gradient.

    mean over upper violators p of log(1 + Σ over lower violators n of exp((u_p − l_n) / T)), with the
    second object of each pair detached. Kept for comparison: its lower branch has the wrong sign
    (descent draws pairs that are too close still closer), it is silent unless both kinds of violators exist,
    and it depends on the order of the objects. Where the official value overflows to NaN or infinity
    (and is replaced by 0, with NaN gradients) this one stays finite.

    Args, Returns: as :func:`two_sided_loss`.
    """
    pairs = torch.ones(len(depth), len(depth), dtype=torch.bool, device=depth.device).triu(
        diagonal=1
    )
    gap = torch.cdist(depth[:, None], depth[:, None])
    pairs &= (gap <= epsilon) & (gap > 1e-12)
    gap = gap[pairs]
    distance = pairwise_distances(features, features.detach())[pairs]
    upper = distance - k * gap - b
    lower = gap / k - distance - b
    upper, lower = upper[upper > 0], lower[lower > 0]
    if len(upper) == 0 or len(lower) == 0:
        return features.sum() * 0.0
    return F.softplus(upper / temperature + torch.logsumexp(-lower / temperature, dim=0)).mean()


def two_sided_loss(features: Tensor, depth: Tensor, k: float, b: float, epsilon: float) -> Tensor:
    """Both bounds as hinges: max(u, l, 0), mean over violating pairs, gradient to both objects.

    Pulls pairs that are too far together and pushes pairs that are too close apart; symmetric in
    each pair and in the order of the objects; finite for finite input. Costs N² time and N memory. Can be
    differentiated once, and by the descriptors alone.

    Args:
        features: (N, C) descriptors.
        depth: (N,) object depth, in metres or any depth-like unit.
        k, b, epsilon: the bounds; b and epsilon in the unit of `depth`.

    Returns:
        Scalar; 0, still in the graph, where no pair violates its bounds.
    """
    return _TwoSided.apply(features, depth, k, b, epsilon)


class _TwoSided(torch.autograd.Function):
    """Value and gradient in one pass over blocks of rows, so that no square matrix is ever held.

    Of the sum over pairs of s_ij · (D_ij − bound), s_ij being 1 (too far), −1 (too close) or 0, the gradient
    at x_i is Σ_j w_ij (x_i − x_j) with w_ij = s_ij / D_ij: a matrix product.
    """

    @staticmethod
    def forward(ctx, features, depth, k, b, epsilon):
        features = features - features.mean(dim=0)  # distances stay; products keep their digits
        total, count = features.new_zeros(()), features.new_zeros(())
        gradient = torch.zeros_like(features)
        for first in range(0, len(depth), _ROWS_AT_ONCE):
            # Pairs of these rows with all that follow: each pair once, above the diagonal.
            rows, columns = slice(first, first + _ROWS_AT_ONCE), slice(first, None)
            gap = (depth[rows, None] - depth[columns]).abs_()
            distance = pairwise_distances(features[rows], features[columns])
            apart = (gap > epsilon) | (gap <= 1e-12)
            upper = torch.add(distance, gap, alpha=-k).sub_(b).clamp_(min=0)
            lower = gap.div_(k).sub_(b).sub_(distance).clamp_(min=0)
            # Of a pair one at most is positive: the difference is positive where too far, negative too close.
            violation = upper.sub_(lower).masked_fill_(apart, 0).triu_(1)
            total += violation.abs().sum()
            sign = violation.sign_()
            count += sign.count_nonzero()
            # Where descriptors are equal no direction leads apart.
            weight = sign.div_(distance).masked_fill_(distance == 0, 0)
            near, far = features[rows], features[columns]
            gradient[rows] += weight.sum(dim=1)[:, None] * near - weight @ far
            gradient[columns] += weight.sum(dim=0)[:, None] * far - weight.T @ near
        count.clamp_(min=1)
        ctx.save_for_backward(gradient.div_(count))
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None, None, None


class QuasiIsometricLoss(MetricLoss):
    """Quasi-isometric metric loss as a module: ``loss(features (N, C), depth (N,)) -> scalar``.

    Args:
        k, b, epsilon: bounds of the quasi-isometry; epsilon in metres (also with log-depth: in its unit).
        temperature: of the official form; unused by "two_sided".
        form: "two_sided" (ours, both bounds pull the right way) or "official" (the released code).
        depth_space: "metric" (metres) or "log" (25·ln z: bounds that widen with distance).
        weight, gather: see :class:`MetricLoss`.
        learn_scale: learn a factor on all feature distances, from 1 on. K and B then bound ratios and not
            lengths, which nothing else in a network fixes.

    Raises:
        ValueError: unknown form or depth space, bounds that contradict each other (k < 1, b < 0), or an
            epsilon or temperature that is not positive.
    """

    def __init__(
        self,
        k: float = 1.5,
        b: float = 0.5,
        epsilon: float = 10.0,
        weight: float = 0.5,
        temperature: float = 10.0,
        form: str = "two_sided",
        depth_space: str = "metric",
        gather: bool = True,
        learn_scale: bool = False,
    ):
        super().__init__(weight, gather)
        if form not in ("two_sided", "official"):
            raise ValueError(f"form must be 'two_sided' or 'official', not {form!r}")
        if depth_space not in ("metric", "log"):
            raise ValueError(f"depth_space must be 'metric' or 'log', not {depth_space!r}")
        if k < 1 or b < 0:
            raise ValueError(f"bounds need k >= 1 and b >= 0, not k={k}, b={b}")
        if not (epsilon > 0 and temperature > 0):
            raise ValueError(
                f"epsilon and temperature must be positive, not {epsilon} and {temperature}"
            )
        self.k, self.b, self.epsilon, self.temperature = k, b, epsilon, temperature
        self.form, self.depth_space = form, depth_space
        self.log_scale = nn.Parameter(torch.zeros(())) if learn_scale else None

    def forward(self, features: Tensor, depth: Tensor) -> Tensor:
        if self.log_scale is not None:
            # Before the objects of all workers meet, so that each adds the gradient of its own alone.
            features = features * self.log_scale.exp()
        return super().forward(features, depth)

    def compare(self, features: Tensor, depth: Tensor) -> Tensor:
        if self.depth_space == "log":
            depth = LOG_DEPTH_SCALE * depth.log()
        bounds = (self.k, self.b, self.epsilon)
        if self.form == "official":
            return official_loss(features, depth, *bounds, self.temperature)
        return two_sided_loss(features, depth, *bounds)
