"""Whether the server and its clients tell the same story, and what the server holds when all is over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import monotonic

from pavane.bench.load.records import Records
from pavane.bench.memory import resident_gb
from pavane.clients import Admin, FailedPrecondition, PermissionDenied, RetryPolicy

SETTLE_S = 5.0  # in which what was closed must be gone
LOOKS_S = 0.2


@dataclass(frozen=True)
class Held:
    """What AdminService says: calls that have ended since the start, and what is there now."""

    ended: int
    unfinished: int
    workflows: int
    slots_locked: int
    slots: int
    step_s: float  # of all steps since the start

    @classmethod
    async def ask(cls, admin: Admin) -> Held:
        """Raises PavaneError."""
        stats = await admin.stats()
        calls = stats.calls
        return cls(
            calls.done + calls.failed + calls.cancelled,
            calls.unfinished,
            stats.workflows,
            stats.slots_locked,
            stats.slots,
            stats.since_start.step_time,
        )


def open_admin(target: str, **options: object) -> Admin:
    """Asks once: a server under load that does not answer is no reason to wait."""
    return Admin(target, retry=RetryPolicy(give_up_after=0.0), **options)  # type: ignore[arg-type]


async def first_look(admin: Admin) -> Held | None:
    """None where AdminService is not served, or not to us."""
    try:
        return await Held.ask(admin)
    except (FailedPrecondition, PermissionDenied):
        return None


async def at_rest(admin: Admin, before: Held) -> Held:
    """When everything that was sent is gone, or after SETTLE_S."""
    until = monotonic() + SETTLE_S
    while True:
        now = await Held.ask(admin)
        gone = now.slots_locked <= before.slots_locked and now.unfinished <= before.unfinished
        if monotonic() > until or (gone and now.workflows <= before.workflows):
            return now
        await asyncio.sleep(LOOKS_S)


def check(before: Held, after: Held, records: Records) -> list[str]:
    """What does not add up, in words; it is meant for a server that nobody else uses."""
    wrong = []
    leaked = after.slots_locked - before.slots_locked
    if leaked > 0:
        wrong.append(f"{leaked} of {after.slots} slots are still locked after all workflows were closed")
    if after.unfinished > before.unfinished:
        wrong.append(f"{after.unfinished - before.unfinished} calls have not ended although their workflows are closed")
    if after.workflows > before.workflows:
        wrong.append(f"{after.workflows - before.workflows} workflows are still open")
    acknowledged = after.ended - before.ended + after.unfinished - before.unfinished
    told = records.done + records.failed.total()
    if not told <= acknowledged <= told + records.withdrawn + records.refused.total():
        wrong.append(
            f"the server counts {acknowledged} calls, its clients know the ends of {told}, have withdrawn "
            f"{records.withdrawn} and were refused {records.refused.total()}"
        )
    return wrong


@dataclass
class Memory:
    """Resident GB of a process of this machine, as (seconds, GB)."""

    pid: int
    samples: list[tuple[float, float]]

    async def watch(self, every: float) -> None:
        """Without end; a process that is gone has no more samples."""
        began = monotonic()
        while True:
            try:
                self.samples.append((monotonic() - began, resident_gb(self.pid)))
            except (FileNotFoundError, ProcessLookupError):
                return
            await asyncio.sleep(every)

    @property
    def growth(self) -> float | None:
        """The median of the fourth quarter against that of the third; None for too few samples."""
        return growth([gb for _, gb in self.samples])


def growth(samples: Sequence[float]) -> float | None:
    """See Memory.growth."""
    if len(samples) < 8:
        return None
    half = samples[len(samples) // 2 :]
    return median(half[len(half) // 2 :]) / median(half[: len(half) // 2])
