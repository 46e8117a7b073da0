"""A workflow: messages that can see each other, and the handles to them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from types import TracebackType
from typing import Self, Unpack

from pavane.clients.calls import DecodeOptions, PrefillOptions, decode_call, prefill_call, samples
from pavane.clients.completion import completed
from pavane.clients.draft import Draft
from pavane.clients.edges import Edge, Fidelity, Parent
from pavane.clients.errors import AlreadyExists, NotFound, PavaneError, WorkflowClosed
from pavane.clients.group import Group, group_message
from pavane.clients.message import Message
from pavane.clients.results import Receipt, Result
from pavane.clients.score import Score, score_request
from pavane.clients.submitter import Submitter
from pavane.clients.transport import Transport
from pavane.clients.verbs import Verbs, open_request
from pavane.clients.watcher import Watcher
from pavane.protos.v1 import pavane_pb2 as pb

# How long to wait, once the workflow is closed, for the last words of calls that were still running.
LAST_EVENTS_S = 2.0


class Workflow:
    """Made by `Client.workflow`, used as `async with`. Everything in it belongs to one event loop.

    Handles live as long as the workflow, unless they are released: naming an id again gives the same handle.
    """

    def __init__(
        self,
        transport: Transport,
        workflow_id: str,
        *,
        budget_tokens: int,
        ttl: float | None,
        priority: int | None,
        deadline: float | None,
        close: bool,
        linger: float,
        opened: set[Workflow],
    ) -> None:
        self.id = workflow_id
        self._transport = transport
        self._verbs = Verbs(transport, workflow_id)
        self._open_request = open_request(workflow_id, budget_tokens, ttl, priority, deadline)
        self._close = close
        self._opened = opened
        self._messages: dict[str, Message] = {}
        self._groups: dict[str, Group] = {}
        self._auto_prefix = ""
        self._auto_ids = 0
        self._submitter = Submitter(self._send, linger, self.fail_pending)
        self._watcher: Watcher | None = None
        self._closed: WorkflowClosed | None = WorkflowClosed(
            "NOT_OPEN", f"workflow {workflow_id!r} is not open; use `async with`"
        )
        self._total: Receipt | None = None

    async def __aenter__(self) -> Self:
        answer = await completed(self._verbs.open(self._open_request), self._verbs.close if self._close else None)
        # In a workflow that goes on, m0 is probably taken.
        self._auto_prefix = f"{secrets.token_hex(4)}-m" if answer.existed else "m"
        self._watcher = Watcher(
            lambda after: self._transport.watch(self.id, after),
            answer.cursor,
            self._transport.retry,
            begin=self._begin_stream,
            deliver=self._deliver,
            lost=self.fail_pending,
        )
        self._closed = None
        self._opened.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except PavaneError as failure:
            if error is None:
                raise
            error.add_note(f"closing workflow {self.id!r} failed too: {failure}")

    async def close(self) -> None:
        """Ends the workflow: what still runs is cancelled, its handles raise, all ids are released.

        Of a workflow made with `close=False` only this client's part ends: everything is submitted and runs on.
        Cancelled, it still asks the server, for PARTING_S at most, as does opening, which then closes again.
        """
        if self._closed is not None:
            return
        self._closed = WorkflowClosed("WORKFLOW_CLOSED", f"workflow {self.id!r} is closed on this side")
        await completed(self._leave(self._closed))

    async def abandon(self, error: WorkflowClosed) -> None:
        """Lets go without a word to the server; handles that have not ended raise `error`."""
        self._closed = self._closed or error
        self._opened.discard(self)
        await self._submitter.stop()
        if self._watcher is not None:
            await self._watcher.stop()
        self.fail_pending(error)

    @property
    def total(self) -> Receipt:
        """The summed receipt, once the workflow is closed. Raises WorkflowClosed if the server knew it no more."""
        if self._total is not None:
            return self._total
        if self._closed is None or not self._close:
            raise RuntimeError(f"the total of workflow {self.id!r} is known only once it has been closed on the server")
        raise WorkflowClosed("NO_RECEIPT", f"workflow {self.id!r} ended without a receipt")

    def prefill(self, *parents: str | Parent, **options: Unpack[PrefillOptions]) -> Message:
        """Encodes given content behind `parents`, which are handles, ids or edges. `PrefillOptions` lists the rest.

        Returns at once. Raises ValueError or TypeError for what is wrong here; the server's errors come by the handle.
        """
        edges = self._edges(parents)
        copied = options.get("copy")
        if isinstance(copied, Parent):
            options["copy"] = self._edges([copied])[0].id
        return self._submit(prefill_call(self._new_id(options.get("id")), edges, options))

    def decode(self, *parents: str | Parent, **options: Unpack[DecodeOptions]) -> Message:
        """Generates an answer that sees `parents`, which are handles, ids or edges. `DecodeOptions` lists the rest.

        Returns at once. Raises ValueError or TypeError for what is wrong here; the server's errors come by the handle.
        """
        edges = self._edges(parents)
        return self._submit(decode_call(self._new_id(options.get("id")), edges, options))

    def decode_n(self, n: int, *parents: str | Parent, **options: Unpack[DecodeOptions]) -> tuple[Message, ...]:
        """`n` answers to the same, each a message: with an `id` they are called id-0, id-1 ..., with a `seed` each gets
        one of its own, derived from the seed and its number, and is the same whatever `n` is.

        Returns at once. Raises ValueError or TypeError for what is wrong here; the server's errors come by the handles.
        """
        return tuple(self.decode(*parents, **one) for one in samples(n, options))

    def group(self, *members: str | Parent, need: int, cancel_rest: bool = False, id: str | None = None) -> Group:
        """The first `need` of `members`, as one parent; `cancel_rest` cancels the others once these are done.

        Returns at once. Raises ValueError or TypeError for what is wrong here; if the server refuses the group, it
        refuses what reads it as well.
        """
        made = group_message(self._new_id(id), self._edges(members), need, cancel_rest)
        if self._closed is not None:
            raise self._closed
        known = self._groups.get(made.id)
        if known is not None and known.group == made:
            return known
        if known is not None or made.id in self._messages:
            raise _taken(made.id)
        group = self._groups[made.id] = Group(self, made)
        self._submitter.add(group)
        return group

    async def score(
        self,
        *parents: str | Parent,
        ids: Sequence[int] | None = None,
        against: Fidelity = "exact",
        per_parent: bool = False,
        **options: Unpack[DecodeOptions],
    ) -> Score:
        """Judges the tokens `ids` as the content of a decode with these parents and options: by its own fidelity, and
        by a reference all of whose edges are `against`. With `per_parent` also: which REUSE parent hurts.

        Without ids, `forced` is scored, or the content of the message that has this `id`. Waits for the parents; no
        message comes of it. Raises PavaneError.
        """
        call = decode_call(options.get("id") or "score", self._edges(parents), options)
        return await self.score_call(call, ids, against, per_parent)

    async def score_call(self, call: pb.Call, ids: Sequence[int] | None, against: Fidelity, per_parent: bool) -> Score:
        """As `score`, for a call that is put together already; `Message.score` is the way to it."""
        if self._closed is not None:
            raise self._closed
        request = score_request(self.id, call, ids, against, per_parent)
        await self._submitter.drain()
        return await self._verbs.score(request)

    def draft(self) -> Draft:
        """To put calls together without submitting them, and ask what they would cost."""
        return Draft(self._plan, self._edges, self._new_id)

    async def cancel(self, *messages: str | Parent, descendants: bool = True) -> tuple[str, ...]:
        """Cancels calls, of groups all members, and, unless told otherwise, all below them. Returns the ids that were
        cancelled."""
        ids = [edge.id for edge in self._edges(messages)]
        await self._submitter.drain()
        return await self._verbs.cancel(ids, descendants)

    async def finish(self, *messages: str | Parent) -> tuple[str, ...]:
        """Seals running decodes: each ends with its next token, as a valid, shorter message. Returns the ids of those
        that had not ended. Raises FailedPrecondition, and seals none, if one is a prefill or has not started."""
        ids = [edge.id for edge in self._edges(messages)]
        await self._submitter.drain()
        return await self._verbs.finish(ids)

    async def release(self, *messages: str | Parent) -> None:
        """Gives ids up. Calls that still read the messages are not disturbed; what the handles hold stays."""
        ids = [edge.id for edge in self._edges(messages)]
        await self._submitter.drain()
        await self._verbs.release(ids)
        for message_id in ids:
            self._groups.pop(message_id, None)
            message = self._messages.get(message_id)
            if message is not None and message.done():
                del self._messages[message_id]

    async def get(self, message: str | Parent, *, wait: bool = False) -> Result:
        """The message as it is now, or, with `wait`, when its call has ended (also if it failed: see `state`)."""
        edge = self._edges([message])[0]
        await self._submitter.drain()
        return await self._verbs.get(edge.id, wait)

    async def list(self) -> tuple[Result, ...]:
        """All messages of the workflow, without tokens and log-probabilities."""
        await self._submitter.drain()
        return await self._verbs.list()

    def fail_pending(self, error: PavaneError) -> None:
        """Every handle that has not ended raises `error`."""
        for message in self._messages.values():
            message.fail(error)

    def _submit(self, call: pb.Call) -> Message:
        if self._closed is not None:
            raise self._closed
        known = self._messages.get(call.id)
        if known is not None:
            if known.call == call:
                return known
            raise _taken(call.id)
        if call.id in self._groups:
            raise _taken(call.id)
        message = self._messages[call.id] = Message(self, call)
        self._submitter.add(message)
        return message

    def _new_id(self, wanted: str | None) -> str:
        if wanted is not None:
            return wanted
        while True:
            made = f"{self._auto_prefix}{self._auto_ids}"
            self._auto_ids += 1
            if made not in self._messages and made not in self._groups:
                return made

    def _edges(self, parents: Sequence[str | Parent]) -> Sequence[Edge]:
        edges = []
        for parent in parents:
            if not isinstance(parent, str | Parent):
                raise TypeError(f"a parent is a handle, an id or an edge, not {type(parent).__name__}")
            edge = Edge(parent) if isinstance(parent, str) else parent.edge()
            if edge.owner is not None and edge.owner is not self:
                raise ValueError(f"message {edge.id!r} belongs to another workflow; only its text can be taken over")
            edges.append(edge)
        return edges

    async def _send(self, batch: Sequence[Message | Group]) -> None:
        assert self._watcher is not None
        self._watcher.start()
        calls = [one.call for one in batch if isinstance(one, Message)]
        groups = [one.group for one in batch if isinstance(one, Group)]
        await self._watcher.cover(await self._verbs.submit(calls, groups))

    async def _plan(self, request: pb.PlanRequest) -> pb.PlanResponse:
        if self._closed is not None:
            raise self._closed
        await self._submitter.drain()
        request.submit.workflow_id = self.id
        return await self._transport.unary(self._transport.workflows.Plan, request, workflow=self.id)

    def _begin_stream(self) -> None:
        for message in self._messages.values():
            message.begin_stream()

    def _deliver(self, event: pb.Event) -> None:
        message = self._messages.get(event.id)
        if message is not None:
            message.take(event)

    async def _leave(self, closed: WorkflowClosed) -> None:
        try:
            if self._close:
                await self._submitter.stop()
                await self._close_on_server()
            else:
                await self._submitter.drain()
        finally:
            await self.abandon(closed)

    async def _close_on_server(self) -> None:
        assert self._watcher is not None
        try:
            self._total = await self._verbs.close()
        except NotFound:
            return  # expired or closed elsewhere: as it should be
        if any(not message.done() for message in self._messages.values()):
            await self._watcher.ended(within=LAST_EVENTS_S)


def _taken(id: str) -> AlreadyExists:
    return AlreadyExists("ID_TAKEN", "another call or group of this workflow has this id already", [id])
