"""The log: what a line holds, and that whoever logs never waits and never fails."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from pavane.server import logs, request
from pavane.server.logs import DescriptorHandler, JsonFormatter, TextFormatter
from pavane.server.request import Request, TraceParent, trace_parent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The end to read, the end to write; some kilobytes go in between."""
    read, write = os.pipe()
    yield read, write
    for descriptor in (read, write):
        try:
            os.close(descriptor)
        except OSError:
            pass  # the test has closed it


def make(handler: logging.Handler, style: logging.Formatter) -> logging.Logger:
    logger = logging.Logger("pavane.test", logging.DEBUG)
    handler.setFormatter(style)
    logger.addHandler(handler)
    return logger


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_line_of_json(pipe: tuple[int, int]) -> None:
    handler = DescriptorHandler(pipe[1])
    log = make(handler, JsonFormatter())
    fields = {"workflow": "w", "call": "c", "duration_s": 0.25}
    log.info("two\nlines and %r", "käse \ud800", extra={"fields": fields})
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed")
    log.warning("%d", "no number")
    handler.flush()
    first, second, third = (json.loads(line) for line in os.read(pipe[0], 1 << 16).decode().splitlines())
    assert first.items() >= {"level": "info", "logger": "pavane.test", **fields}.items()
    assert first["message"].startswith("two\nlines and 'käse")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first["time"])
    assert abs(datetime.fromisoformat(first["time"]) - datetime.now(UTC)).total_seconds() < 60
    assert second["exception"].endswith("ValueError: broken")
    assert "arguments" in third["message"]


def test_what_others_send_begins_no_line_of_its_own(pipe: tuple[int, int]) -> None:
    handler = DescriptorHandler(pipe[1])
    make(handler, TextFormatter()).info("asked for %s", "a\r\n2026-01-01T00:00:00.000000Z INFO all is well")
    handler.flush()
    assert len(os.read(pipe[0], 1 << 16).decode().splitlines()) == 1


def test_a_line_knows_the_request_that_it_is_about(pipe: tuple[int, int]) -> None:
    handler = DescriptorHandler(pipe[1])
    log = make(handler, JsonFormatter())
    metadata = (("x-request-id", "r-1"), ("traceparent", f"00-{TRACE}-{SPAN}-01"), ("authorization", "Bearer secret"))
    one = Request.of("/pavane.v1.WorkflowService/Submit", metadata)
    token = request._CURRENT.set(one)
    try:
        log.info("said")
        log.info("said of another", extra={"fields": {"request_id": "r-2"}})
    finally:
        request._CURRENT.reset(token)
    log.info("outside")
    handler.flush()
    text = os.read(pipe[0], 1 << 16).decode()
    said, other, outside = (json.loads(line) for line in text.splitlines())
    assert (said["request_id"], said["trace_id"], said["span_id"]) == ("r-1", TRACE, SPAN)
    assert said["method"] == "/pavane.v1.WorkflowService/Submit"
    assert other["request_id"] == "r-2"
    assert "request_id" not in outside
    assert "secret" not in text


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "a\n", 'a"', "ä"])
def test_a_request_id_that_cannot_be_used_is_replaced(sent: str) -> None:
    drawn = {Request.of("/m", (("x-request-id", sent),)).id for _ in range(10)}
    assert len(drawn) == 10
    assert all(re.fullmatch("[0-9a-f]{16}", id) for id in drawn)


def test_trace_parents() -> None:
    """The examples of W3C Trace Context, and what is none."""
    assert trace_parent(f"00-{TRACE}-{SPAN}-01", "a=b") == TraceParent(TRACE, SPAN, True, "a=b")
    assert trace_parent(f"00-{TRACE}-{SPAN}-02") == TraceParent(TRACE, SPAN, False)
    assert trace_parent(f"cc-{TRACE}-{SPAN}-01-what-comes-later") == TraceParent(TRACE, SPAN, True)
    for wrong in (
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}",
    ):
        assert trace_parent(wrong) is None, wrong


def test_a_full_disk_loses_lines_and_no_more() -> None:
    with open("/dev/full", "wb") as full:
        handler = DescriptorHandler(full.fileno())
        log = make(handler, TextFormatter())
        for _ in range(10):
            log.info("a line")
        handler.flush()
        assert handler.lost == 10


def test_a_pipe_without_a_reader_loses_lines_and_no_more(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    handler = DescriptorHandler(pipe[1])
    make(handler, TextFormatter()).info("a line")
    handler.flush()
    assert handler.lost == 1


@pytest.mark.parametrize("blocking", [True, False])
def test_who_logs_does_not_wait_for_a_reader(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, blocking: bool
) -> None:
    monkeypatch.setattr(logs, "FLUSH_S", 0.05)
    os.set_blocking(pipe[1], blocking)
    handler = DescriptorHandler(pipe[1], most=100)
    log = make(handler, TextFormatter())
    for number in range(3000):  # more than a pipe and the queue hold
        log.info("line %d %s", number, "x" * 100)
    lost = handler.lost
    assert lost > 0
    began = time.monotonic()
    handler.flush()
    assert time.monotonic() - began < 5
    # A reader who comes back gets what was not lost, each line whole.
    monkeypatch.setattr(logs, "FLUSH_S", 20)
    told = bytearray()
    os.set_blocking(pipe[0], False)

    def read() -> bool:
        try:
            told.extend(os.read(pipe[0], 1 << 16))
        except BlockingIOError:
            pass
        return told.count(b"\n") == 3000 - lost

    until(read)
    assert all(line.endswith("x" * 100) for line in told.decode().splitlines())
    assert handler.lost == lost
