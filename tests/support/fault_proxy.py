"""A TCP proxy that does to connections what networks do: it delays, drops without a word, trickles, cuts and resets."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

CHUNK = 1 << 16


@dataclass(eq=False)
class Way:
    """One direction of a connection. `drop`: bytes and the end of them are swallowed."""

    delay_s: float = 0.0
    trickle: int = 0  # bytes at a time, with `delay_s` between; 0: as they come
    drop: bool = False

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            size = self.trickle or len(data)
            for begin in range(0, len(data), size):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if not self.drop:
                    writer.write(data[begin : begin + size])
                    await writer.drain()
        if not self.drop:
            writer.write_eof()


@dataclass(eq=False)
class Link:
    """A connection from a client, and the one to the server that belongs to it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    up: Way  # to the server
    down: Way

    def cut(self) -> None:
        """Both ends are told that nothing more comes."""
        self.client.close()
        self.server.close()

    def reset(self) -> None:
        """Both ends get RST."""
        for writer in (self.client, self.server):
            end = writer.get_extra_info("socket")
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def half_close(self) -> None:
        """The server is told that the client says no more, and goes on being heard."""
        self.server.write_eof()


@dataclass
class FaultProxy:
    """`up` and `down` are how new connections begin; those that are there have their own, in `links`."""

    server: str  # HOST:PORT
    up: Way = field(default_factory=Way)
    down: Way = field(default_factory=Way)
    links: list[Link] = field(default_factory=list)  # those that are open

    async def __aenter__(self) -> Self:
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.target = f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        for link in self.links:
            link.cut()
        await asyncio.gather(*self._tasks)

    def drop(self) -> None:
        """From now on nothing passes, in connections that are there and in new ones, and nobody is told."""
        for way in (self.up, self.down, *(way for link in self.links for way in (link.up, link.down))):
            way.drop = True

    def heal(self) -> None:
        """New connections are sound; what lies in the dark stays there."""
        self.up, self.down = Way(), Way()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        host, _, port = self.server.rpartition(":")
        try:
            from_server, to_server = await asyncio.open_connection(host, int(port))
            up, down = self.up, self.down
            link = Link(
                writer,
                to_server,
                Way(up.delay_s, up.trickle, up.drop),
                Way(down.delay_s, down.trickle, down.drop),
            )
            self.links.append(link)
            try:
                await asyncio.gather(link.up.pump(reader, to_server), link.down.pump(from_server, writer))
            except OSError:  # one end is gone, and so is the other: that is what a proxy is for
                pass
            finally:
                self.links.remove(link)
                link.cut()
        finally:
            writer.close()
            self._tasks.discard(task)
