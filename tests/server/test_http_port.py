"""The port of probes and metrics, and clients that misbehave there."""

from __future__ import annotations

import socket
import struct
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from pavane.server import http_port
from pavane.server.http_port import HttpPort, Life


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpPort]:
    monkeypatch.setattr(http_port.Handler, "timeout", 0.2)
    port = HttpPort("127.0.0.1", 0, CollectorRegistry(), Life())
    yield port
    port.close()


def connected(port: HttpPort, said: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port.port), timeout=10.0)
    client.sendall(said)
    return client


@pytest.mark.parametrize("said", [b"", b"GET /li", b"GET /livez HTTP/1.1\r\nHost: x\r\n"])
def test_who_says_no_more_is_hung_up_on(port: HttpPort, said: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with connected(port, said) as client:
        assert client.recv(1) == b""
    assert capfd.readouterr().err == ""


def test_who_is_gone_leaves_no_trace(port: HttpPort, capfd: pytest.CaptureFixture[str]) -> None:
    for said in (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\n\r\n"):
        client = connected(port, said)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    with urllib.request.urlopen(f"http://127.0.0.1:{port.port}/livez", timeout=10.0) as answer:
        assert answer.read() == b"alive\n"
    assert capfd.readouterr().err == ""
