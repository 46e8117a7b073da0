"""Calls in the server's log: what failed by itself, and on the level debug every end."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pavane.scheduler.errors import Reason
from pavane.scheduler.spec import Ended, Event, State

log = logging.getLogger(__name__)
_CONSEQUENCES = (Reason.PARENT_FAILED, Reason.PARENT_CANCELLED, Reason.DRAINING)  # the cause is told elsewhere


def record(key: tuple[str, str], events: Sequence[Event]) -> None:
    """`key` is (namespace, workflow id)."""
    for event in events:
        if isinstance(event, Ended):
            _ended(key, event)


def _ended(key: tuple[str, str], event: Ended) -> None:
    outcome = event.outcome
    failure = outcome.failure
    told = outcome.state is State.FAILED and failure is not None and failure.reason not in _CONSEQUENCES
    level = logging.INFO if told else logging.DEBUG
    if log.isEnabledFor(level):
        why = f": {failure.reason}, {failure.text!r}" if failure is not None else ""
        labels = f" with labels {dict(outcome.labels)!r}" if outcome.labels else ""
        within = f" in namespace {key[0]!r}" if key[0] else ""
        log.log(level, "call %r of workflow %r%s%s %s%s", event.id, key[1], within, labels, outcome.state.value, why)
