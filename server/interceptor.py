"""What holds for every RPC: who calls is known, not too many are open, what is raised becomes a status, and the log
hears how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from pavane.scheduler.errors import Reason, RequestError
from pavane.server.access import Access
from pavane.server.auth import OPEN_SERVICE, Caller, Guard, answer_for
from pavane.server.request import REQUEST_ID_METADATA, Request, answer
from pavane.server.status import CODES, trailers
from pavane.server.streams import Streams, current_task

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class _Undecodable:
    why: str


class RpcInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every RPC. Those of services that are not ours (health, reflection) are let in or refused, no more.

    Expected errors are answered as they are, defects as INTERNAL. A request that cannot be decoded (text that is not
    UTF-8, a broken message) is the caller's fault and answered as such, which gRPC by itself does not do.
    """

    def __init__(self, guard: Guard, streams: Streams, access: Access) -> None:
        self._guard = guard
        self._streams = streams
        self._access = access

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method, metadata = handler_call_details.method, handler_call_details.invocation_metadata or ()
        request = Request.of(method, metadata)
        if method.startswith(OPEN_SERVICE):
            if not self._streams.enter_health():
                error = RequestError(Reason.TOO_MANY_STREAMS, "too many ask for its health", retry_after=1.0)
                return self._refusal(request, error)
            return await continuation(handler_call_details)
        try:
            caller = self._guard.caller(method, metadata)
            self._streams.enter(caller.namespace)
        except RequestError as error:
            return self._refusal(request, error)
        handler = await continuation(handler_call_details)
        if handler is None or not method.startswith("/pavane.v1."):
            return handler

        def ended(_: object) -> None:
            if not request.read:
                self._access.unread(request)

        current_task().add_done_callback(ended)
        return self._wrapped(handler, caller, request)

    def _wrapped(self, handler: Handler, caller: Caller, request: Request) -> Handler:
        decode = handler.request_deserializer
        assert decode is not None

        def deserialize(data: bytes) -> object:
            request.read = True
            try:
                return decode(data)
            except (DecodeError, UnicodeDecodeError) as error:
                return _Undecodable(str(error))

        def begin(message: object, context: Context) -> None:
            context.set_trailing_metadata(((REQUEST_ID_METADATA, request.id),))
            request.has(caller.namespace, message)
            answer(request)
            answer_for(caller)
            _check(message)

        if handler.unary_stream is not None:
            stream: Any = handler.unary_stream  # an async generator: the types know synchronous servers only

            async def streaming(message: object, context: Context) -> AsyncIterator[object]:
                try:
                    begin(message, context)
                    async for response in stream(message, context):
                        self._guard.check(caller)
                        yield response
                except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the one place where everything ends
                    del message  # see _abort
                    await self._abort(context, request, error)
                self._access.answered(request)

            return grpc.unary_stream_rpc_method_handler(streaming, deserialize, handler.response_serializer)
        unary: Any = handler.unary_unary
        assert unary is not None

        async def answering(message: object, context: Context) -> object:
            try:
                begin(message, context)
                response = await unary(message, context)
                self._guard.check(caller)  # it may have waited for long
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the one place where everything ends
                del message  # see _abort
                await self._abort(context, request, error)
            self._access.answered(request)
            return response

        return grpc.unary_unary_rpc_method_handler(answering, deserialize, handler.response_serializer)

    def _refusal(self, request: Request, error: RequestError) -> Handler:
        """Answers without reading the request, whatever the RPC's kind: on the wire they are the same."""

        async def refuse(messages: object, context: Context) -> NoReturn:
            await self._abort(context, request, error)

        return grpc.stream_unary_rpc_method_handler(refuse)

    async def _abort(self, context: Context, request: Request, error: BaseException) -> NoReturn:
        """gRPC keeps the exception that it raises here in a cycle, and with it the frames above and below until cycles
        are collected: what was sent, and what was made of it, is not to wait for that."""
        if isinstance(error, asyncio.CancelledError):
            self._access.given_up(request)
            raise error
        failure = error if isinstance(error, RequestError) else None
        if failure is not None:
            self._access.refused(request, failure)
        else:
            assert isinstance(error, Exception)
            self._access.failed(request, error)
            failure = RequestError(
                Reason.INTERNAL,
                f"the server failed on this request ({type(error).__name__}); its log has more under the request id "
                f"{request.id}",
            )
        error.__traceback__ = None
        more: tuple[tuple[str, str | bytes], ...] = (*trailers(failure), (REQUEST_ID_METADATA, request.id))
        await context.abort(CODES[failure.reason], failure.text, more)
        raise AssertionError("abort returned")


def _check(request: object) -> None:
    if isinstance(request, _Undecodable):
        raise RequestError(
            Reason.INVALID_REQUEST, f"the request cannot be decoded ({request.why}); text fields must be valid UTF-8"
        )
