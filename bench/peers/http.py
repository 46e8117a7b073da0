"""A small HTTP client for the peers' servers: JSON in, JSON or server-sent events out, one thread per request."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
TIMEOUT_S = 600.0
REFUSED = (400, 422)
THREADS = 64  # asyncio's own pool is smaller than the streams of a benchmark


class PeerFailed(Exception):  # noqa: N818
    """A peer refused a request or did not answer as it should; the text has what it said."""


class Refused(PeerFailed):
    """The request is not of a form that the peer takes."""


class Http:
    """Requests to one server of this machine."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._threads = ThreadPoolExecutor(THREADS)

    async def get(self, path: str) -> Any:
        """The answer's JSON. Raises PeerFailed."""
        return await self._run(lambda: self._one("GET", path, None))

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer's JSON. Raises PeerFailed."""
        return await self._run(lambda: self._one("POST", path, body))

    async def events(self, path: str, body: dict[str, Any]) -> list[tuple[float, Any]]:
        """The answer's events, each with the clock (time.perf_counter) when it came. Raises PeerFailed."""
        return await self._run(lambda: self._events(path, body))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _one(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        connection, answer = self._ask(method, path, body)
        try:
            return _parsed(path, answer.read())
        finally:
            connection.close()

    def _events(self, path: str, body: dict[str, Any]) -> list[tuple[float, Any]]:
        connection, answer = self._ask("POST", path, body)
        try:
            lines = [(time.perf_counter(), line) for line in answer]
        finally:
            connection.close()
        # Parsed only now: until the last token the cores belong to the server.
        data = [(at, line[6:].strip()) for at, line in lines if line.startswith(b"data: ")]
        return [(at, _parsed(path, line)) for at, line in data if line != b"[DONE]"]

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self._target, timeout=TIMEOUT_S)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                failure = Refused if answer.status in REFUSED else PeerFailed
                raise failure(f"{path} at {self._target}: {answer.status} {answer.read()[:500]!r}")
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise PeerFailed(f"{path} at {self._target}: no answer ({error!r})") from error
        except BaseException:
            connection.close()
            raise
        return connection, answer


def _parsed(path: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        raise PeerFailed(f"{path}: the answer is no JSON: {data[:200]!r}") from None
