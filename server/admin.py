"""AdminService: what the server is doing, for those who run it.

It sees all namespaces. With `--api-keys` it is for keys of role admin. Without, nobody is asked who they are: whoever
reaches the port may call it. So it is then served only if `--admin` says so, by default only where the server listens
on a loopback address; a proxy that lets others in to such a port asks for `--admin off`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from time import monotonic
from typing import Any, TypeVar

import grpc

from pavane.protos.v1 import admin_pb2 as pb
from pavane.protos.v1 import admin_pb2_grpc as rpc
from pavane.scheduler.cache_events import CacheEvents
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.introspection import Inspector, Key
from pavane.server.admin_messages import cache_event, message_stats, stats_response, workflow_stats
from pavane.server.config import ServerConfig, is_loopback
from pavane.server.fields import check_id, check_namespace

PAGE = 100
LARGEST_PAGE = 1000
FRAME_EVENTS = 512

Context = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")
_WORKFLOW_TOKEN = re.compile(r"([A-Za-z0-9._-]{0,64})/([A-Za-z0-9._-]{1,64})")


class AdminService(rpc.AdminServiceServicer):
    """`limits` are the server's own; `slot_bytes` is what one slot takes."""

    def __init__(self, inspector: Inspector, cache_events: CacheEvents, limits: pb.Limits, slot_bytes: int) -> None:
        self._inspector = inspector
        self._cache_events = cache_events
        self._limits = limits
        self._slot_bytes = slot_bytes

    async def GetStats(self, request: pb.GetStatsRequest, context: Context) -> pb.GetStatsResponse:
        return stats_response(self._inspector.stats(monotonic()), self._limits, self._slot_bytes)

    async def ListWorkflows(self, request: pb.ListWorkflowsRequest, context: Context) -> pb.ListWorkflowsResponse:
        namespace = check_namespace(request.namespace) if request.HasField("namespace") else None
        size = _page_size(request.page_size)
        page = pb.ListWorkflowsResponse()
        last: Key | None = None
        found = self._inspector.workflows(
            _workflow_token(request), size + 1, monotonic(), namespace=namespace, unfinished=request.unfinished_only
        )
        async for stats in _with_pauses(found):
            if len(page.workflows) == size:
                assert last is not None
                page.next_page_token = "/".join(last)
                break
            page.workflows.append(workflow_stats(stats))
            last = (stats.namespace, stats.id)
        return page

    async def ListMessages(
        self, request: pb.AdminServiceListMessagesRequest, context: Context
    ) -> pb.AdminServiceListMessagesResponse:
        key = (check_namespace(request.namespace), check_id(request.workflow_id, "workflow_id"))
        if request.page_token and not re.fullmatch(r"[0-9]{1,18}", request.page_token):
            raise _wrong_token("ListMessages", request.page_token)
        size = _page_size(request.page_size)
        page = pb.AdminServiceListMessagesResponse()
        last = 0
        found = self._inspector.messages(key, int(request.page_token or 0), size + 1, monotonic())
        async for stats in _with_pauses(found):
            if len(page.messages) == size:
                page.next_page_token = str(last)
                break
            page.messages.append(message_stats(stats, self._slot_bytes))
            last = stats.serial
        return page

    async def WatchCache(self, request: pb.WatchCacheRequest, context: Context) -> AsyncIterator[pb.WatchCacheResponse]:
        events = self._cache_events
        after = events.last
        try:
            for _ in events.open():
                await asyncio.sleep(0)
            yield pb.WatchCacheResponse()
            while True:
                lost, changes = events.read(after, FRAME_EVENTS)
                if not changes:
                    await events.changed()
                    continue
                after = changes[-1].sequence
                yield pb.WatchCacheResponse(events=map(cache_event, changes), dropped=lost)
        finally:
            events.close()


async def _with_pauses(found: Iterator[T | None]) -> AsyncIterator[T]:
    """What is found; where the search says None, others get their turn."""
    for one in found:
        if one is None:
            await asyncio.sleep(0)
        else:
            yield one


def _page_size(asked: int) -> int:
    return min(asked or PAGE, LARGEST_PAGE)


def _workflow_token(request: pb.ListWorkflowsRequest) -> Key | None:
    """The last workflow of the page before. RequestError if no page of this list can have ended there."""
    if not request.page_token:
        return None
    match = _WORKFLOW_TOKEN.fullmatch(request.page_token)
    if match is None or (request.HasField("namespace") and match[1] != request.namespace):
        raise _wrong_token("ListWorkflows", request.page_token)
    return match[1], match[2]


def _wrong_token(method: str, token: str) -> RequestError:
    return RequestError(
        Reason.INVALID_REQUEST,
        f"page_token {token[:80]!r} is not one that {method} returned for this request; leave it out to begin anew",
    )


def is_served(config: ServerConfig) -> bool:
    """Whether `--admin` (auto, on or off), the keys and the address to listen on ask for the service."""
    if config.admin != "auto":
        return config.admin == "on"
    return bool(config.api_keys) or is_loopback(config.host)
