"""What prompts of 1 MB do to the others: pauses between the tokens of streams, without such prompts and beside them.

One prompt a second, from a process of its own: accepted as text that is stored and computed when it is read, and
refused as longer than the model's context. The model's context is set to what the prompts take, in a copy of its file.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
from array import array
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from time import perf_counter

from pavane.bench.arguments import positive
from pavane.bench.load.records import percentile
from pavane.bench.report import Figure, at_most, emit, say, show, table
from pavane.bench.server_process import ServerProcess
from pavane.bench.stats import NoMeasurement
from pavane.clients import Client, Message
from pavane.models.default import default_model_path

BAR_MS = at_most(10.0)
ARMS = ("none", "accepted", "refused")
POSITIONS = 200_000  # of the context: more than 1 MB of words takes
SLOTS = 200_000
STREAM_TOKENS = 4_000  # more than a turn takes
WARM_S = 0.5
STEP_MS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=positive, default=16)
    parser.add_argument("--seconds", type=positive, default=4, help="of each arm in each turn")
    parser.add_argument("--turns", type=positive, default=3)
    parser.add_argument(
        "--real", action="store_true", help="the model computes; else steps take 5 ms and compute nothing"
    )


def run(args: argparse.Namespace) -> int:
    gaps, prompts = asyncio.run(_measure(args))
    p99 = {arm: percentile(gaps[arm], 99) * 1000 for arm in ARMS}
    runner = "the model" if args.real else f"steps of {STEP_MS:g} ms"
    figures = [
        Figure(f"{args.streams} streams, {runner}: ms that p99 between tokens grows by, 1 MB {arm} each second",
               p99[arm] - p99["none"], BAR_MS, f"{p99[arm]:.1f} ms", f"{p99['none']:.1f} ms")
        for arm in ARMS[1:]
    ]  # fmt: skip
    show(table(figures), args.json)
    spread = {arm: {f"p{q:g}": percentile(gaps[arm], q) for q in (50, 90, 99, 99.9, 100)} for arm in ARMS}
    emit({"bench": "bigprompt", "prompts": prompts, "gaps_s": spread}, args.json)
    for arm, values in spread.items():
        say(f"  {arm:8} " + ", ".join(f"{name} {value * 1000:.1f} ms" for name, value in values.items()))
    wrong = [arm for arm in ARMS[1:] if prompts[arm] < args.turns * (args.seconds - 1)]
    for arm in wrong:
        say(f"only {prompts[arm]} prompts were {arm} in {args.turns * args.seconds} s: the figure does not count")
    return 1 if wrong else 0


async def _measure(args: argparse.Namespace) -> tuple[dict[str, array[float]], dict[str, int]]:
    gaps: dict[str, array[float]] = {arm: array("d") for arm in ARMS}
    prompts = dict.fromkeys(ARMS, 0)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = longer_context(default_model_path(), folder / "model.gguf")
        flags = ["--model", str(model), "--num-slots", str(SLOTS), *args.serve]
        if args.real:
            server = ServerProcess.serve(*flags)
        else:
            ports = ["--port", "0", "--metrics-port", "-1", "--step-ms", str(STEP_MS)]
            server = ServerProcess([sys.executable, "-m", "pavane.bench.fake_server", *ports, *flags])
        await stack.enter_async_context(server)
        sender = await stack.enter_async_context(_sender())
        client = await stack.enter_async_context(Client(server.target))
        for turn in range(args.turns):
            first = turn % len(ARMS)
            for arm in (*ARMS[first:], *ARMS[:first]):
                prompts[arm] += await _beside(
                    client, args.streams, gaps[arm], sender, f"{arm} {args.seconds} {server.target}"
                )
    return gaps, prompts


async def _beside(
    client: Client, streams: int, gaps: array[float], sender: asyncio.subprocess.Process, command: str
) -> int:
    """The pauses of streams while the sender does as it is told; what it answers."""
    async with AsyncExitStack() as stack:
        reading = []
        for i in range(streams):
            wf = await stack.enter_async_context(client.workflow())
            stream = wf.decode(header_tokens=[1000 + i], max_tokens=STREAM_TOKENS, ignore_eos=True)
            reading.append(asyncio.create_task(_read(stream)))
        await asyncio.sleep(WARM_S)
        began = perf_counter()
        assert sender.stdin is not None
        assert sender.stdout is not None
        sender.stdin.write(f"{command}\n".encode())
        answer = await sender.stdout.readline()
        for task in reading:
            task.cancel()
        if not answer:
            raise NoMeasurement("the process that sends the prompts has failed; what it wrote stands above")
        for times in await asyncio.gather(*reading):
            gaps.extend(after - before for before, after in pairwise(times) if before > began)
    return int(answer)


async def _read(stream: Message) -> array[float]:
    """When its tokens arrive, until it is cancelled."""
    times = array("d")
    with contextlib.suppress(asyncio.CancelledError):
        async for delta in stream:
            if delta.tokens:
                times.append(perf_counter())
    return times


@asynccontextmanager
async def _sender() -> AsyncIterator[asyncio.subprocess.Process]:
    command = (sys.executable, "-m", "pavane.bench.big_prompts")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, start_new_session=True)
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()  # it ends with its input
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def longer_context(model: Path, copy: Path) -> Path:
    """A copy of a GGUF file that says it was trained for POSITIONS."""
    from gguf import GGUFReader

    shutil.copyfile(model, copy)
    copy.chmod(0o600)
    reader = GGUFReader(copy, "r+")
    (name,) = (name for name in reader.fields if name.endswith(".context_length"))
    length = reader.fields[name]
    length.parts[length.data[0]][0] = POSITIONS
    reader.data.flush()
    return copy
