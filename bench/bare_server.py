"""A bare grpc.aio server on uvloop that streams one token per message: the ceiling for any server in Python."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop

from pavane.protos.v1 import pavane_pb2 as pb


async def _run(request: pb.RunRequest, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[pb.RunResponse]:
    call = request.submit.calls[0]
    for i in range(call.decode.sampling.max_tokens):
        delta = pb.Delta(text=" word", tokens=[1000 + i % 1000])
        yield pb.RunResponse(events=[pb.Event(cursor=i + 1, id=call.id, delta=delta)])


async def _serve() -> None:
    server = grpc.aio.server()
    handler: Any = grpc.unary_stream_rpc_method_handler(
        _run,
        request_deserializer=pb.RunRequest.FromString,
        response_serializer=pb.RunResponse.SerializeToString,
    )
    service = grpc.method_handlers_generic_handler("pavane.v1.WorkflowService", {"Run": handler})
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await stopping.wait()
    await server.stop(0.2)


if __name__ == "__main__":
    uvloop.run(_serve())
