"""Prometheus metrics: `pavane_` plus vLLM's suffixes where the meaning is the same."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pavane.cache import Tier
from pavane.kernels.batch import Batch
from pavane.scheduler.scheduler import Scheduler
from pavane.scheduler.spec import Ended, Event, Restarted, State, TokensAdded

_LATENCY = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
_STEP = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """Has its own registry. Gauges read the scheduler when they are scraped."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.registry = registry = CollectorRegistry()

        def histogram(name: str, text: str, buckets: tuple[float, ...] = _LATENCY) -> Histogram:
            return Histogram(f"pavane_{name}", text, buckets=buckets, registry=registry)

        self._ttft = histogram("time_to_first_token_seconds", "From ready (all parents complete) to the first token.")
        self._inter_token = histogram("inter_token_latency_seconds", "Between two tokens of one call.")
        self._end_to_end = histogram("e2e_request_latency_seconds", "From ready to the end, of calls that ended well.")
        self._step = histogram("step_seconds", "One step, from planning to commit.", _STEP)
        self._forward = histogram("forward_seconds", "The forward pass of a step, up to the logits.", _STEP)
        self._tokens = Counter("pavane_tokens", "Tokens of ended calls by class.", ["class"], registry=registry)
        self._ended = Counter("pavane_calls_ended", "Calls by how they ended.", ["state"], registry=registry)
        self._finished = Counter(
            "pavane_request_success", "Answers by why they ended.", ["finished_reason"], registry=registry
        )
        self._rows = Counter("pavane_rows", "Tokens encoded by the runner.", registry=registry)
        self._kv_read = Counter(
            "pavane_kv_tokens_read",
            "Keys read by steps: each segment once, and as if each call read for itself.",
            ["counted"],
            registry=registry,
        )
        self._last_token: dict[tuple[tuple[str, str], str], float] = {}
        pool, counts = scheduler.cache.pool, scheduler.counts
        for name, text, read in (
            ("num_requests_running", "Calls that hold their locks.", lambda: len(scheduler.running)),
            ("num_requests_waiting", "Calls that are ready and wait for room.", lambda: counts[State.QUEUED]),
            ("num_requests_blocked", "Calls that wait for parents.", lambda: counts[State.BLOCKED]),
            ("num_workflows", "Open workflows.", lambda: len(scheduler.graph.workflows)),
            ("token_slots", "Slots of the KV pool.", lambda: pool.size),
            ("token_slots_free", "Slots that hold nothing.", lambda: pool.free),
            ("token_slots_idle", "Slots that hold KV no running call uses.", lambda: scheduler.cache.idle_slots),
            (
                "kv_cache_usage_perc",
                "Share of the slots that running calls use, 0 to 1.",
                lambda: 1 - (pool.free + scheduler.cache.idle_slots) / pool.size,
            ),
        ):
            Gauge(f"pavane_{name}", text, registry=registry).set_function(read)
        if scheduler.cache.tier is not None:
            tier_metrics(scheduler.cache.tier, registry)

    def record(self, key: tuple[str, str], events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, TokensAdded):
                now = monotonic()
                last = self._last_token.get((key, event.id))
                self._last_token[(key, event.id)] = now
                if last is not None:
                    self._inter_token.observe(now - last)
            elif isinstance(event, Restarted):
                self._last_token.pop((key, event.id), None)
            elif isinstance(event, Ended):
                self._last_token.pop((key, event.id), None)
                self._end(event)

    def _end(self, event: Ended) -> None:
        outcome, receipt = event.outcome, event.outcome.receipt
        self._ended.labels(outcome.state.value).inc()
        if outcome.decode and receipt.first_token_s:
            self._ttft.observe(receipt.first_token_s)
        if outcome.finish is not None and outcome.state is State.DONE:
            self._finished.labels(outcome.finish.value).inc()
        if outcome.state is State.DONE:
            self._end_to_end.observe(receipt.total_s - receipt.blocked_s)
        for name in ("in_place", "repositioned", "encoded", "generated", "trailer", "reencoded"):
            self._tokens.labels(name).inc(getattr(receipt, name))

    def step(self, batch: Batch, seconds: float, forward: float) -> None:
        self._rows.inc(batch.n_rows)
        self._kv_read.labels("once").inc(batch.kv_tokens()[0])
        self._kv_read.labels("by_call").inc(batch.kv_tokens_by_call())
        self._step.observe(seconds)
        self._forward.observe(forward)


def tier_metrics(tier: Tier, registry: CollectorRegistry) -> None:
    """Of the host cache; read when they are scraped."""
    for name, text, read in (
        (
            "host_cache_usage_perc",
            "Share of the host cache in use, 0 to 1.",
            lambda: 1 - tier.free / tier.pages,
        ),
        ("host_cache_kept_tokens", "Tokens whose KV was moved to the host cache.", lambda: tier.kept_tokens),
        ("host_cache_fetched_tokens", "Tokens whose KV came back from it.", lambda: tier.fetched_tokens),
        ("host_cache_failed_moves", "Moves from it that failed.", lambda: tier.failed),
    ):
        Gauge(f"pavane_{name}", text, registry=registry).set_function(read)
