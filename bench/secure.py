"""What TLS, API keys and being scraped cost: tokens delivered over a runner that computes nothing, with and without.

Two servers at the same time, asked in turn: without, with, with, without, and over again, so that a machine that gets
slower does so for both; each such four give one ratio. The certificates are made for the run, by the package trustme.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop

from pavane.bench.arguments import positive
from pavane.bench.metrics import fetch
from pavane.bench.report import emit, say, verdict
from pavane.bench.server_process import ServerProcess, free_port
from pavane.bench.stats import spread
from pavane.bench.stream import Metadata, deliver
from pavane.clients.security import TLS, open_channel
from pavane.protos.v1 import pavane_pb2 as pb
from pavane.protos.v1 import pavane_pb2_grpc as rpc
from pavane.server.keys import digest, make_key, new_secret

BAR = 0.9
KEYS = 1000  # in the file, ours among them


@dataclass(frozen=True)
class Arm:
    """How a server is started and asked; `metrics_port`: scraped once in each turn."""

    flags: Sequence[str]
    tls: TLS | None = None
    key: str = ""
    metrics_port: int = 0

    async def scrape(self) -> None:
        if self.metrics_port:
            await asyncio.to_thread(fetch, self.metrics_port)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=positive, default=64)
    parser.add_argument("--tokens", type=positive, default=100, help="of each stream in each turn")
    parser.add_argument("--repeat", type=positive, default=30, help="fours of turns")


def run(args: argparse.Namespace) -> int:
    import trustme

    with tempfile.TemporaryDirectory() as name:
        root, cert, keys = (Path(name, file) for file in ("ca.pem", "server.pem", "keys"))
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(root))
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(cert))
        secrets = [new_secret() for _ in range(KEYS)]
        keys.write_text("\n".join(make_key(digest(secret), "bench").line() for secret in secrets))
        keyed, encrypted = ["--api-keys", str(keys)], ["--tls-cert", str(cert), "--tls-key", str(cert)]
        port = free_port()
        secured = ["--metrics-port", str(port), *keyed, *encrypted]
        arms = {
            "plain": Arm(["--metrics-port", "-1", *args.serve]),
            "all": Arm([*secured, *args.serve], TLS(ca=root), secrets[-1], port),
        }
        rates = uvloop.run(_measure(arms, args))
    ratios = fours(rates["plain"], rates["all"])
    ratio = spread(ratios)
    interval = [ratio.low, ratio.high]
    emit(
        {"bench": "secure", "streams": args.streams, "rates": rates, "ratio": ratio.value, "interval": interval},
        args.json,
    )
    say(f"  95 % interval of the median of {len(ratios)} ratios: {ratio.low:.3f} to {ratio.high:.3f}")
    say(verdict("tokens delivered, with TLS, keys and scrapes / without", ratio.value, f">= {BAR}", ratio.value >= BAR))
    return 0


def fours(plain: Sequence[float], other: Sequence[float]) -> list[float]:
    """`other` against `plain`, of each two turns of both; what drifts evenly during the four cancels out."""
    pairs = zip(plain[::2], plain[1::2], other[::2], other[1::2], strict=True)
    return [((c * d) / (a * b)) ** 0.5 for a, b, c, d in pairs]


async def _measure(arms: Mapping[str, Arm], args: argparse.Namespace) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in arms}
    stubs: dict[str, tuple[rpc.WorkflowServiceAsyncStub, Metadata]] = {}
    async with AsyncExitStack() as stack:
        for name, arm in arms.items():
            command = [sys.executable, "-m", "pavane.bench.fake_server", "--port", "0", *arm.flags]
            server = await stack.enter_async_context(ServerProcess(command))
            channel = await stack.enter_async_context(open_channel(server.target, arm.tls, ()))
            stub: rpc.WorkflowServiceAsyncStub = rpc.WorkflowServiceStub(channel)  # type: ignore[assignment]
            stubs[name] = stub, (("authorization", f"Bearer {arm.key}"),) if arm.key else ()
            await stub.OpenWorkflow(pb.OpenWorkflowRequest(workflow_id="w"), metadata=stubs[name][1])
            await deliver(stub, "warm", args.streams, 50, stubs[name][1])
        for four in range(args.repeat):
            for turn, name in enumerate(("plain", "all", "all", "plain")):
                stub, metadata = stubs[name]
                delivery = deliver(stub, f"t{four}-{turn}", args.streams, args.tokens, metadata)
                rate, _ = await asyncio.gather(delivery, arms[name].scrape())
                rates[name].append(rate)
            say(f"  {four + 1:3}: " + ", ".join(f"{name} {rate[-1]:.0f}" for name, rate in rates.items()) + " tokens/s")
    return rates
