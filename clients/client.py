"""The async client.

async with Client("localhost:50051") as client, client.workflow(budget_tokens=200_000) as wf:
    task = wf.prefill(system=RULES, user=problem)
    ideas = [wf.decode(task, prefix=f"Solution #{i}: ", seed=i, max_tokens=256) for i in range(4)]
    final = wf.decode(task, *ideas, fidelity="exact")
    async for delta in final:
        print(delta.text, end="")
    print((await final).receipt)
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import Self, Unpack

from pavane.clients.calls import PrefillOptions, content
from pavane.clients.checks import check_id, token_ids
from pavane.clients.errors import WorkflowClosed
from pavane.clients.results import ServerInfo, server_info
from pavane.clients.retry import RetryPolicy
from pavane.clients.security import TLS, check_api_key
from pavane.clients.transport import NEVER, Headers, Option, Transport, check_namespace
from pavane.clients.workflow import Workflow
from pavane.protos.v1 import pavane_pb2 as pb


class Client:
    """A connection to one server.

    `tls`: True encrypts and trusts the authorities that gRPC brings along, `TLS` names files. Without, all is sent in
    the clear, as to a server on this machine; False says so of one elsewhere, which something else protects.
    `api_key`: as `pavane keys new` printed it; it implies the namespace, `namespace` names another that is granted.
    `timeout` is in seconds and limits one attempt of one request, never a call (that is the call's own `timeout`).
    `linger`, in seconds, gathers calls for one Submit for so long instead of for one turn of the event loop.
    `headers` is called for every request and returns more metadata: `x-request-id`, which the server's log then names,
    or a `traceparent`, whose trace the server's spans continue (with OpenTelemetry: a function that gives a dict to
    `propagate.inject` and returns it). It runs in the context that sends: calls are gathered, and those of one Submit
    share one.
    `options` are gRPC channel options that go before the client's own.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        namespace: str = "",
        tls: TLS | bool | None = None,
        api_key: str = "",
        timeout: float = 30.0,
        retry: RetryPolicy | None = None,
        linger: float = 0.0,
        headers: Headers | None = None,
        options: Sequence[Option] = (),
    ) -> None:
        self.target = target
        self.namespace = check_namespace(namespace)
        self._tls = tls
        self._api_key = check_api_key(api_key, target, tls)
        self._timeout = timeout
        self._retry = retry or RetryPolicy()
        self._linger = linger
        self._headers = headers
        self._options = tuple(options)
        self._transport: Transport | None = None
        self._workflows: set[Workflow] = set()

    async def __aenter__(self) -> Self:
        self._transport = Transport(
            self.target,
            self.namespace,
            self._timeout,
            self._retry,
            self._options,
            tls=self._tls,
            api_key=self._api_key,
            headers=self._headers,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection. Handles that have not ended raise WorkflowClosed; the calls themselves run on."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        closed = WorkflowClosed("CLIENT_CLOSED", "the client was closed before the call had ended")
        try:
            for workflow in tuple(self._workflows):
                await workflow.abandon(closed)
        finally:
            await transport.close()

    def workflow(
        self,
        id: str | None = None,
        *,
        budget_tokens: int = 0,
        ttl: float | None = None,
        priority: int | None = None,
        deadline: float | None = None,
        close: bool = True,
    ) -> Workflow:
        """A workflow, opened by `async with`; one that exists already is taken up again.

        `budget_tokens`: tokens encoded and generated at most, 0 = no limit. `ttl`: seconds without a request or an
        unfinished call after which the server closes it. `priority`: higher goes first within the namespace; default
        0. `deadline`: seconds from opening in which all of its calls must end. `close=False` leaves it open on the way
        out.
        """
        name = check_id("a workflow id", id) if id is not None else f"wf-{uuid.uuid4().hex}"
        return Workflow(
            self._open(),
            name,
            budget_tokens=budget_tokens,
            ttl=ttl,
            priority=priority,
            deadline=deadline,
            close=close,
            linger=self._linger,
            opened=self._workflows,
        )

    async def server_info(self) -> ServerInfo:
        """What the server serves. Fails at once if it is not there."""
        transport = self._open()
        return server_info(
            await transport.unary(transport.models.GetServerInfo, pb.GetServerInfoRequest(), retry=NEVER)
        )

    async def tokenize(self, **options: Unpack[PrefillOptions]) -> tuple[int, ...]:
        """The tokens of a prefill's content: system/user/assistant, turns, text or tokens."""
        transport = self._open()
        request = pb.TokenizeRequest(content=content(options))
        return tuple((await transport.unary(transport.models.Tokenize, request)).ids)

    async def detokenize(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        transport = self._open()
        request = pb.DetokenizeRequest(ids=token_ids("ids", ids))
        return (await transport.unary(transport.models.Detokenize, request)).text

    def _open(self) -> Transport:
        if self._transport is None:
            raise WorkflowClosed("CLIENT_CLOSED", "the client is not open; use `async with Client(...)`")
        return self._transport
