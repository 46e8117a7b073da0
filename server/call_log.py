"""Calls in the server's log: what failed by itself, and on the level debug every end."""

from __future__ import annotations

import logging

from pavane.scheduler.errors import Reason
from pavane.scheduler.spec import Ended, State

log = logging.getLogger(__name__)
_CONSEQUENCES = (Reason.PARENT_FAILED, Reason.PARENT_CANCELLED, Reason.DRAINING)  # the cause is told elsewhere


def ended(key: tuple[str, str], event: Ended, known: dict[str, object]) -> None:
    """`key` is (namespace, workflow id); `known` are more fields of the line."""
    outcome = event.outcome
    failure = outcome.failure
    told = outcome.state is State.FAILED and failure is not None and failure.reason not in _CONSEQUENCES
    level = logging.INFO if told else logging.DEBUG
    if not log.isEnabledFor(level):
        return
    why = f": {failure.reason}, {failure.text!r}" if failure is not None else ""
    labels = f" with labels {dict(outcome.labels)!r}" if outcome.labels else ""
    within = f" in namespace {key[0]!r}" if key[0] else ""
    fields = _fields(key, event) | known
    log.log(
        level, "call %r of workflow %r%s%s %s%s", event.id, key[1], within, labels, outcome.state.value, why,
        extra={"fields": fields},
    )  # fmt: skip


def _fields(key: tuple[str, str], event: Ended) -> dict[str, object]:
    outcome = event.outcome
    fields: dict[str, object] = {"workflow": key[1], "call": event.id, "duration_s": round(outcome.receipt.total_s, 6)}
    if key[0]:
        fields["tenant"] = key[0]
    if outcome.failure is not None:
        fields["reason"] = outcome.failure.reason
    if outcome.labels:
        fields["labels"] = dict(outcome.labels)
    return fields
