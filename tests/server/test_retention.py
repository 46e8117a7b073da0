"""What clients say about the future of a message decides what stays when the pool is full."""

from __future__ import annotations

from pathlib import Path

from pavane.clients import Client
from tests.models.test_serving import QWEN, serve, write


async def test_a_pinned_message_is_evicted_last(tmp_path: Path) -> None:
    server = await serve(write(tmp_path, QWEN), num_slots=2000)
    try:
        async with Client(f"127.0.0.1:{server.port}") as client, client.workflow() as workflow:
            pinned = await workflow.prefill(tokens=[5] * 300, id="pinned", pin=True, labels={"kind": "rules"})
            await workflow.prefill(tokens=[6] * 300, id="plain")
            for i in range(5):
                await workflow.prefill(tokens=[7 + i] * 400)
            encoded_again = {
                name: (await workflow.decode(name, header_tokens=[3], max_tokens=2)).receipt.reencoded
                for name in ("pinned", "plain")
            }
    finally:
        await server.shutdown()
    assert encoded_again["pinned"] == 0
    assert encoded_again["plain"] > 0
    assert pinned.labels == {"kind": "rules"}
