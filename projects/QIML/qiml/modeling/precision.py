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
    enabled = convolution_dtype(device, dtype) != torch.float32
    return torch.autocast(device.type, dtype, enabled=enabled)


def convolution_dtype(device: torch.device, dtype: torch.dtype | None) -> torch.dtype:
    """What convolutions are computed in inside :func:`mixed_precision` of the same arguments."""
    if dtype is None or not computes_in(device.type, dtype):
        return torch.float32
    return dtype


def dtype_name(dtype: torch.dtype) -> str:
    """As in SOLVER.AMP.DTYPE, such as "bfloat16"."""
    return str(dtype).removeprefix("torch.")


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
        message = f"This {device_type.upper()} is slow in {dtype_name(dtype)}: computing in float32"
        if device_type == "cuda":
            message += "; it may be faster with SOLVER.AMP.DTYPE float16"
        logger.warning(message)
    return fast


def _cpu_computes_in(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    # Gradients in float16 need scaling, which is for GPUs here.
    return dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
