"""The log on stderr, as text or as one JSON object a line. Whoever logs never waits for whoever reads it.

A line is made where it is logged, and written by a thread. If the thread comes to a halt (a pipe that nobody reads),
lines queue up, then they are lost; if writing fails (a full disk, a pipe without a reader), they are lost at once.
Losses are counted, and the next line is tried like any other.
"""

from __future__ import annotations

import json
import logging
import os
import select
import threading
import time
from collections.abc import Iterator
from queue import Empty, SimpleQueue

from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from pavane.server import request as requests

QUEUE_LINES = 4096
FLUSH_S = 1.0  # how long the end of the process waits for lines that are not written


def log_to(descriptor: int, level: str, style: str) -> None:
    """All loggers of the process, and Python's warnings, go there. `style` is text or json."""
    handler = DescriptorHandler(descriptor)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(True)


def time_of(record: logging.LogRecord) -> str:
    """RFC 3339 in UTC, to the microsecond."""
    seconds, fraction = divmod(record.created, 1)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(fraction * 1e6):06d}Z"


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """What was given as `extra={"fields": ...}`, and what is known of the request that the line is about."""
    request = requests.current()
    given: dict[str, object] = getattr(record, "fields", {})
    return given if request is None else request.fields | given


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - a line with wrong arguments is still a line, and nobody's failure
        return f"{record.msg} (its arguments do not fit: {error})"


class TextFormatter(logging.Formatter):
    """For people: time, level, logger, message, the request's id. What others sent cannot begin a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        message = _message(record).replace("\r", "\\r").replace("\n", "\\n")
        request_id = fields_of(record).get("request_id")
        about = f" [{request_id}]" if request_id else ""
        line = f"{time_of(record)} {record.levelname} {record.name}: {message}{about}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """For machines: time, level, logger, message, exception, and what is known of request_id, tenant, workflow, call,
    method, code, reason, duration_s, trace_id and span_id."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields_of(record) | line, ensure_ascii=False, default=str)


class DescriptorHandler(logging.Handler):
    """Writes to an open file descriptor, from a thread; at most `most` lines wait for it."""

    def __init__(self, descriptor: int, most: int = QUEUE_LINES) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._most = most
        self._queue: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        self._passed_over = 0  # written under the handler's lock
        self._failed = 0  # written by the thread
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    @property
    def lost(self) -> int:
        """Lines, since the start."""
        return self._passed_over + self._failed

    def emit(self, record: logging.LogRecord) -> None:
        if self._queue.qsize() >= self._most:
            self._passed_over += 1
            return
        # What cannot be UTF-8 (half a surrogate pair) is escaped, as JSON does it.
        self._queue.put(self.format(record).encode("utf-8", "backslashreplace") + b"\n")

    def flush(self) -> None:
        """Returns when all lines so far are written or lost, or after FLUSH_S."""
        reached = threading.Event()
        self._queue.put(reached)
        reached.wait(FLUSH_S)

    def _write_all(self) -> None:
        while True:
            lines, reached = self._gather()
            try:
                self._write(b"".join(lines))
            except OSError:
                self._failed += len(lines)
            for event in reached:
                event.set()

    def _gather(self) -> tuple[list[bytes], list[threading.Event]]:
        """All that waits, in one piece: each write gives up the interpreter's lock and has to wait for it again."""
        found = [self._queue.get()]
        try:
            while len(found) < self._most:
                found.append(self._queue.get_nowait())
        except Empty:
            pass
        lines = [one for one in found if isinstance(one, bytes)]
        return lines, [one for one in found if isinstance(one, threading.Event)]

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # somebody else has made the pipe non-blocking
                select.select([], [self._descriptor], [])


def lost_lines() -> int:
    """Of all handlers of the process."""
    handlers = logging.getLogger().handlers
    return sum(handler.lost for handler in handlers if isinstance(handler, DescriptorHandler))


class LogMetrics(Collector):
    def collect(self) -> Iterator[CounterMetricFamily]:
        text = "Lines of the log that could not be written."
        yield CounterMetricFamily("pavane_log_lines_lost", text, value=lost_lines())
