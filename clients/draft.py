"""Calls that are put together without being submitted, to ask what they would cost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Unpack

from pavane.clients.calls import DecodeOptions, PrefillOptions, decode_call, prefill_call
from pavane.clients.checks import UINT32, integer
from pavane.clients.edges import Edge, Parent
from pavane.clients.group import group_message
from pavane.clients.results import Receipt, Result, receipt, result
from pavane.protos.v1 import pavane_pb2 as pb


@dataclass(frozen=True, slots=True)
class Plan:
    """What calls would cost. `calls` are those that are new, parents first: "done", "failed" or, with the rest of a
    group, "cancelled" (see `error`), with start, finish and a receipt without times, and no text. Where `finish` is
    "length", the number of generated tokens is assumed. `total` is the sum of their receipts.

    The rest is of all unfinished calls of the workflow: the most slots in use at one time, bytes of K and V that steps
    read, and the ids of the chain of calls with the longest work. `assumed_winners`: of each group that is open, the
    members that were assumed to be first; all of it holds only if they are.
    """

    calls: tuple[Result, ...]
    total: Receipt
    peak_slots: int
    kv_bytes_read: int
    critical_path: tuple[str, ...]
    assumed_winners: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Draft:
    """Made by `Workflow.draft`. Its calls may read messages of the workflow and each other."""

    def __init__(
        self,
        send: Callable[[pb.PlanRequest], Awaitable[pb.PlanResponse]],
        edges: Callable[[Sequence[str | Parent]], Sequence[Edge]],
        new_id: Callable[[str | None], str],
    ) -> None:
        self._send = send
        self._edges = edges
        self._new_id = new_id
        self._calls: list[pb.Call] = []
        self._groups: list[pb.Group] = []

    def prefill(self, *parents: str | Parent, **options: Unpack[PrefillOptions]) -> Edge:
        """As `Workflow.prefill`; returns what stands for the message as a parent."""
        copied = options.get("copy")
        if isinstance(copied, Parent):
            options["copy"] = self._edges([copied])[0].id
        return self._add(prefill_call(self._new_id(options.get("id")), self._edges(parents), options))

    def decode(self, *parents: str | Parent, **options: Unpack[DecodeOptions]) -> Edge:
        """As `Workflow.decode`; returns what stands for the message as a parent."""
        return self._add(decode_call(self._new_id(options.get("id")), self._edges(parents), options))

    def group(self, *members: str | Parent, need: int, cancel_rest: bool = False, id: str | None = None) -> Edge:
        """As `Workflow.group`. Which members come first only a run can tell: see `Plan.assumed_winners`."""
        made = group_message(self._new_id(id), self._edges(members), need, cancel_rest)
        self._groups.append(made)
        return Edge(made.id)

    async def plan(self, *, assumed_tokens: int | None = None) -> Plan:
        """What the calls would cost if they were submitted now; nothing runs. Raises PavaneError where a Submit would
        be refused. Answers that are not forced are taken to be `assumed_tokens` long, at most their max_tokens; by
        default max_tokens, or 256 where there is none."""
        if assumed_tokens is not None:
            integer("assumed_tokens", assumed_tokens, UINT32)
        submit = pb.SubmitRequest(calls=self._calls, groups=self._groups)
        answer = await self._send(pb.PlanRequest(submit=submit, assumed_tokens=assumed_tokens))
        return Plan(
            tuple(result(message) for message in answer.planned),
            receipt(answer.total),
            answer.peak_slots,
            answer.kv_bytes_read,
            tuple(answer.critical_path),
            {group.group_id: tuple(group.winners) for group in answer.assumed_winners},
        )

    def _add(self, call: pb.Call) -> Edge:
        self._calls.append(call)
        return Edge(call.id)
