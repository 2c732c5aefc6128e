"""In which half precision a device computes, rather than emulates it."""

import functools
import logging

import torch

logger = logging.getLogger(__name__)


def configured_dtype(cfg) -> torch.dtype | None:
    """SOLVER.AMP.DTYPE, or None where SOLVER.AMP.ENABLED is off."""
    return getattr(torch, cfg.SOLVER.AMP.DTYPE) if cfg.SOLVER.AMP.ENABLED else None


def mixed_precision(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """The context of mixed precision, which does nothing where it would only be slower.

    Args:
        device: that the network is on.
        dtype: of the reduced precision; None for float32 throughout.
    """
    enabled = dtype is not None and computes_in(device.type, dtype)
    return torch.autocast(device.type, dtype, enabled=enabled)


@functools.cache
def computes_in(device_type: str, dtype: torch.dtype) -> bool:
    """Whether a type of device has fast convolutions in half precision; logged once where it has none.

    On a CPU without AVX-512 or its like PyTorch has only a loop for them, which takes ten times as long as
    float32; GPUs before Ampere emulate bfloat16.

    Args:
        device_type: "cpu", "cuda" and so on.
        dtype: float16 or bfloat16.
    """
    if device_type == "cpu":
        fast = _cpu_computes_in(dtype)
    elif device_type == "cuda" and dtype == torch.bfloat16:
        fast = bool(torch.version.hip) or torch.cuda.get_device_capability() >= (8, 0)
    else:
        fast = True
    if not fast:
        name = str(dtype).removeprefix("torch.")
        hint = "; a GPU may be faster with SOLVER.AMP.DTYPE float16" * (device_type == "cuda")
        logger.warning(
            "This %s is slow in %s: computing in float32%s", device_type.upper(), name, hint
        )
    return fast


def _cpu_computes_in(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    ops = torch.ops.mkldnn
    if dtype == torch.bfloat16:
        return ops._is_mkldnn_bf16_supported()
    return ops._is_mkldnn_fp16_supported()
