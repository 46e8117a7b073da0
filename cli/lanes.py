"""Shows a workflow's calls on a board as they are written."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from pavane.cli.board import Board
from pavane.clients import Message, PavaneError


def lane_of(message_id: str) -> tuple[str, str]:
    """The lane of a call and its title there: the rounds of an agent share one, all others have one each."""
    agent, among, r = message_id.partition("-round")
    return agent.replace("agent", "agent "), f"round {r}" if among else ""


class Lanes:
    """Follows a workflow. Calls of one lane are shown one after the other, since the next may begin before the end of
    the last is known."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._last: defaultdict[str, asyncio.Task[None] | None] = defaultdict(lambda: None)

    def on_message(self, message: Message) -> None:
        """Begins to read the call, if it is an answer."""
        if message.call.WhichOneof("kind") == "decode":
            lane, title = lane_of(message.id)
            self._last[lane] = asyncio.create_task(self._show(message, lane, title, self._last[lane]))

    async def ended(self) -> None:
        """Waits until all is shown."""
        await asyncio.gather(*(task for task in self._last.values() if task is not None))

    async def _show(self, message: Message, lane: str, title: str, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        board, attempt = self._board, 0
        try:
            async for delta in message:
                if delta.attempt != attempt:
                    attempt = delta.attempt
                    board.begin(lane, title if attempt == 1 else f"{title} (attempt {attempt})".strip())
                    board.write(lane, message.call.decode.header.turn.text)
                board.write(lane, delta.text)
            receipt = (await message).receipt
        except PavaneError as error:  # whoever runs the workflow hears of it, too
            if attempt:
                board.end(lane, error.reason)
            return
        if attempt:
            board.end(lane, f"{receipt.generated} tok · TTFT {receipt.first_token:.2f} s")
