"""The moves of steps, on their way: KV goes out at once, and comes back in a thread beside the forward pass."""

from __future__ import annotations

import logging
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for

import torch

from pavane.kernels.batch import MoveIn, MoveReport, Moves
from pavane.kernels.host import KVTier

log = logging.getLogger(__name__)


class Mover:
    """One thread calls `begin` and `report`, step after step. What could not be reported with a step that failed is
    reported with the next."""

    def __init__(self, tier: KVTier) -> None:
        self.tier = tier
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="transfer")
        self._flying: dict[Future[float], MoveIn] = {}
        self._lost: list[bytes] = []
        self._out_tokens = 0
        self._out_s = 0.0

    def begin(self, moves: Moves | None) -> None:
        """Returns when everything has gone out, so that its slots may be written; what comes in is under way then."""
        if moves is None:
            return
        began = time.perf_counter()
        for key in moves.drops:
            self.tier.drop(key)
        for move in moves.out:
            try:
                self.tier.put(move.key, move.extents)
            except Exception as error:  # whatever a tier raises costs an encoding, not the step
                log.exception("KV could not be kept, and will be computed again: %s", error)
                self._lost.append(move.key)
            else:
                self._out_tokens += int(move.extents[:, 1].sum())
        if moves.out:
            self._out_s += time.perf_counter() - began
        for coming in moves.back:
            self._flying[self._thread.submit(self._fetch, coming)] = coming

    def report(self, *, wait: bool) -> MoveReport | None:
        """What has come to an end since the last report, None if nothing has; `wait` until something that comes in has,
        if anything does."""
        if wait:
            wait_for(self._flying, return_when=FIRST_COMPLETED)
        arrived, failed = [], []
        in_tokens, in_s = 0, 0.0
        for future in [future for future in self._flying if future.done()]:
            move = self._flying.pop(future)
            try:
                in_s += future.result()
            except Exception as error:
                log.exception("KV could not be fetched, and will be computed again: %s", error)
                failed.append(move.ticket)
            else:
                arrived.append(move.ticket)
                in_tokens += int(move.extents[:, 1].sum())
        if not (arrived or failed or self._lost or self._out_tokens):
            return None
        report = MoveReport(
            tuple(arrived), tuple(failed), tuple(self._lost), self._out_tokens, self._out_s, in_tokens, in_s
        )
        self._lost, self._out_tokens, self._out_s = [], 0, 0.0
        return report

    @torch.inference_mode()
    def _fetch(self, move: MoveIn) -> float:
        """The seconds that it took."""
        began = time.perf_counter()
        self.tier.get(move.key, move.first, move.extents)
        return time.perf_counter() - began
