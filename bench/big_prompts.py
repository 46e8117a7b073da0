"""A process that sends prompts of 1 MB, one each second, when it is told to by a line on stdin: "KIND SECONDS TARGET".

It answers with a line, how many went as KIND says. A process of its own, since making, sending and reading them would
delay whatever else its event loop does.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

from pavane.bench.pressure_load import WORDS
from pavane.clients import CallFailed, Client

SIZE = 2**20  # characters
KINDS = ("none", "accepted", "refused")


def text(number: int) -> str:
    """Words without sense, SIZE characters of them; no two begin alike."""
    words = random.Random(number).choices(WORDS.split(), k=SIZE // 4)
    return f"{number} {' '.join(words)}"[:SIZE]


async def send(target: str, kind: str, texts: list[str]) -> int:
    """Each a second after the one before, or when that has ended; how many went as `kind` says."""
    count = 0
    async with Client(target) as client:
        positions = (await client.server_info()).max_model_len
        for each in texts:
            began = time.monotonic()
            async with client.workflow() as wf:
                message = wf.prefill(user=each, fidelity="exact", start=positions - 1 if kind == "refused" else 0)
                try:
                    await message
                    count += kind == "accepted"
                except CallFailed as error:
                    count += kind == "refused" and error.reason == "CONTEXT_TOO_LONG"
            await asyncio.sleep(max(0.0, began + 1 - time.monotonic()))
    return count


def main() -> None:
    """Until stdin ends."""
    number = 0
    for line in sys.stdin:
        kind, seconds, target = line.split()
        made = range(number, number + int(seconds))
        number = made.stop
        if kind == "none":
            time.sleep(int(seconds))
            print(0, flush=True)
        else:
            print(asyncio.run(send(target, kind, list(map(text, made)))), flush=True)


if __name__ == "__main__":
    main()
