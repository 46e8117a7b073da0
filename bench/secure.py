"""What TLS and API keys cost: tokens delivered by the server over a runner that computes nothing, with and without.

Two servers at the same time, asked in turn; the certificates are made for the run, by the package trustme.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from pavane.bench.arguments import positive
from pavane.bench.report import emit, say, verdict
from pavane.bench.server_process import ServerProcess
from pavane.bench.stats import spread
from pavane.bench.stream import Metadata, deliver
from pavane.clients.security import TLS, open_channel
from pavane.protos.v1 import pavane_pb2 as pb
from pavane.protos.v1 import pavane_pb2_grpc as rpc
from pavane.server.keys import digest, make_key, new_secret

BAR = 0.9
KEYS = 1000  # in the file, ours among them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=positive, default=64)
    parser.add_argument("--tokens", type=positive, default=200, help="of each stream in each turn")
    parser.add_argument("--repeat", type=positive, default=15, help="turns of each")


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
        arms = {"plain": (args.serve, None, ""), "both": ([*args.serve, *keyed, *encrypted], TLS(ca=root), secrets[-1])}
        rates = uvloop.run(_measure(arms, args))
    pairs = [with_both / plain for with_both, plain in zip(rates["both"], rates["plain"], strict=True)]
    ratio = spread(pairs)
    emit({"bench": "secure", "streams": args.streams, "rates": rates, "ratio": ratio.value}, args.json)
    say(f"  95 % interval of the median of {len(pairs)} ratios: {ratio.low:.3f} to {ratio.high:.3f}")
    say(verdict("tokens delivered, with TLS and keys / without", ratio.value, f">= {BAR}", ratio.value >= BAR))
    return 0


async def _measure(
    arms: dict[str, tuple[list[str], TLS | None, str]], args: argparse.Namespace
) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {arm: [] for arm in arms}
    stubs: dict[str, tuple[rpc.WorkflowServiceAsyncStub, Metadata]] = {}
    async with AsyncExitStack() as stack:
        for arm, (flags, tls, key) in arms.items():
            command = [sys.executable, "-m", "pavane.bench.fake_server", "--port", "0", "--metrics-port", "-1", *flags]
            server = await stack.enter_async_context(ServerProcess(command))
            channel = await stack.enter_async_context(open_channel(server.target, tls, ()))
            stub: rpc.WorkflowServiceAsyncStub = rpc.WorkflowServiceStub(channel)  # type: ignore[assignment]
            stubs[arm] = stub, (("authorization", f"Bearer {key}"),) if key else ()
            await stub.OpenWorkflow(pb.OpenWorkflowRequest(workflow_id="w"), metadata=stubs[arm][1])
            await deliver(stub, "warm", args.streams, 50, stubs[arm][1])
        for turn in range(args.repeat):
            for arm in sorted(arms, reverse=bool(turn % 2)):
                stub, metadata = stubs[arm]
                rates[arm].append(await deliver(stub, f"t{turn}", args.streams, args.tokens, metadata))
            say(f"  {turn + 1:3}: " + ", ".join(f"{arm} {rate[-1]:.0f}" for arm, rate in rates.items()) + " tokens/s")
    return rates
