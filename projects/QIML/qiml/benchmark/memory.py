"""What a call needs of the machine, time aside: its peak memory, and how often it waits for the device."""

import os
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(call: Callable[[], object], device: str | torch.device = "cpu") -> int:
    """Most bytes of tensors that a call had allocated at once, beside what was there before.

    On a CPU all that PyTorch's allocator gave away, temporaries of its operators too, but not what libraries
    below (oneDNN) allocate for themselves.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it tells of its own starts and stops
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = profiler.profiler.kineto_results.events()
    allocations = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    total = peak = 0
    for _, size in allocations:  # negative where memory was given back
        total += size
        peak = max(peak, total)
    return peak


def count_waits(call: Callable[[], object]) -> Counter[str]:
    """How often, by operator, a call makes the host wait for its device: on a GPU, until that is idle.

    Args:
        call: of a model on the device "meta". Its tensors have no values, so whatever asks for one shows:
            reading a number, copying to the host, selecting by a mask.
    """
    # Automatic casting does not know that device; what is cast does not matter here.
    with patch("torch.autocast", lambda *_, **__: nullcontext()), _CountWaits() as waits:
        call()
    return waits.counts


class _CountWaits(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        if any(isinstance(x, torch.Tensor) and x.is_meta for x in tree_leaves((args, kwargs))):
            answer = _made_up_answer(name, args, kwargs)
            if answer is not None:
                self.counts[name] += 1
                return answer
        return function(*args, **kwargs)


def _made_up_answer(name: str, args: tuple, kwargs: dict) -> object:
    """For a question about values; None where an operator asks for none."""
    asked = args[0]
    if name == "_local_scalar_dense":
        return 1
    if name == "nonzero":
        return asked.new_empty(1, asked.dim(), dtype=torch.int64)
    if name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1]):
        selected = [i for i in args[1] if i is not None]
        return asked.new_empty(1, *asked.shape[sum(i.dim() for i in selected) :])
    if name == "_to_copy" and kwargs.get("device") == torch.device("cpu"):
        return torch.zeros(asked.shape, dtype=kwargs.get("dtype") or asked.dtype)
    return None
