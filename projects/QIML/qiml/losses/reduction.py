"""Sums and means over the objects of the *global* batch, whatever the number of workers."""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of workers of the default process group; 1 outside distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def global_sum(values: Tensor) -> Tensor:
    """Sum over all workers, element by element and without gradient."""
    total = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def global_sum_ratio(total: Tensor, count: Tensor) -> Tensor:
    """`total / count`, both summed over all workers, for data-parallel training.

    Data-parallel training averages losses and gradients over workers. Each worker therefore divides
    its own total by the *average* count, and the average of these is the ratio of the global sums.

    Args:
        total: scalar, this worker's sum.
        count: scalar, this worker's number of elements; a global count of 0 divides by 1.

    Returns:
        Scalar.
    """
    return total * world_size() / global_sum(count.to(total.dtype)).clamp(min=1.0)


def global_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of `values` (any shape) over every worker's elements; 0, still in the graph, for none.

    Args:
        mask: bool, of the same shape, which of them count; None: all. On a GPU, selecting them by the mask
            before would wait until it is idle.
    """
    if mask is not None:
        return global_sum_ratio(values.where(mask, 0).sum(), mask.sum())
    # Filled where the values are: a number copied there would be waited for.
    count = torch.full((), values.numel(), device=values.device)
    return global_sum_ratio(values.sum(), count)
