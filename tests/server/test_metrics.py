"""What the metrics make of events."""

from __future__ import annotations

from support.batches import chat_batch
from support.harness import FakeRunner, Harness

from pavane.scheduler.errors import Reason
from pavane.scheduler.spec import Event, Failure, Restarted, TokensAdded
from pavane.server.metrics import Metrics


def between_tokens(*events: Event) -> float | None:
    metrics = Metrics(Harness(FakeRunner(10), 10).scheduler)
    metrics.record(("", "w"), events)
    return metrics.registry.get_sample_value("pavane_inter_token_latency_seconds_count")


def test_the_pause_before_another_attempt_is_not_between_two_tokens() -> None:
    token = TokensAdded("a", (3,), ())
    void = Restarted("a", 2, Failure(Reason.NOTHING_ALLOWED, "no token"))
    assert between_tokens(token, token, token) == 2
    assert between_tokens(token, token, void, token) == 1


def test_keys_are_counted_by_the_step() -> None:
    metrics = Metrics(Harness(FakeRunner(10), 10).scheduler)
    metrics.step(chat_batch([[1, 2], [3]], [0, 4], stride=8), 0.2, 0.1)
    for counted in ("once", "by_call"):
        assert metrics.registry.get_sample_value("pavane_kv_tokens_read_total", {"counted": counted}) == 2 + 5
    assert metrics.registry.get_sample_value("pavane_rows_total") == 3
