"""What metric losses on object descriptors share: distances, and comparing the objects of all workers."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from qiml.losses.reduction import world_size


class MetricLoss(nn.Module):
    """A loss that compares objects by descriptor and depth; subclasses say how, in :meth:`compare`.

    Args:
        weight: factor on the result.
        gather: under several workers, compare the objects of all of them, so that the loss and its
            gradient do not depend on the number of workers: unless they depend on the objects' order, as the
            gradient of the quasi-isometric loss's official form does.
    """

    def __init__(self, weight: float, gather: bool):
        super().__init__()
        self.weight, self.gather = weight, gather

    def compare(self, features: Tensor, depth: Tensor) -> Tensor:
        """Unweighted scalar loss of `features` (N, C) and `depth` (N,) metres, both float32 or wider."""
        raise NotImplementedError

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
        with torch.autocast(features.device.type, enabled=False):
            loss = self.compare(features, depth)
        # Every worker holds the gradient of its own objects only; averaging over workers would
        # divide the sum of these by their number.
        return self.weight * (loss + (workers - 1) * (loss - loss.detach()))

    def extra_repr(self) -> str:
        arguments = {k: v for k, v in vars(self).items() if not k.startswith("_")}
        arguments.pop("training")
        return ", ".join(f"{name}={value}" for name, value in arguments.items())


def pairwise_distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (N, M); exact near 0, where the matrix-product shortcut loses its digits."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _gather_objects(features: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Objects of all workers in rank order; only this worker's part carries a gradient."""
    count = torch.full((1,), len(depth), device=depth.device)
    counts = [torch.zeros_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    lengths = torch.cat(counts).tolist()  # the one time that a GPU is waited for
    longest = max(lengths)
    local = torch.cat([features.detach(), depth[:, None]], dim=1)
    padded = F.pad(local, (0, 0, 0, longest - len(local)))
    gathered = [torch.zeros_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    parts = [part[:n] for part, n in zip(gathered, lengths, strict=True)]
    all_features = [part[:, :-1] for part in parts]
    all_features[dist.get_rank()] = features
    return torch.cat(all_features), torch.cat([part[:, -1] for part in parts])
