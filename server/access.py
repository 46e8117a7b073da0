"""How requests end: a line in the log for each, and a count of those that were refused.

Answered requests are logged on the level debug: under load they would be most of the log, and the metrics have them.
Refusals are warnings, of each reason a few a second, since whoever is refused may come again at once; what was passed
over stands on the next line. Defects of the server are errors, each with its traceback.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

from prometheus_client import CollectorRegistry, Counter

from pavane.scheduler.errors import Reason, RequestError
from pavane.server.auth import KeyRefused, KeyWord
from pavane.server.request import Request
from pavane.server.status import CODES

log = logging.getLogger(__name__)

LINES_PER_S = 10  # of one reason
# A request whose message never came whole: larger than --max-message-mb, which gRPC refuses by itself, or given up.
UNREAD = "message_unread"
WORDS = (UNREAD, *KeyWord, *(reason.lower() for reason in Reason if reason is not Reason.UNAUTHENTICATED))


class Access:
    """Told of each request once, when it has ended. `clock` is in seconds."""

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._refused = Counter(
            "pavane_requests_refused", "Requests that ended with an error, by reason.", ["reason"], registry=registry
        )
        for word in WORDS:  # a series begins at 0, not with what it counts first
            self._refused.labels(word)
        self._seconds: dict[str, int] = {}  # in which the last line of a reason was written
        self._lines: dict[str, int] = {}  # of that second; more than LINES_PER_S: passed over

    def answered(self, request: Request) -> None:
        self._debug(request, "OK")

    def given_up(self, request: Request) -> None:
        """By who sent it: cancelled, out of time, or gone."""
        self._debug(request, "CANCELLED")

    def unread(self, request: Request) -> None:
        self._refused.labels(UNREAD).inc()
        self._warn(request, UNREAD, "its message was too large, or did not come whole", {})

    def refused(self, request: Request, error: RequestError) -> None:
        word = error.word if isinstance(error, KeyRefused) else error.reason.lower()
        self._refused.labels(word).inc()
        fields: dict[str, object] = {"code": CODES[error.reason].name, "reason": error.reason.value}
        self._warn(request, word, error.reason.value, fields)

    def failed(self, request: Request, error: Exception) -> None:
        """By a defect of the server."""
        self._refused.labels(Reason.INTERNAL.lower()).inc()
        fields = self._fields(request, {"code": "INTERNAL", "reason": Reason.INTERNAL.value})
        log.error("%s failed by a defect of the server", _name(request), exc_info=error, extra={"fields": fields})

    def _debug(self, request: Request, code: str) -> None:
        if log.isEnabledFor(logging.DEBUG):
            fields = self._fields(request, {"code": code})
            log.debug("%s: %s after %.6f s", _name(request), code, fields["duration_s"], extra={"fields": fields})

    def _warn(self, request: Request, word: str, why: str, fields: dict[str, object]) -> None:
        if not log.isEnabledFor(logging.WARNING):
            return
        second = int(self._clock())
        before = 0
        if self._seconds.get(word) != second:
            before = max(0, self._lines.get(word, 0) - LINES_PER_S)
            self._seconds[word], self._lines[word] = second, 0
        self._lines[word] += 1
        if self._lines[word] > LINES_PER_S:
            return
        also = f" ({before} more were refused like this before)" if before else ""
        fields = self._fields(request, fields | ({"passed_over": before} if before else {}))
        log.warning("%s refused: %s%s", _name(request), why, also, extra={"fields": fields})

    def _fields(self, request: Request, more: dict[str, object]) -> dict[str, object]:
        return request.fields | more | {"duration_s": round(self._clock() - request.began, 6)}


def _name(request: Request) -> str:
    """The method, and what it was about."""
    about = f" of workflow {request.workflow!r}" if request.workflow else ""
    within = f" in namespace {request.namespace!r}" if request.namespace else ""
    return f"{request.method.rpartition('/')[2]}{about}{within}"
