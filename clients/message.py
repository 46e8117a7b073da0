"""The handle of a message: there at once, filled as events come in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from typing import TYPE_CHECKING

from pavane.clients.edges import Edge, Fidelity, Parent
from pavane.clients.errors import PavaneError
from pavane.clients.results import Delta, Result, call_error, result, top_logprobs
from pavane.protos.v1 import pavane_pb2 as pb

if TYPE_CHECKING:
    from pavane.clients.score import Score
    from pavane.clients.workflow import Workflow


class Message(Parent):
    """A message that exists, or will.

        result = await message              # the whole of it; raises PavaneError if the call failed
        async for delta in message: ...     # as it is written; any number of readers, each from the beginning

    A call with max_attempts may be restarted. Then each of its readers gets an empty delta with the next `attempt`,
    which voids what came before, and then the new text; who comes later, or awaits it, never sees the old one.

    Not awaiting a handle is fine; its failure waits for whoever asks. Handles belong to one event loop.
    """

    __slots__ = (
        "_attempt",
        "_changed",
        "_chars_held",
        "_cursor",
        "_deltas",
        "_error",
        "_replayed",
        "_result",
        "_tokens_held",
        "call",
        "workflow",
    )

    def __init__(self, workflow: Workflow, call: pb.Call) -> None:
        self.workflow = workflow
        self.call = call
        self._attempt = 1
        self._deltas: list[Delta] = []  # of this attempt
        self._tokens_held = 0
        self._chars_held = 0
        self._result: Result | None = None
        self._error: PavaneError | None = None
        self._changed: list[asyncio.Future[None]] = []
        self._cursor = 0
        self._replayed = 0

    def __repr__(self) -> str:
        return f"<Message {self.id}{' done' if self._result else ' failed' if self._error else ''}>"

    @property
    def id(self) -> str:
        """Its id in the workflow."""
        return self.call.id

    def edge(self) -> Edge:
        return Edge(self.id, owner=self.workflow)

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._result is not None or self._error is not None

    async def cancel(self, *, descendants: bool = True) -> tuple[str, ...]:
        """Cancels the call and, unless told otherwise, all calls below it. Returns the ids that were cancelled."""
        return await self.workflow.cancel(self, descendants=descendants)

    async def finish(self) -> bool:
        """Seals a running decode: it ends with its next token, as a valid, shorter message, finish "sealed".

        False if it had ended already. Raises FailedPrecondition for a prefill, and before the decode has started.
        """
        return bool(await self.workflow.finish(self))

    async def score(self, *, against: Fidelity = "exact", per_parent: bool = False) -> Score:
        """What the model thinks of this message's content, under the fidelity that it had and under a reference all of
        whose edges are `against`; waits for its end. Raises InvalidRequest for a prefill. See `Workflow.score`."""
        content = (await self).content
        return await self.workflow.score_call(self.call, content or None, against, per_parent)

    async def release(self) -> None:
        """Gives the id up. Calls that still read the message are not disturbed."""
        await self.workflow.release(self)

    def __await__(self) -> Generator[None, None, Result]:
        return self._ended().__await__()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        deltas, seen = self._deltas, 0
        while True:
            if deltas is not self._deltas:  # restarted
                deltas, seen = self._deltas, 0
            if seen < len(deltas):
                seen += 1
                yield deltas[seen - 1]
            elif self.done():
                break
            else:
                await self._change()
        await self._ended()

    async def _ended(self) -> Result:
        while self._result is None:
            if self._error is not None:
                raise self._error.with_traceback(None)
            await self._change()
        return self._result

    async def _change(self) -> None:
        change = asyncio.get_running_loop().create_future()
        self._changed.append(change)
        await change

    def _notify(self) -> None:
        for change in self._changed:
            if not change.done():
                change.set_result(None)
        self._changed.clear()

    # What follows is called by the workflow alone.

    def begin_stream(self) -> None:
        """A stream of events (re)starts: what this handle has seen may come again."""
        self._replayed = self._cursor

    def take(self, event: pb.Event) -> None:
        """One event of this message, in order."""
        if self.done() or event.cursor <= self._replayed:
            return
        self._cursor = event.cursor
        kind = event.WhichOneof("event")
        if kind == "delta":
            self._push_new(event.delta)
        elif kind == "restarted":
            self._begin_attempt(event.restarted.attempt)
        elif kind == "done":
            self._complete(event.done)
            self._result = result(event.done)
        elif kind == "failed":
            self._complete(event.failed)
            self._error = call_error(event.failed)
        self._notify()

    def fail(self, error: PavaneError) -> None:
        """It will not come; `error` says why. Without effect on a message that has ended."""
        if not self.done():
            self._error = error
            self._notify()

    def _push_new(self, delta: pb.Delta) -> None:
        """What of a delta is not here yet: after a resumption it may come merged with what is."""
        text, tokens, logprobs = delta.text, tuple(delta.tokens), tuple(delta.logprobs)
        top = top_logprobs(delta.top_logprobs)
        if delta.HasField("first_token"):
            known = max(0, self._tokens_held - delta.first_token)
            tokens, logprobs, top = tokens[known:], logprobs[known:], top[known:]
            text = text[max(0, self._chars_held - delta.first_char) :]
        self._push(Delta(text, tokens, logprobs, top, self._attempt))

    def _begin_attempt(self, attempt: int) -> None:
        """What came before is void; known already if it is told once more."""
        if attempt > self._attempt:
            self._attempt = attempt
            self._deltas = [Delta("", (), (), (), attempt)]
            self._tokens_held = self._chars_held = 0

    def _push(self, delta: Delta) -> None:
        if delta.text or delta.tokens:
            self._deltas.append(delta)
            self._tokens_held += len(delta.tokens)
            self._chars_held += len(delta.text)

    def _complete(self, message: pb.Message) -> None:
        """After a lost connection the last deltas may be missing: what the readers lack comes as one more."""
        if self.call.WhichOneof("kind") != "decode":
            return
        full = message.text
        generated = full.removeprefix(self.call.decode.header.turn.text)
        if not generated.startswith("".join(d.text for d in self._deltas)):
            self._begin_attempt(message.attempts)
        seen = "".join(d.text for d in self._deltas)
        text = generated if generated.startswith(seen) else full
        tokens = message.tokens[message.content_begin : message.content_end]
        self._push(
            Delta(
                text[len(seen) :] if text.startswith(seen) else "",
                tuple(tokens[sum(len(d.tokens) for d in self._deltas) :]),
                tuple(message.logprobs[sum(len(d.logprobs) for d in self._deltas) :]),
                top_logprobs(message.top_logprobs[sum(len(d.top_logprobs) for d in self._deltas) :]),
                self._attempt,
            )
        )
