"""Prometheus metrics: `pavane_` plus vLLM's suffixes where the meaning is the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from time import monotonic

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pavane.cache import Tier
from pavane.kernels.batch import Batch
from pavane.scheduler.engine import StepParts
from pavane.scheduler.scheduler import Scheduler
from pavane.scheduler.spec import Ended, Event, Finish, Restarted, State, TokensAdded
from pavane.server.logs import LogMetrics
from pavane.server.tenant_metrics import TenantMetrics

PER_DECADE = 6


def logarithmic(low: float, decades: float) -> tuple[float, ...]:
    """Bounds of buckets of constant ratio, 10 ** (1 / PER_DECADE): quantiles are off by a fifth at most, everywhere."""
    return tuple(float(f"{low * 10 ** (i / PER_DECADE):.3g}") for i in range(round(decades * PER_DECADE) + 1))


_LATENCY = logarithmic(0.0005, 6)  # 0.5 ms to 500 s
_STEP = logarithmic(0.0002, 5)

CLASSES = ("in_place", "repositioned", "encoded", "generated", "trailer", "reencoded")
PARTS = ("plan", "wait", "commit")
COUNTED = ("once", "by_call")


class Metrics:
    """Has its own registry. Gauges read the scheduler when they are scraped.

    `bytes_per_token`: of K and V in all layers; `flops_per_row`: of a token's products with the weights, and
    `flops_per_key`: of its attention to one key.
    """

    def __init__(
        self, scheduler: Scheduler, *, bytes_per_token: int = 0, flops_per_row: int = 0, flops_per_key: int = 0
    ) -> None:
        self.registry = registry = CollectorRegistry()
        self._bytes_per_token = bytes_per_token
        self._flops_per_row, self._flops_per_key = flops_per_row, flops_per_key

        def histogram(name: str, text: str, buckets: tuple[float, ...] = _LATENCY) -> Histogram:
            return Histogram(f"pavane_{name}", text, buckets=buckets, registry=registry)

        def counter(name: str, text: str, label: str = "", values: Iterable[str] = ()) -> Counter:
            made = Counter(f"pavane_{name}", text, [label] if label else [], registry=registry)
            for value in values:  # a series begins at 0, not with what it counts first: that would be no increase
                made.labels(value)
            return made

        self._ttft = histogram("time_to_first_token_seconds", "From ready (all parents complete) to the first token.")
        self._inter_token = histogram("inter_token_latency_seconds", "Between two tokens of one call.")
        self._end_to_end = histogram("e2e_request_latency_seconds", "From ready to the end, of calls that ended well.")
        self._queued = histogram("request_queue_time_seconds", "From ready to a place, of calls that ended well.")
        self._blocked = histogram("request_blocked_time_seconds", "Waited for parents, of calls that ended well.")
        self._step = histogram("step_seconds", "One step, from planning to commit.", _STEP)
        self._forward = histogram("forward_seconds", "The forward pass of a step, up to the logits.", _STEP)
        self._parts = counter(
            "step_part_seconds",
            "Where steps spend their time on the event loop: plan (schedule, lay out, publish), wait (for the runner) "
            "and commit.",
            "part",
            PARTS,
        )
        self._tokens = counter("tokens", "Tokens of ended calls by class.", "class", CLASSES)
        self._ended = counter("calls_ended", "Calls by how they ended.", "state", [s.value for s in State if s.ended])
        self._finished = counter(
            "request_success", "Answers by why they ended.", "finished_reason", [f.value for f in Finish]
        )
        self._preempted = counter("num_preemptions", "How often ended calls had given up their place.")
        self._rows = counter("rows", "Tokens encoded by the runner.")
        self._flops = counter("estimated_flops", "Operations of forward passes, from rows, keys and the model's shape.")
        self._kv_read = counter(
            "kv_tokens_read",
            "Keys read by steps: each segment once, and as if each call read for itself.",
            "counted",
            COUNTED,
        )
        self._kv_bytes = counter("kv_bytes_read", "The same in bytes of K and V, all layers.", "counted", COUNTED)
        self._by_part = [(part, self._parts.labels(part)) for part in PARTS]
        self._by_count = [(self._kv_read.labels(counted), self._kv_bytes.labels(counted)) for counted in COUNTED]
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
        waiting = Gauge(
            "pavane_num_requests_waiting_by_reason",
            "Calls that are ready: tenant_limit (the tenant has as many running as it may) or capacity.",
            ["reason"],
            registry=registry,
        )
        for reason in ("capacity", "tenant_limit"):
            waiting.labels(reason).set_function(partial(_waiting, scheduler, reason))
        if scheduler.cache.tier is not None:
            tier_metrics(scheduler.cache.tier, registry)
        self._tenants = TenantMetrics(scheduler.tenants, registry)
        registry.register(LogMetrics())

    def record(self, key: tuple[str, str], events: Sequence[Event]) -> None:
        now = monotonic()
        for event in events:
            if isinstance(event, TokensAdded):
                name = (key, event.id)
                last = self._last_token.get(name)
                self._last_token[name] = now
                if last is not None:
                    self._inter_token.observe(now - last)
            elif isinstance(event, Restarted):
                self._last_token.pop((key, event.id), None)
            elif isinstance(event, Ended):
                self._last_token.pop((key, event.id), None)
                self._end(event)
                self._tenants.ended(key[0], event)

    def _end(self, event: Ended) -> None:
        outcome, receipt = event.outcome, event.outcome.receipt
        self._preempted.inc(receipt.preemptions)
        self._ended.labels(outcome.state.value).inc()
        if outcome.decode and receipt.first_token_s:
            self._ttft.observe(receipt.first_token_s)
        if outcome.finish is not None and outcome.state is State.DONE:
            self._finished.labels(outcome.finish.value).inc()
        if outcome.state is State.DONE:
            self._end_to_end.observe(receipt.total_s - receipt.blocked_s)
            self._queued.observe(receipt.queued_s)
            self._blocked.observe(receipt.blocked_s)
        for name in CLASSES:
            self._tokens.labels(name).inc(getattr(receipt, name))

    def step(self, batch: Batch, times: StepParts) -> None:
        once, by_row = batch.kv_tokens()
        self._rows.inc(batch.n_rows)
        self._flops.inc(self._flops_per_row * batch.n_rows + self._flops_per_key * by_row)
        by_call = by_row if batch.one_row_each else batch.kv_tokens_by_call()
        for (read, read_bytes), keys in zip(self._by_count, (once, by_call), strict=True):
            read.inc(keys)
            read_bytes.inc(keys * self._bytes_per_token)
        for part, seconds in self._by_part:
            seconds.inc(getattr(times, part))
        self._step.observe(times.whole)
        self._forward.observe(times.forward)


def _waiting(scheduler: Scheduler, reason: str) -> int:
    at_bound = sum(t.waiting for t in scheduler.tenants.known.values() if t.running >= t.limits.max_running)
    return at_bound if reason == "tenant_limit" else scheduler.counts[State.QUEUED] - at_bound


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
        ("host_cache_stalls", "Waits of steps on a GPU until KV before had gone to it.", lambda: tier.stalls),
    ):
        Gauge(f"pavane_{name}", text, registry=registry).set_function(read)
