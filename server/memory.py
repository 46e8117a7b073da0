"""What a process that serves does with its memory once it has loaded, for as long as it lives."""

from __future__ import annotations

import ctypes
import gc
import sys

# The youngest objects are looked through after so many more were made than freed, the others after 20 times of that and
# 50 times of those. Python's 700 are reached in each step of many calls, and looking costs up to 0.4 ms of it, for
# objects that live as long as their call: calls, KV and answers make no cycles, gRPC's are small (interceptor.py).
YOUNG, OLDER, OLD = 20_000, 20, 50


def settle() -> None:
    """What loading left behind goes now, not when a collector happens to run; what stays is never scanned again, and
    what comes is scanned seldom. Of the whole process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, OLDER, OLD)
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
        if trim is not None:
            trim(0)
