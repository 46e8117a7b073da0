"""What a process that serves does with its memory once it has loaded, for as long as it lives."""

from __future__ import annotations

import ctypes
import gc
import sys

# The youngest objects are looked through after so many more were made than freed, the next after 4 times of that, all
# of them after 2,500 times of those. Python's 700, 10 and 10 stop a busy server for 100 ms at a time, for objects that
# live as long as their call: calls, KV and answers make no cycles, gRPC's are small (interceptor.py). Larger numbers
# for the first two cost as much and make the stops longer: 16 ms with 20,000 objects.
YOUNG, OLDER, OLD = 2_000, 4, 2_500


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
