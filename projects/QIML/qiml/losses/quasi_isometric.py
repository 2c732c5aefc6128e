"""The (K, B, ε)-quasi-isometric metric loss on object descriptors.

For two objects whose depths differ by Δz (0 < Δz ≤ ε), the distance D of their descriptors is held inside

    Δz / K − B  ≤  D  ≤  K · Δz + B        (u = D − K·Δz − B,   l = Δz/K − D − B;  > 0 violates)

Source: Choi, Shin & Im, Depth-discriminative Metric Learning for Monocular 3D Object Detection
(NeurIPS 2023); official code DDML-M3DOD `lib/losses/centernet_loss.py::_update_K_return_loss`.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from qiml.losses.reduction import world_size

LOG_DEPTH_SCALE = 25.0
"""Log-depth in units comparable with metres: 25·ln z has slope 1 at 25 m, a typical object distance."""


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
    distance = _distances(features, features.detach())[pairs]
    upper = distance - k * gap - b
    lower = gap / k - distance - b
    upper, lower = upper[upper > 0], lower[lower > 0]
    if len(upper) == 0 or len(lower) == 0:
        return features.sum() * 0.0
    return F.softplus(upper / temperature + torch.logsumexp(-lower / temperature, dim=0)).mean()


def two_sided_loss(features: Tensor, depth: Tensor, k: float, b: float, epsilon: float) -> Tensor:
    """Both bounds as hinges: max(u, l, 0), mean over violating pairs, gradient to both objects.

    Pulls pairs that are too far together and pushes pairs that are too close apart; symmetric in
    each pair and in the order of the objects; finite for finite input.

    Args:
        features: (N, C) descriptors.
        depth: (N,) object depth, in metres or any depth-like unit.
        k, b, epsilon: the bounds; b and epsilon in the unit of `depth`.

    Returns:
        Scalar; 0, still in the graph, where no pair violates its bounds.
    """
    gap = (depth[:, None] - depth).abs()
    distance = _distances(features, features)
    violation = torch.maximum(distance - k * gap - b, gap / k - b - distance).clamp(min=0)
    local = (gap <= epsilon) & (gap > 1e-12)
    violation = torch.where(local, violation, 0.0)
    # Each pair stands twice in the square matrix, above and below the line alike: the mean is the same.
    return violation.sum() / (violation > 0).sum().clamp(min=1)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (N, M); exact near 0, where the matrix-product shortcut loses its digits."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


class QuasiIsometricLoss(nn.Module):
    """Quasi-isometric metric loss as a module: ``loss(features (N, C), depth (N,)) -> scalar``.

    Args:
        k, b, epsilon: bounds of the quasi-isometry; epsilon in metres (also with log-depth: in its unit).
        weight: factor on the result.
        temperature: of the official form; unused by "two_sided".
        form: "two_sided" (ours, both bounds pull the right way) or "official" (the released code).
        depth_space: "metric" (metres) or "log" (25·ln z: bounds that widen with distance).
        gather: under several workers, compare the objects of all of them, so that the loss and its
            gradient do not depend on the number of workers.

    Raises:
        ValueError: unknown form or depth space, or bounds that contradict each other (k < 1, b < 0).
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
    ):
        super().__init__()
        if form not in ("two_sided", "official"):
            raise ValueError(f"form must be 'two_sided' or 'official', not {form!r}")
        if depth_space not in ("metric", "log"):
            raise ValueError(f"depth_space must be 'metric' or 'log', not {depth_space!r}")
        if k < 1 or b < 0:
            raise ValueError(f"bounds need k >= 1 and b >= 0, not k={k}, b={b}")
        self.k, self.b, self.epsilon = k, b, epsilon
        self.weight, self.temperature = weight, temperature
        self.form, self.depth_space, self.gather = form, depth_space, gather

    def forward(self, features: Tensor, depth: Tensor) -> Tensor:
        """Weighted loss of N objects.

        Args:
            features: (N, C) descriptors; half precision is raised to float32 (also inside autocast).
            depth: (N,) depth of the objects in metres, positive.

        Returns:
            Scalar; 0, still in the graph, for fewer than two objects.
        """
        dtype = torch.promote_types(features.dtype, torch.float32)
        features, depth = features.to(dtype), depth.to(dtype)
        workers = world_size() if self.gather else 1
        if workers > 1:
            features, depth = _gather_objects(features, depth)
        if self.depth_space == "log":
            depth = LOG_DEPTH_SCALE * depth.log()
        with torch.autocast(features.device.type, enabled=False):
            if self.form == "official":
                loss = official_loss(
                    features, depth, self.k, self.b, self.epsilon, self.temperature
                )
            else:
                loss = two_sided_loss(features, depth, self.k, self.b, self.epsilon)
        # Every worker holds the gradient of its own objects only; averaging over workers would
        # divide the sum of these by their number.
        return self.weight * (loss + (workers - 1) * (loss - loss.detach()))

    def extra_repr(self) -> str:
        return ", ".join(
            f"{name}={getattr(self, name)}"
            for name in (
                "form",
                "k",
                "b",
                "epsilon",
                "weight",
                "temperature",
                "depth_space",
                "gather",
            )
        )


def _gather_objects(features: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Objects of all workers in rank order; only this worker's part carries a gradient."""
    count = torch.tensor([len(depth)], device=depth.device)
    counts = [torch.zeros_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    longest = int(max(counts))
    local = torch.cat([features.detach(), depth[:, None]], dim=1)
    padded = F.pad(local, (0, 0, 0, longest - len(local)))
    gathered = [torch.zeros_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    parts = [part[: int(n)] for part, n in zip(gathered, counts, strict=True)]
    all_features = [part[:, :-1] for part in parts]
    all_features[dist.get_rank()] = features
    return torch.cat(all_features), torch.cat([part[:, -1] for part in parts])
