"""What holds for every RPC: who calls is known, not too many are open, and what is raised becomes a status."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from pavane.scheduler.errors import Reason, RequestError
from pavane.server.auth import OPEN_SERVICE, Caller, Guard, answer_for
from pavane.server.status import CODES, trailers
from pavane.server.streams import Streams

log = logging.getLogger(__name__)

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

    def __init__(self, guard: Guard, streams: Streams) -> None:
        self._guard = guard
        self._streams = streams

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method = handler_call_details.method
        if method.startswith(OPEN_SERVICE):
            if not self._streams.enter_health():
                return _refusal(RequestError(Reason.TOO_MANY_STREAMS, "too many ask for its health", retry_after=1.0))
            return await continuation(handler_call_details)
        try:
            caller = self._guard.caller(method, handler_call_details.invocation_metadata or ())
            self._streams.enter(caller.namespace)
        except RequestError as error:
            return _refusal(error)
        handler = await continuation(handler_call_details)
        if handler is None or not method.startswith("/pavane.v1."):
            return handler
        return self._wrapped(handler, caller)

    def _wrapped(self, handler: Handler, caller: Caller) -> Handler:
        decode = handler.request_deserializer
        assert decode is not None

        def deserialize(data: bytes) -> object:
            try:
                return decode(data)
            except (DecodeError, UnicodeDecodeError) as error:
                return _Undecodable(str(error))

        if handler.unary_stream is not None:
            stream: Any = handler.unary_stream  # an async generator: the types know synchronous servers only

            async def streaming(request: object, context: Context) -> AsyncIterator[object]:
                try:
                    _check(request)
                    answer_for(caller)
                    async for response in stream(request, context):
                        self._guard.check(caller)
                        yield response
                except Exception as error:  # noqa: BLE001 - the one place where everything ends
                    await _abort(context, error)

            return grpc.unary_stream_rpc_method_handler(streaming, deserialize, handler.response_serializer)
        unary: Any = handler.unary_unary
        assert unary is not None

        async def answering(request: object, context: Context) -> object:
            try:
                _check(request)
                answer_for(caller)
                response = await unary(request, context)
                self._guard.check(caller)  # it may have waited for long
                return response
            except Exception as error:  # noqa: BLE001 - the one place where everything ends
                await _abort(context, error)

        return grpc.unary_unary_rpc_method_handler(answering, deserialize, handler.response_serializer)


def _refusal(error: RequestError) -> Handler:
    """Answers without reading the request, whatever the RPC's kind: on the wire they are the same."""

    async def refuse(requests: object, context: Context) -> NoReturn:
        await _abort(context, error)

    return grpc.stream_unary_rpc_method_handler(refuse)


def _check(request: object) -> None:
    if isinstance(request, _Undecodable):
        raise RequestError(
            Reason.INVALID_REQUEST, f"the request cannot be decoded ({request.why}); text fields must be valid UTF-8"
        )


async def _abort(context: Context, error: Exception) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, RequestError):
        log.error("a request failed by a defect of the server", exc_info=error)
        error = RequestError(
            Reason.INTERNAL, f"the server failed on this request ({type(error).__name__}); see its log"
        )
    await context.abort(CODES[error.reason], error.text, trailers(error))
    raise AssertionError("abort returned")
