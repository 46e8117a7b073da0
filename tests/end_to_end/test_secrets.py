"""What a server writes, on whatever level, and what it tells a collector of traces, holds no key, no private key and
nothing of what it was told."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

import pytest
from end_to_end.served import ServerProcess
from support.collector import Collector, collecting
from support.secured import Authority, KeyFile, tiny_model

from pavane.clients import TLS, Client, PavaneError, PermissionDenied, RetryPolicy

PROMPT = "the marked words of somebody"


async def ask(server: ServerProcess, tls: TLS, key: str, **options: object) -> None:
    async with Client(server.target, tls=tls, api_key=key, retry=RetryPolicy(give_up_after=0.0), **options) as client:  # type: ignore[arg-type]
        await client.tokenize(user=PROMPT)
        async with client.workflow() as workflow:
            prompt = workflow.prefill(user=PROMPT)
            await workflow.decode(prompt, prefix=PROMPT, max_tokens=3)
            with pytest.raises(PavaneError):
                await workflow.decode(prompt, regex=f"({PROMPT}", max_tokens=3)
            with pytest.raises(PavaneError):  # fails by itself, which is logged
                await workflow.decode(prompt, regex="[a-z]+", min_tokens=5, max_tokens=6, logit_bias=FORBIDDEN)


FORBIDDEN = dict.fromkeys(range(591), float("-inf"))


async def test_no_secrets_in_the_log_and_in_spans(tmp_path: Path) -> None:
    with collecting() as collector:
        await no_secrets(tmp_path, collector)


async def no_secrets(tmp_path: Path, collector: Collector) -> None:
    keys, authority = KeyFile(tmp_path / "keys"), Authority.make(tmp_path)
    good, gone = keys.add("a"), keys.add("gone")
    strange, tls = good[:-3] + "xyz", TLS(ca=authority.root)
    server = ServerProcess(
        "--model", str(tiny_model(tmp_path)), "--num-slots", "2000", "--log-level", "debug",
        "--otlp-endpoint", collector.endpoint,
        "--api-keys", str(keys.path), "--tls-cert", str(authority.cert), "--tls-key", str(authority.key),
    )  # fmt: skip
    try:
        server.wait_ready()
        await ask(server, tls, good)
        for wrong in (strange, gone[:-1], "Bearer" + good):
            with pytest.raises(PermissionDenied):
                await ask(server, tls, wrong)
        with pytest.raises(PermissionDenied):
            await ask(server, tls, good, namespace="b")
        keys.remove("gone")
        await told(server, "loaded again")
        with pytest.raises(PermissionDenied):
            await ask(server, tls, gone)
        keys.path.write_text(f"{good} tenant=a\n")  # the key itself, where its hash belongs
        authority.key.write_text(authority.key.read_text().replace("A", "B"))
        await told(server, "API keys: kept as before")
        await told(server, "TLS: kept as before")
        metrics = await asyncio.to_thread(read, server.metrics_url)
    finally:
        status = server.stop()
    assert status == 0
    told_spans = str(collector.wait(3)) + str(collector.resource)
    assert "gen_ai.usage.input_tokens" in told_spans
    written = server.final_log + metrics + told_spans
    assert "DEBUG" in written
    assert "NOTHING_ALLOWED" in written or "failed" in written
    private = authority.key.read_text().splitlines()[2]
    for secret in (good, gone, strange, good[4:], gone[4:], private, PROMPT, "marked words"):
        assert secret not in written


def read(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        return str(answer.read().decode())


async def told(server: ServerProcess, words: str) -> None:
    for _ in range(1000):
        if words in server.log:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(server.log)
