"""The channel, and the one place where RPCs are made, retried and their errors translated."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc
import grpc.aio

from pavane.clients.errors import from_rpc_error
from pavane.clients.retry import Backoff, RetryPolicy
from pavane.clients.security import TLS, open_channel
from pavane.protos.v1 import admin_pb2_grpc as admin_stubs
from pavane.protos.v1 import pavane_pb2 as pb
from pavane.protos.v1 import pavane_pb2_grpc as stubs

if TYPE_CHECKING:
    from google.protobuf.message import Message as Proto

Q = TypeVar("Q", bound="Proto")
A = TypeVar("A", bound="Proto")
Option = tuple[str, Any]
Headers = Callable[[], Mapping[str, str]]

OPTIONS: tuple[Option, ...] = (
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # While a ping that measures the line is out, keepalive sends none: where data came last, that one has to tell.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # The channel's own reconnecting must not be slower than the retries above it.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Not a wait, whatever its name: how long an attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", 5_000),
)
NEVER = RetryPolicy(give_up_after=0.0)

_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{0,64}")


class Transport:
    """An open channel with its stubs. `timeout` is in seconds, for one attempt."""

    def __init__(
        self,
        target: str,
        namespace: str,
        timeout: float,
        retry: RetryPolicy,
        options: Sequence[Option],
        *,
        tls: TLS | bool | None = None,
        api_key: str = "",
        headers: Headers | None = None,
    ) -> None:
        self.retry = retry
        self._headers = headers
        self._namespace = namespace
        self._timeout = timeout
        self._authorization = f"Bearer {api_key}" if api_key else ""
        self._channel = open_channel(target, tls, [*options, *OPTIONS])  # of two values gRPC takes the first
        self.workflows = cast("stubs.WorkflowServiceAsyncStub", stubs.WorkflowServiceStub(self._channel))
        self.models = cast("stubs.ModelServiceAsyncStub", stubs.ModelServiceStub(self._channel))
        self.admin = cast("admin_stubs.AdminServiceAsyncStub", admin_stubs.AdminServiceStub(self._channel))

    async def close(self) -> None:
        """Closes the channel; what is in flight breaks off."""
        await self._channel.close()

    async def unary(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Q, A],
        request: Q,
        *,
        workflow: str = "",
        limit: float | None = None,
        retry: RetryPolicy | None = None,
    ) -> A:
        """The answer, however many attempts it takes. Raises PavaneError. `limit` is in seconds, for one
        attempt, in place of the transport's; inf waits without end."""
        backoff = Backoff(retry or self.retry)
        seconds = self._timeout if limit is None else limit
        while True:
            try:
                return await method(
                    request, timeout=None if seconds == float("inf") else seconds, metadata=self._metadata(workflow)
                )
            except grpc.aio.AioRpcError as rpc_error:
                error = from_rpc_error(rpc_error)
                delay = backoff.wait(error)
                if delay is None:
                    raise error from rpc_error
            await asyncio.sleep(delay)

    async def watch(self, workflow: str, after: int) -> AsyncIterator[pb.WatchResponse]:
        """Events after a cursor, from one stream. Raises PavaneError when it breaks."""
        request = pb.WatchRequest(workflow_id=workflow, after=after)
        async for response in self.stream(self.workflows.Watch, request, workflow=workflow):
            yield response

    async def stream(
        self, method: grpc.aio.UnaryStreamMultiCallable[Q, A], request: Q, *, workflow: str = ""
    ) -> AsyncIterator[A]:
        """The responses of one stream. Raises PavaneError when it breaks."""
        call = method(request, metadata=self._metadata(workflow))
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as rpc_error:
            raise from_rpc_error(rpc_error) from rpc_error
        finally:
            call.cancel()

    def _metadata(self, workflow: str) -> tuple[tuple[str, str], ...]:
        pairs = (
            ("pavane-namespace", self._namespace),
            ("pavane-workflow-id", workflow),
            ("authorization", self._authorization),
        )
        more = self._headers() if self._headers is not None else {}
        return (*((key, value) for key, value in pairs if value), *more.items())


def check_namespace(namespace: str) -> str:
    """`namespace`, if it is a legal one. Raises ValueError otherwise."""
    if not _NAMESPACE.fullmatch(namespace):
        raise ValueError(
            f"a namespace has at most 64 of the characters A-Z a-z 0-9 . _ -, and may be empty; not {namespace!r}"
        )
    return namespace
