"""The HTTP port for machines: /metrics, /livez and /readyz. It answers from threads of its own, also while the event
loop or the model does not."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Thread
from time import monotonic
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

ALIVE_WITHIN_S = 20.0  # the loop beats every second; a machine under load may be late, a hung loop never comes
BEAT_S = 1.0
SILENT_S = 5.0  # that a client may say nothing before its thread is wanted back

PATHS = ("/metrics", "/livez", "/readyz")
App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Life:
    """What the server knows of itself. The loop writes it, the HTTP threads read it: each is one assignment.

    `why_not_ready`: empty when calls are taken.
    """

    def __init__(self) -> None:
        self.why_not_ready = "starting"
        self.why_dead = ""
        self._beat = monotonic()

    def beat(self) -> None:
        """The event loop is alive."""
        self._beat = monotonic()

    def live(self) -> tuple[bool, str]:
        """Whether restarting would not help, and a line that says why."""
        if self.why_dead:
            return False, self.why_dead
        silent = monotonic() - self._beat
        if silent > ALIVE_WITHIN_S:
            return False, f"the event loop has not run for {silent:.0f} s"
        return True, "alive"

    def ready(self) -> tuple[bool, str]:
        """Whether calls should be sent here, and a line that says why."""
        alive, why = self.live()
        why = self.why_not_ready if alive else why
        return not why, why or "ready"


class HttpPort:
    """Raises OSError if the port is taken."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry, life: Life) -> None:
        server = _Version6 if ":" in host else ThreadingWSGIServer
        self._server: WSGIServer = make_server(host, port, _app(registry, life), server, handler_class=Handler)
        self.port = self._server.server_port
        Thread(target=self._server.serve_forever, name="http", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Version6(ThreadingWSGIServer):
    address_family = socket.AF_INET6


class Handler(WSGIRequestHandler):
    """One request. Who says nothing for so long is hung up on."""

    timeout = SILENT_S

    def handle(self) -> None:
        with suppress(TimeoutError, ConnectionError):  # who is silent or gone cannot be told either
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Probes and scrapes come every few seconds; nobody reads them."""


def _app(registry: CollectorRegistry, life: Life) -> App:
    metrics: App = make_wsgi_app(registry)
    probes = {"/livez": life.live, "/readyz": life.ready}

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, start_response)
        if path in probes:
            good, text = probes[path]()
            status = "200 OK" if good else "503 Service Unavailable"
        else:
            status, text = "404 Not Found", f"there are {', '.join(PATHS)}"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")])
        return [f"{text}\n".encode()]

    return app
