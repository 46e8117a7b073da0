"""One workflow, played through the public client: sent whole, read as it is written, closed, its receipts checked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter

from pavane.bench.load.arrivals import Room
from pavane.bench.load.records import CLASSES, Records
from pavane.bench.trace import TraceCall, TraceWorkflow
from pavane.clients import CallFailed, Client, Message, PavaneError, Receipt, Result, Workflow
from pavane.clients.edges import Parent


@dataclass
class _Played:
    """A workflow as it goes: when tokens of its decodes arrived, and how its calls ended."""

    job: TraceWorkflow
    due: float
    arrivals: dict[str, list[float]] = field(default_factory=dict)
    ends: dict[str, Result | PavaneError] = field(default_factory=dict)


class Player:
    """`records` gets what is seen. Times are those of time.perf_counter, as the client sees what arrives."""

    def __init__(self, records: Records, room: Room, seed: int) -> None:
        self._records = records
        self._room = room
        self._seed = seed

    async def play(self, client: Client, job: TraceWorkflow, due: float) -> None:
        """Returns when all of its calls have ended and it is closed. Cancelled, it closes the workflow first."""
        records, played, wf = self._records, _Played(job, due), client.workflow()
        records.begun += 1
        opened = False
        try:
            async with wf:
                opened = True
                messages = self._submit(wf, job)
                await asyncio.gather(*(self._follow(message, played) for message in messages))
                ended = perf_counter()
        except PavaneError as error:
            records.ended += 1
            if opened:
                self._count(played)
                records.defect(f"workflow {job.id}: closing it failed: {error}")
            else:
                records.refused[error.reason] += len(job.calls)
        except asyncio.CancelledError:
            records.given_up += 1
            records.withdrawn += len(job.calls) - len(played.ends)
            self._count(played)
            raise
        else:
            records.ended += 1
            if self._count(played):
                self._check_total(played, wf)
                self._measure(played, ended)

    def _submit(self, wf: Workflow, job: TraceWorkflow) -> list[Message]:
        """All calls in one submission; a group is made before the first call that reads it."""
        messages: list[Message] = []
        handles: dict[str, Parent] = {}
        groups = {group.id: group for group in job.groups}
        for call in job.calls:
            for name in call.parents:
                if name not in handles:
                    group = groups[name]
                    members = [handles[member] for member in group.members]
                    handles[name] = wf.group(*members, need=group.need, id=name)
            parents = [handles[name] for name in call.parents]
            tokens = self._room.tokens(call.prefill or call.header, self._seed, job.id, call.id)
            if call.prefill:
                message = wf.prefill(*parents, tokens=tokens, id=call.id)
            else:
                message = wf.decode(*parents, header_tokens=tokens, max_tokens=call.decode, ignore_eos=True, id=call.id)
            handles[call.id] = message
            messages.append(message)
        return messages

    async def _follow(self, message: Message, played: _Played) -> None:
        times = played.arrivals[message.id] = []
        try:
            async for delta in message:
                if delta.tokens:
                    times.append(perf_counter())
                    self._records.tokens += len(delta.tokens)
            played.ends[message.id] = await message
        except PavaneError as error:
            played.ends[message.id] = error

    def _count(self, played: _Played) -> bool:
        """Whether all calls have ended well."""
        records = self._records
        for call in played.job.calls:
            end = played.ends.get(call.id)
            if isinstance(end, Result):
                records.done += 1
                records.add_receipt(end.receipt)
                self._check(played.job, call, end)
            elif isinstance(end, CallFailed):
                records.failed[end.reason] += 1
                records.add_receipt(end.result.receipt)
            elif end is not None:
                records.refused[end.reason] += 1
        return all(isinstance(played.ends.get(call.id), Result) for call in played.job.calls)

    def _check(self, job: TraceWorkflow, call: TraceCall, result: Result) -> None:
        """A receipt against what was asked for: every visible token stands in one class, none is missing."""
        receipt = result.receipt
        seen = sum(parent.tokens for parent in receipt.parents) + (call.prefill or call.header)
        if receipt.visible != seen or receipt.generated != call.decode:
            self._records.defect(
                f"workflow {job.id}, call {call.id}: the receipt has {receipt.visible} visible tokens and "
                f"{receipt.generated} generated, not {seen} and {call.decode}"
            )

    def _check_total(self, played: _Played, wf: Workflow) -> None:
        receipts = [end.receipt for end in played.ends.values() if isinstance(end, Result)]
        sums, total = _sums(*receipts), _sums(wf.total)
        if sums != total:
            self._records.defect(f"workflow {played.job.id}: its total is {total}, its receipts sum to {sums}")

    def _measure(self, played: _Played, ended: float) -> None:
        """Latencies of a workflow that ended well."""
        job, latencies = played.job, self._records.of(played.job.tenant, played.job.kind)
        latencies.workflow.append(ended - played.due)
        written: dict[str, float] = {}  # when the text of each call and group was known
        groups = {group.id: group for group in job.groups}
        for call in job.calls:
            for name in call.parents:
                if name not in written:
                    group = groups[name]
                    written[name] = sorted(written[member] for member in group.members)[group.need - 1]
            known = max((written[name] for name in call.parents), default=played.due)
            times = played.arrivals[call.id]
            written[call.id] = times[-1] if times else known
            if times:
                latencies.first_token.append(max(0.0, times[0] - known))
                latencies.gap.extend(after - before for before, after in pairwise(times))


def _sums(*receipts: Receipt) -> Mapping[str, int]:
    return {name: sum(getattr(receipt, name) for receipt in receipts) for name in CLASSES}
