"""One place where what an RPC raises becomes a status: expected errors as they are, defects as INTERNAL."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from pavane.scheduler.errors import Reason, RequestError
from pavane.server.status import CODES, trailers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Undecodable:
    why: str


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every RPC of pavane.v1. A request that cannot be decoded (text that is not UTF-8, a broken message) is the
    caller's fault and answered as such, which gRPC by itself does not do."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith("/pavane.v1."):
            return handler
        decode = handler.request_deserializer
        assert decode is not None

        def deserialize(data: bytes) -> object:
            try:
                return decode(data)
            except (DecodeError, UnicodeDecodeError) as error:
                return _Undecodable(str(error))

        if handler.unary_stream is not None:
            stream: Any = handler.unary_stream  # an async generator: the types know synchronous servers only

            async def streaming(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[object]:
                try:
                    _check(request)
                    async for response in stream(request, context):
                        yield response
                except Exception as error:  # noqa: BLE001 - the one place where everything ends
                    await _abort(context, error)

            return grpc.unary_stream_rpc_method_handler(streaming, deserialize, handler.response_serializer)
        unary: Any = handler.unary_unary
        assert unary is not None

        async def answering(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> object:
            try:
                _check(request)
                return await unary(request, context)
            except Exception as error:  # noqa: BLE001 - the one place where everything ends
                await _abort(context, error)

        return grpc.unary_unary_rpc_method_handler(answering, deserialize, handler.response_serializer)


def _check(request: object) -> None:
    if isinstance(request, _Undecodable):
        raise RequestError(
            Reason.INVALID_REQUEST, f"the request cannot be decoded ({request.why}); text fields must be valid UTF-8"
        )


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, RequestError):
        log.error("a request failed by a defect of the server", exc_info=error)
        error = RequestError(
            Reason.INTERNAL, f"the server failed on this request ({type(error).__name__}); see its log"
        )
    await context.abort(CODES[error.reason], error.text, trailers(error))
    raise AssertionError("abort returned")
