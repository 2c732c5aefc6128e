"""Memory of long CPU runs."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of mallopt(3)'s parameters in glibc


def keep_freed_memory() -> None:
    """Let glibc keep what PyTorch frees: every training step asks for the same buffers again.

    By default large buffers go back to the system and come again page by page, which costs a
    training step on the CPU about a tenth of its time. Does nothing where the C library is another.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)  # whatever the size: a threshold on it ends at 32 MB
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
