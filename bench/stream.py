"""Tokens delivered per second by the whole server over a runner that computes nothing, against a bare gRPC server."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from statistics import median

import grpc
import uvloop

from pavane.bench.report import emit, say, verdict
from pavane.bench.server_process import ServerProcess
from pavane.protos.v1 import pavane_pb2 as pb
from pavane.protos.v1 import pavane_pb2_grpc as rpc

BAR = 0.5
Metadata = tuple[tuple[str, str], ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=400, help="of each stream")
    parser.add_argument("--repeat", type=int, default=3)


def run(args: argparse.Namespace) -> int:
    rates: dict[str, list[float]] = {"bare": [], "pavane": []}
    for _ in range(args.repeat):
        for name, module in (("bare", "bare_server"), ("pavane", "fake_server")):
            flags = ["--port", "0", "--metrics-port", "-1", *args.serve] if name == "pavane" else []
            rates[name].append(uvloop.run(_bench(module, flags, args.streams, args.tokens)))
            say(f"  {name:6} {rates[name][-1]:.0f} tokens/s")
    ratio = median(rates["pavane"]) / median(rates["bare"])
    emit({"bench": "stream", "streams": args.streams, "rates": rates, "ratio": ratio}, args.json)
    say(verdict("tokens delivered, pavane / bare", ratio, f">= {BAR}", ratio >= BAR))
    return 0


async def _bench(module: str, flags: list[str], streams: int, tokens: int) -> float:
    command = [sys.executable, "-m", f"pavane.bench.{module}", *flags]
    async with ServerProcess(command) as server, grpc.aio.insecure_channel(server.target) as channel:
        stub: rpc.WorkflowServiceAsyncStub = rpc.WorkflowServiceStub(channel)  # type: ignore[assignment]
        if flags:
            await stub.OpenWorkflow(pb.OpenWorkflowRequest(workflow_id="w"))
        await deliver(stub, "warm", streams, 20)
        return await deliver(stub, "s", streams, tokens)


async def deliver(
    stub: rpc.WorkflowServiceAsyncStub, name: str, streams: int, tokens: int, metadata: Metadata = ()
) -> float:
    """Tokens a second of so many streams in the workflow "w", each of `tokens`; `name` is new in it."""
    began = time.perf_counter()
    counts = await asyncio.gather(*(_stream(stub, f"{name}-{i}", tokens, metadata) for i in range(streams)))
    return sum(counts) / (time.perf_counter() - began)


async def _stream(stub: rpc.WorkflowServiceAsyncStub, call_id: str, tokens: int, metadata: Metadata) -> int:
    sampling = pb.Sampling(max_tokens=tokens, ignore_eos=True)
    decode = pb.Decode(header=pb.Header(tokens=pb.Tokens(ids=[1, 2, 3])), sampling=sampling)
    call = pb.Call(id=call_id, decode=decode)
    count = 0
    request = pb.RunRequest(submit=pb.SubmitRequest(workflow_id="w", calls=[call]))
    async for response in stub.Run(request, metadata=metadata):
        for event in response.events:
            kind = event.WhichOneof("event")
            if kind == "delta":
                count += len(event.delta.tokens)
            elif kind == "done":  # carries what a merged frame left out
                count = max(count, event.done.content_end - event.done.content_begin)
    assert count == tokens, f"{call_id}: {count} of {tokens} tokens arrived"
    return count
