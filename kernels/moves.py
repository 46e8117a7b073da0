"""The moves of steps, on their way: KV goes out before a step takes its slots, and comes back in a thread beside it."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass

import torch

from pavane.kernels.batch import MoveIn, MoveOut, MoveReport, Moves
from pavane.kernels.carrier import Carrier, Departure, Leaving, Mark
from pavane.kernels.host import KVTier

log = logging.getLogger(__name__)

LOST = "KV could not be kept, and will be computed again: %s"


@dataclass(frozen=True, slots=True, eq=False)
class _Going:
    """On its way out, all in one."""

    departure: Departure
    moves: list[MoveOut]


class Mover:
    """`begin` and `report` are called step after step, by one thread or by two. What could not be reported with a step
    that failed is reported with the next."""

    def __init__(self, tier: KVTier, carrier: Carrier) -> None:
        self.tier = tier
        self.carrier = carrier
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="transfer")
        self._lock = threading.Lock()  # of all that follows, and of the tier's entries
        self._going: dict[_Going, None] = {}
        self._going_key: dict[bytes, _Going] = {}
        self._flying: dict[Future[float], MoveIn] = {}
        self._lost: list[bytes] = []
        self._out_tokens = 0
        self._out_s = 0.0
        self._stalls = 0  # that were reported
        self._stopped = False

    def begin(self, moves: Moves | None) -> None:
        """What the caller has the device do afterwards may write to the slots of what goes out; what comes in is under
        way then."""
        if moves is None:
            return
        with self._lock:
            for key in moves.drops:
                self._drop(key)
            sent = [(move, pages) for move in moves.out if (pages := self._reserved(move)) is not None]
        if sent:
            self._send(sent)
        if moves.back:
            mark = self.carrier.mark()
            fetches = {self._thread.submit(self._fetch, coming, mark): coming for coming in moves.back}
            with self._lock:
                self._flying.update(fetches)

    def report(self, *, wait: bool) -> MoveReport | None:
        """What has come to an end since the last report, None if nothing has; `wait` until something that comes in has,
        if anything does."""
        if wait:
            with self._lock:
                flying = list(self._flying)
            wait_for(flying, return_when=FIRST_COMPLETED)
        arrived, failed = [], []
        in_tokens, in_s = 0, 0.0
        with self._lock:
            for going in [going for going in self._going if going.departure.done()]:
                self._settle(going)
            for future in [future for future in self._flying if future.done()]:
                move = self._flying.pop(future)
                try:
                    in_s += future.result()
                except CancelledError:
                    failed.append(move.ticket)
                except Exception as error:
                    log.exception("KV could not be fetched, and will be computed again: %s", error)
                    failed.append(move.ticket)
                else:
                    arrived.append(move.ticket)
                    in_tokens += int(move.extents[:, 1].sum())
            if not (arrived or failed or self._lost or self._out_tokens):
                return None
            report = MoveReport(
                tuple(arrived), tuple(failed), tuple(self._lost), self._out_tokens, self._out_s, in_tokens, in_s,
                self.carrier.stalls - self._stalls,
            )  # fmt: skip
            self._stalls += report.stalls
            self._lost, self._out_tokens, self._out_s = [], 0, 0.0
        return report

    def stop(self) -> None:
        """What has not begun to come in fails, and the thread ends. Waits for nothing: a device may hang."""
        self._stopped = True
        self._thread.shutdown(wait=False)

    def _drop(self, key: bytes) -> None:
        self.tier.drop(key)
        self._going_key.pop(key, None)

    def _reserved(self, move: MoveOut) -> Sequence[torch.Tensor] | None:
        try:
            return self.tier.reserve(move.key, int(move.extents[:, 1].sum()))
        except Exception as error:  # whatever a tier raises costs an encoding, not the step
            log.exception(LOST, error)
            self._lost.append(move.key)
            return None

    def _send(self, sent: Sequence[tuple[MoveOut, Sequence[torch.Tensor]]]) -> None:
        moves = [move for move, _ in sent]
        try:
            departure = self.carrier.out([Leaving(pages, move.extents) for move, pages in sent])
        except Exception as error:
            log.exception(LOST, error)
            with self._lock:
                self._lose(moves)
            return
        going = _Going(departure, moves)
        with self._lock:
            self._going[going] = None
            self._going_key.update((move.key, going) for move in moves)
            if departure.done():
                self._settle(going)

    def _settle(self, going: _Going) -> None:
        """What has gone out is stored, but for what was dropped meanwhile. Nothing to do if that is done already."""
        if going not in self._going:
            return
        del self._going[going]
        kept = [self._going_key.get(move.key) is going for move in going.moves]
        for move in itertools.compress(going.moves, kept):
            del self._going_key[move.key]
        try:
            landed = going.departure.wait()
            for move, sums, stays in zip(going.moves, landed.sums, kept, strict=True):
                if stays:
                    self.tier.store(move.key, sums)
        except Exception as error:
            log.exception(LOST, error)
            self._lose(itertools.compress(going.moves, kept))
        else:
            self._out_tokens += sum(int(move.extents[:, 1].sum()) for move in going.moves)
            self._out_s += landed.seconds

    def _lose(self, moves: Iterable[MoveOut]) -> None:
        for move in moves:
            self.tier.drop(move.key)
            self._lost.append(move.key)

    @torch.inference_mode()
    def _fetch(self, move: MoveIn, after: Mark) -> float:
        """The seconds that it took."""
        if self._stopped:
            raise CancelledError
        with self._lock:
            going = self._going_key.get(move.key)
        if going is not None:
            going.departure.wait()
            with self._lock:
                self._settle(going)
        found = self.tier.find(move.key, move.first, int(move.extents[:, 1].sum()))
        return self.carrier.back(found, move.extents, after)
