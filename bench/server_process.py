"""A server as a child process: started, waited for, always stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

READY = re.compile(r"listening on (\S+:\d+)\s*$")
START_S = 180.0  # loading a large model from a cold disk takes its time
STOP_S = 15.0
TAIL = 30  # lines of the child's log to show when it fails


def free_port() -> int:
    """A port of the loopback that nobody has right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerFailed(Exception):  # noqa: N818
    """The child did not come up; the text has the end of its log."""


class ServerProcess:
    """`async with ServerProcess(arguments) as target`: a server on a free port of this machine."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        start_s: float = START_S,
        stop_s: float = STOP_S,
    ) -> None:
        self._command = tuple(command)
        self._env = {**os.environ, **(env or {})}
        self._start_s = start_s
        self._stop_s = stop_s
        self._log: deque[str] = deque(maxlen=TAIL)
        self._readers: list[asyncio.Task[None]] = []
        self.target = ""

    @classmethod
    def serve(cls, *arguments: str, env: Mapping[str, str] | None = None) -> Self:
        """`pavane serve` on free ports, with more arguments."""
        command = [sys.executable, "-m", "pavane.cli.main", "serve", "--port", "0", "--metrics-port", "0", *arguments]
        return cls(command, env=env)

    async def __aenter__(self) -> Self:
        # A session of its own: Ctrl-C in the terminal is for the parent, which then stops the child in order.
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            env=self._env,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers.append(asyncio.create_task(self._drain(self._process.stderr)))
        try:
            async with asyncio.timeout(self._start_s):
                self.target = await self._ready(self._process.stdout)
        except TimeoutError:
            await self._stop()
            raise ServerFailed(self._report(f"the server was not ready after {self._start_s:.0f} s")) from None
        except BaseException:
            await self._stop()
            raise
        self._readers.append(asyncio.create_task(self._drain(self._process.stdout)))
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> tuple[str, ...]:
        """The last lines that it wrote, before it was ready or after."""
        return tuple(self._log)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _ready(self, stdout: asyncio.StreamReader) -> str:
        while line := await stdout.readline():
            text = line.decode(errors="replace")
            if match := READY.search(text):
                return match[1]
            self._log.append(text.rstrip())
        status = await self._process.wait()
        await asyncio.wait(self._readers)
        raise ServerFailed(self._report(f"the server ended with status {status} before it was ready"))

    async def _drain(self, stream: asyncio.StreamReader) -> None:
        # Read on to the end, whatever comes: a child that nobody reads blocks on its full pipe.
        while data := await stream.read(65536):
            self._log.extend(data.decode(errors="replace").splitlines())

    def _report(self, what: str) -> str:
        log = "\n".join(f"  {line}" for line in self._log) or "  (it wrote nothing)"
        return f"{what}; the end of its log:\n{log}"

    async def _stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it may end by itself at any time
            self._process.terminate()
        try:
            async with asyncio.timeout(self._stop_s):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
