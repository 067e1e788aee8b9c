"""What the allocator does with large buffers that are free again."""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of options of glibc's mallopt."""
_NEVER = 2**31 - 1


def keep_buffers() -> None:
    """Keep them for the next step of the same size, where glibc would give each back to the system.

    Maps and their gradients are as large in every step, and getting pages anew took more than half of the time of
    training a DPT head. The peak grows by some per cent. What the environment says of malloc stands.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # musl has none
        library.mallopt(_MMAP_THRESHOLD, _NEVER)
        library.mallopt(_TRIM_THRESHOLD, _NEVER)
