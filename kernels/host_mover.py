"""A tier in host memory below the slots of a CPU or of a GPU, put together and tried."""

from __future__ import annotations

import numpy as np

from pavane.kernels.batch import MoveIn, MoveOut, Moves
from pavane.kernels.carrier import HostCarrier
from pavane.kernels.gpu.carrier import DeviceCarrier
from pavane.kernels.gpu.side_streams import cuda_streams, pin
from pavane.kernels.host import HostTier, TierError
from pavane.kernels.moves import Mover
from pavane.kernels.pages import PAGE, SlotPages


def host_mover(layout: SlotPages, capacity: int) -> Mover:
    """With a tier of `capacity` bytes in CPU memory below the slots of `layout`, on whatever device they are, and
    tried. Raises what HostTier raises, torch.OutOfMemoryError if the device has no memory to gather KV in, and
    TierError."""
    if not layout.parts[0].is_cuda:
        return Mover(HostTier(layout.page_bytes, capacity), HostCarrier(layout))
    # Only here: Triton wants a GPU, or at least its package.
    from pavane.kernels.gpu.copies_triton import TritonCopies

    carrier = DeviceCarrier(layout.parts, cuda_streams(layout.parts[0].device), TritonCopies())
    mover = Mover(HostTier(layout.page_bytes, capacity, pin), carrier)
    try_out(mover, layout.parts[0].shape[3])
    return mover


def try_out(mover: Mover, slots: int) -> None:
    """A page goes out and comes back where it was, before any step: kernels that are compiled for that are then there.
    Raises TierError if it does not come back."""
    extents = np.array([(0, min(PAGE, slots))], dtype=np.int32)
    mover.begin(Moves(out=(MoveOut(b"", extents),), back=(MoveIn(0, b"", 0, extents),)))
    report = mover.report(wait=True)
    if report is None or not report.arrived:
        mover.stop()
        raise TierError("KV does not come back from there, as the log says")
    mover.report(wait=False)
    mover.begin(Moves(drops=(b"",)))
