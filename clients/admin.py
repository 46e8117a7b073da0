"""For those who run a server: what it is doing, in all namespaces.

async with Admin("localhost:50051") as admin:
    print((await admin.stats()).calls)
    async for workflow in admin.workflows(unfinished_only=True):
        print(workflow.id, workflow.calls)
    async for changes in admin.watch_cache():
        print(changes.events)
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import grpc.aio

from pavane.clients.admin_results import CacheEvents, MessageStats, Stats, WorkflowStats
from pavane.clients.checks import check_id
from pavane.clients.errors import FailedPrecondition, InternalError, WorkflowClosed
from pavane.clients.results import ServerInfo, server_info
from pavane.clients.retry import RetryPolicy
from pavane.clients.security import TLS, check_api_key
from pavane.clients.transport import NEVER, A, Q, Transport, check_namespace
from pavane.protos.v1 import admin_pb2 as pb
from pavane.protos.v1 import pavane_pb2 as core

PAGE = 500


class Admin:
    """A connection to the AdminService of one server, which serves it where its --admin says so. `tls` and `api_key`
    are as for `Client`; a server with keys asks for one of role admin.

    `timeout` is in seconds and limits one attempt of one request. Lists are read page by page while the server goes on
    working: each entry is true for the moment when it was looked at. Raises PavaneError; FailedPrecondition with the
    reason ADMIN_OFF where the server does not serve it.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        tls: TLS | bool | None = None,
        api_key: str = "",
        timeout: float = 30.0,
        retry: RetryPolicy | None = None,
    ) -> None:
        self.target = target
        self._tls = tls
        self._api_key = check_api_key(api_key, target, tls)
        self._timeout = timeout
        self._retry = retry or RetryPolicy()
        self._transport: Transport | None = None

    async def __aenter__(self) -> Self:
        self._transport = Transport(
            self.target, "", self._timeout, self._retry, (), tls=self._tls, api_key=self._api_key
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()

    async def server_info(self) -> ServerInfo:
        """What the server serves. Fails at once if it is not there."""
        transport = self._open()
        request = core.GetServerInfoRequest()
        return server_info(await transport.unary(transport.models.GetServerInfo, request, retry=NEVER))

    async def stats(self) -> Stats:
        """The server at this moment."""
        return Stats.of(await self._ask(self._open().admin.GetStats, pb.GetStatsRequest()))

    async def workflows(
        self, namespace: str | None = None, *, unfinished_only: bool = False, limit: int | None = None
    ) -> AsyncIterator[WorkflowStats]:
        """Open workflows by namespace and id, at most `limit`; of one namespace if it is given, with calls that have
        not ended if asked for."""
        method = self._open().admin.ListWorkflows
        request = pb.ListWorkflowsRequest(unfinished_only=unfinished_only, page_size=min(PAGE, limit or PAGE))
        if namespace is not None:
            request.namespace = check_namespace(namespace)
        left = limit
        while True:
            page = await self._ask(method, request)
            for message in page.workflows[:left]:
                yield WorkflowStats.of(message)
            left = None if left is None else left - len(page.workflows)
            if not page.next_page_token or (left is not None and left <= 0):
                return
            request.page_token = page.next_page_token

    async def messages(self, workflow_id: str, *, namespace: str = "") -> AsyncIterator[MessageStats]:
        """The messages of a workflow, in the order of their arrival."""
        method = self._open().admin.ListMessages
        request = pb.AdminServiceListMessagesRequest(
            namespace=check_namespace(namespace), workflow_id=check_id("a workflow id", workflow_id), page_size=PAGE
        )
        while True:
            page = await self._ask(method, request)
            for message in page.messages:
                yield MessageStats.of(message)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def watch_cache(self) -> AsyncIterator[CacheEvents]:
        """What enters and leaves the cache from now on, until the stream breaks. The first value comes at once and has
        no events; a reader that lags loses the oldest."""
        transport = self._open()
        try:
            async for response in transport.stream(transport.admin.WatchCache, pb.WatchCacheRequest()):
                yield CacheEvents.of(response)
        except InternalError as error:
            raise _explained(error) from error

    async def _ask(self, method: grpc.aio.UnaryUnaryMultiCallable[Q, A], request: Q) -> A:
        try:
            return await self._open().unary(method, request)
        except InternalError as error:
            raise _explained(error) from error

    def _open(self) -> Transport:
        if self._transport is None:
            raise WorkflowClosed("CLIENT_CLOSED", "the client is not open; use `async with Admin(...)`")
        return self._transport


def _explained(error: InternalError) -> FailedPrecondition | InternalError:
    if error.reason != "UNIMPLEMENTED":
        return error
    return FailedPrecondition("ADMIN_OFF", "the server does not serve AdminService; start it with `--admin on`")
