"""The same client for code without an event loop: everything runs on a loop in a thread of its own.

with SyncClient("localhost:50051") as client, client.workflow() as wf:
    task = wf.prefill(user="Name three rivers.")
    answer = wf.decode(task, max_tokens=64)
    for delta in answer:
        print(delta.text, end="")
    print(answer.result().receipt)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from pavane.clients.calls import DecodeOptions, PrefillOptions
from pavane.clients.client import Client
from pavane.clients.edges import Edge, Fidelity, Parent
from pavane.clients.group import Group
from pavane.clients.message import Message
from pavane.clients.results import Delta, Receipt, Result, ServerInfo
from pavane.clients.retry import RetryPolicy
from pavane.clients.score import Score
from pavane.clients.security import TLS
from pavane.clients.transport import Headers, Option
from pavane.clients.workflow import Workflow

T = TypeVar("T")

# Calls that are made one after the other still share a Submit.
LINGER_S = 0.002


class Bridge:
    """An event loop in a thread, and the way into it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pavane-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """The result of a coroutine. Raises TimeoutError after `timeout` seconds. Interrupted, it cancels the coroutine
        and waits for its end."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except BaseException:
            if future.cancel():
                asyncio.run_coroutine_threadsafe(self._ended(work), self._loop).result()
            raise

    def call(self, function: Callable[[], T]) -> T:
        """The result of a plain function, called on the loop."""

        async def work() -> T:
            return function()

        return self.run(work())

    def stop(self) -> None:
        """Ends the thread."""
        self.run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _ended(self, work: Coroutine[Any, Any, object]) -> None:
        tasks = [task for task in asyncio.all_tasks() if task.get_coro() is work]
        if tasks:
            await asyncio.wait(tasks)

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()


class SyncMessage(Parent):
    """The handle of a message; see `Message`."""

    __slots__ = ("_bridge", "_message")

    def __init__(self, bridge: Bridge, message: Message) -> None:
        self._bridge = bridge
        self._message = message

    @property
    def id(self) -> str:
        """Its id in the workflow."""
        return self._message.id

    def edge(self) -> Edge:
        return self._message.edge()

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._message.done()

    def result(self, timeout: float | None = None) -> Result:
        """The whole message. Raises PavaneError if the call failed, TimeoutError after `timeout` seconds."""

        async def ended() -> Result:
            return await self._message

        return self._bridge.run(ended(), timeout)

    def __iter__(self) -> Iterator[Delta]:
        deltas = aiter(self._message)

        async def step() -> Delta | None:
            return await anext(deltas, None)

        while (delta := self._bridge.run(step())) is not None:
            yield delta

    def cancel(self, *, descendants: bool = True) -> tuple[str, ...]:
        """Cancels the call and, unless told otherwise, all calls below it. Returns the ids that were cancelled."""
        return self._bridge.run(self._message.cancel(descendants=descendants))

    def finish(self) -> bool:
        """Seals a running decode; see `Message.finish`."""
        return self._bridge.run(self._message.finish())

    def score(self, *, against: Fidelity = "exact", per_parent: bool = False) -> Score:
        """What the model thinks of its content; see `Message.score`."""
        return self._bridge.run(self._message.score(against=against, per_parent=per_parent))

    def release(self) -> None:
        """Gives the id up."""
        self._bridge.run(self._message.release())


class SyncWorkflow:
    """A workflow, used as `with`; see `Workflow`."""

    def __init__(self, bridge: Bridge, workflow: Workflow) -> None:
        self._bridge = bridge
        self._workflow = workflow
        self.id = workflow.id

    def __enter__(self) -> Self:
        self._bridge.run(self._workflow.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bridge.run(self._workflow.__aexit__(kind, error, trace))

    @property
    def total(self) -> Receipt:
        """The summed receipt, once the workflow is closed."""
        return self._workflow.total

    def prefill(self, *parents: str | Parent, **options: Unpack[PrefillOptions]) -> SyncMessage:
        """Encodes given content behind `parents`."""
        message = self._bridge.call(lambda: self._workflow.prefill(*parents, **options))
        return SyncMessage(self._bridge, message)

    def decode(self, *parents: str | Parent, **options: Unpack[DecodeOptions]) -> SyncMessage:
        """Generates an answer that sees `parents`."""
        message = self._bridge.call(lambda: self._workflow.decode(*parents, **options))
        return SyncMessage(self._bridge, message)

    def decode_n(self, n: int, *parents: str | Parent, **options: Unpack[DecodeOptions]) -> tuple[SyncMessage, ...]:
        """`n` answers to the same; see `Workflow.decode_n`."""
        messages = self._bridge.call(lambda: self._workflow.decode_n(n, *parents, **options))
        return tuple(SyncMessage(self._bridge, message) for message in messages)

    def group(self, *members: str | Parent, need: int, cancel_rest: bool = False, id: str | None = None) -> Group:
        """The first `need` of `members`, as one parent; see `Workflow.group`."""
        return self._bridge.call(lambda: self._workflow.group(*members, need=need, cancel_rest=cancel_rest, id=id))

    def score(
        self,
        *parents: str | Parent,
        ids: Sequence[int] | None = None,
        against: Fidelity = "exact",
        per_parent: bool = False,
        **options: Unpack[DecodeOptions],
    ) -> Score:
        """Judges known content; see `Workflow.score`."""
        return self._bridge.run(
            self._workflow.score(*parents, ids=ids, against=against, per_parent=per_parent, **options)
        )

    def cancel(self, *messages: str | Parent, descendants: bool = True) -> tuple[str, ...]:
        """Cancels calls and, unless told otherwise, all below them. Returns the ids that were cancelled."""
        return self._bridge.run(self._workflow.cancel(*messages, descendants=descendants))

    def finish(self, *messages: str | Parent) -> tuple[str, ...]:
        """Seals running decodes; see `Workflow.finish`."""
        return self._bridge.run(self._workflow.finish(*messages))

    def release(self, *messages: str | Parent) -> None:
        """Gives ids up."""
        self._bridge.run(self._workflow.release(*messages))

    def get(self, message: str | Parent, *, wait: bool = False) -> Result:
        """The message as it is now, or, with `wait`, when its call has ended."""
        return self._bridge.run(self._workflow.get(message, wait=wait))

    def list(self) -> tuple[Result, ...]:
        """All messages of the workflow, without tokens and log-probabilities."""
        return self._bridge.run(self._workflow.list())


class SyncClient:
    """A connection to one server, used as `with`; see `Client`."""

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        namespace: str = "",
        tls: TLS | bool | None = None,
        api_key: str = "",
        timeout: float = 30.0,
        retry: RetryPolicy | None = None,
        linger: float = LINGER_S,
        headers: Headers | None = None,
        options: Sequence[Option] = (),
    ) -> None:
        self._client = Client(
            target,
            namespace=namespace,
            tls=tls,
            api_key=api_key,
            timeout=timeout,
            retry=retry,
            linger=linger,
            headers=headers,
            options=options,
        )

    def __enter__(self) -> Self:
        self._bridge = Bridge()
        self._bridge.run(self._client.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._bridge.run(self._client.close())
        finally:
            self._bridge.stop()

    def workflow(
        self,
        id: str | None = None,
        *,
        budget_tokens: int = 0,
        ttl: float | None = None,
        priority: int | None = None,
        deadline: float | None = None,
        close: bool = True,
    ) -> SyncWorkflow:
        """A workflow, opened by `with`; see `Client.workflow`."""
        workflow = self._client.workflow(
            id, budget_tokens=budget_tokens, ttl=ttl, priority=priority, deadline=deadline, close=close
        )
        return SyncWorkflow(self._bridge, workflow)

    def server_info(self) -> ServerInfo:
        """What the server serves."""
        return self._bridge.run(self._client.server_info())

    def tokenize(self, **options: Unpack[PrefillOptions]) -> tuple[int, ...]:
        """The tokens of a prefill's content."""
        return self._bridge.run(self._client.tokenize(**options))

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return self._bridge.run(self._client.detokenize(ids))
