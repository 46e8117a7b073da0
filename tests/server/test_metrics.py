"""What the metrics make of events."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import pytest
from support.batches import chat_batch
from support.harness import FakeRunner, Harness

from pavane.scheduler.engine import StepParts
from pavane.scheduler.errors import Reason
from pavane.scheduler.spec import Ended, Event, Failure, Outcome, Receipt, Restarted, State, TokensAdded
from pavane.server.metrics import Metrics, logarithmic
from pavane.server.tenant_metrics import MOST_TENANTS


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
    metrics.step(chat_batch([[1, 2], [3]], [0, 4], stride=8), StepParts(0.05, 0.1, 0.05, 0.1))
    for counted in ("once", "by_call"):
        assert metrics.registry.get_sample_value("pavane_kv_tokens_read_total", {"counted": counted}) == 2 + 5
    assert metrics.registry.get_sample_value("pavane_rows_total") == 3


def test_buckets_have_one_ratio() -> None:
    bounds = logarithmic(0.0005, 6)
    assert bounds[0] == 0.0005
    assert bounds[-1] == 500
    ratios = [b / a for a, b in pairwise(bounds)]
    assert max(ratios) / min(ratios) < 1.01


def test_operations_bytes_and_parts_of_steps() -> None:
    metrics = Metrics(
        Harness(FakeRunner(10), 10).scheduler, bytes_per_token=1000, flops_per_row=10**6, flops_per_key=100
    )
    metrics.step(chat_batch([[1, 2], [3]], [0, 4], stride=8), StepParts(0.05, 0.1, 0.02, 0.1))
    value = metrics.registry.get_sample_value
    assert value("pavane_estimated_flops_total") == 3 * 10**6 + 100 * (2 * 2 + 5)
    assert value("pavane_kv_bytes_read_total", {"counted": "once"}) == 7000
    assert value("pavane_step_part_seconds_total", {"part": "plan"}) == 0.05
    assert value("pavane_step_seconds_sum") == pytest.approx(0.17)


def test_names_that_clients_choose_are_few_series() -> None:
    """Whatever clients do, every label has few values: those of the code, and at most so many tenants."""
    harness = Harness(FakeRunner(10), 10)
    metrics = Metrics(harness.scheduler)
    token = TokensAdded("a", (3,), ())
    outcome = Outcome("a", State.DONE, receipt=Receipt(generated=1), decode=True)
    for i in range(500):
        harness.scheduler.tenants.get(f"tenant{i}").stored_tokens = 1
        metrics.record((f"tenant{i}", f"workflow{i}"), [token, Ended("a", outcome)])
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    total = 0.0
    for family in metrics.registry.collect():
        for sample in family.samples:
            for label, text in sample.labels.items():
                values[sample.name, label].add(text)
            total += sample.value if sample.name == "pavane_tenant_stored_tokens" else 0
    assert total == 500, "others are summed, not left out"
    tenants = {label for _, label in values} & {"tenant"}
    assert tenants
    for (name, label), texts in values.items():
        assert len(texts) <= (MOST_TENANTS + 1 if label == "tenant" else 40), (name, label)
        assert not any("workflow" in text for text in texts)
