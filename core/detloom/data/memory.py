"""Settings of the C library and of Python that make reading faster."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import platform
from collections.abc import Iterator

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 256 << 20
_LARGEST_BYTES = 32 << 20  # glibc takes no more


@functools.cache
def keep_freed_memory() -> None:
    """Let this process reuse freed arrays of some megabytes instead of handing them back to the system.

    A picture needs three or four arrays of a megabyte for a millisecond. By default each comes from the system anew,
    and the page faults cost more than decoding: a 640x480 JPEG to a 640x640 input takes 2.7 ms of CPU, with this
    1.0 ms. Up to 256 MiB stay with the process. Elsewhere than on glibc it does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_BYTES)
    library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


@contextlib.contextmanager
def collector_at_rest() -> Iterator[None]:
    """While the block runs Python does not search for cycles of garbage.

    Reading annotations makes a million small objects, all of them wanted, and Python looks through them again and
    again: a sixth of the time of reading.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
