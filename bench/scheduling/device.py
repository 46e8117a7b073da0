"""Whether the host keeps up with a fast device: steps of a given time on a server process, with many streams over
gRPC, server and client on a core each. It has no bars: it is asked whether the engine has to leave the process of the
front end."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import median

import grpc

from pavane.bench.report import Figure
from pavane.bench.scheduling.part import Found, Options, Progress, percentile
from pavane.bench.server_process import ServerProcess
from pavane.protos.v1 import pavane_pb2 as pb
from pavane.protos.v1 import pavane_pb2_grpc as rpc

STREAMS, PARENTS, TEXTS, TEXT_TOKENS = 64, 8, 16, 64
TOKENS, EDGE = 600, 40  # of each stream; steps left out at either end, when streams come and go
SLOTS = 65_536
STEP_MS = 4.0


def measure(options: Options, progress: Progress) -> Found:
    streams, tokens = (8, 4 * EDGE) if options.quick else (STREAMS, TOKENS)
    allowed = os.sched_getaffinity(0)
    server, client = (sorted(allowed) * 2)[:2]
    os.sched_setaffinity(0, {client})
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "steps.json"
            asyncio.run(_play(streams, tokens, server, file, options.serve))
            rows = [row for row in json.loads(file.read_text()) if row[0] == streams][EDGE:-EDGE]
    finally:
        os.sched_setaffinity(0, allowed)
    _, ends, idle, launching, loop = zip(*rows, strict=True)
    intervals, busy = ([(b - a) * 1e3 for a, b in pairwise(x)] for x in (ends, loop))
    what = f"{streams} streams x {PARENTS} parents over gRPC, {STEP_MS:g} ms on the device"
    progress(f"  device: {len(rows)} steps, launching takes {median(launching) * 1e3:.2f} ms")
    figures = [
        Figure(f"{what}: ms from step to step", median(intervals), None, f"{median(intervals):.2f} ms"),
        Figure("the same, 90 of 100", percentile(intervals, 90), None, f"{percentile(intervals, 90):.2f} ms"),
        Figure("share of the time in which the device had nothing to do",
               sum(idle) / (ends[-1] - ends[0]), None, f"{sum(idle):.2f} s", f"{ends[-1] - ends[0]:.2f} s"),
        Figure("CPU of the event loop for a step, ms", sum(busy) / len(busy), None, f"{sum(busy) / len(busy):.2f} ms"),
    ]  # fmt: skip
    return Found(figures, {"intervals_ms": intervals, "launching_s": launching, "loop_cpu_ms": busy})


async def _play(streams: int, tokens: int, core: int, file: Path, serve: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "pavane.bench.fake_device", "--step-ms", str(STEP_MS), "--core", str(core)]
    flags = ["--steps", str(file), "--port", "0", "--metrics-port", "-1", "--max-num-seqs", str(streams),
             "--num-slots", str(SLOTS), *serve]  # fmt: skip
    async with ServerProcess([*command, *flags]) as server, grpc.aio.insecure_channel(server.target) as channel:
        stub: rpc.WorkflowServiceAsyncStub = rpc.WorkflowServiceStub(channel)  # type: ignore[assignment]
        await stub.OpenWorkflow(pb.OpenWorkflowRequest(workflow_id="w"))
        texts = [pb.Call(id=f"t{i}", prefill=pb.Prefill(tokens=_ids(TEXT_TOKENS, i))) for i in range(TEXTS)]
        async for _ in stub.Run(pb.RunRequest(submit=pb.SubmitRequest(workflow_id="w", calls=texts))):
            pass
        await asyncio.gather(*(_stream(stub, i, tokens) for i in range(streams)))


async def _stream(stub: rpc.WorkflowServiceAsyncStub, number: int, tokens: int) -> None:
    sampling = pb.Sampling(max_tokens=tokens, ignore_eos=True)
    parents = [pb.ParentRef(id=f"t{(number + i) % TEXTS}") for i in range(PARENTS)]
    decode = pb.Decode(header=pb.Header(tokens=_ids(8, number)), sampling=sampling)
    call = pb.Call(id=f"a{number}", decode=decode, parents=parents)
    async for _ in stub.Run(pb.RunRequest(submit=pb.SubmitRequest(workflow_id="w", calls=[call]))):
        pass


def _ids(count: int, seed: int) -> pb.Tokens:
    return pb.Tokens(ids=[1000 + (31 * seed + i) % 5000 for i in range(count)])
