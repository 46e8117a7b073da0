"""Snapshots of the engine as messages of AdminService."""

from __future__ import annotations

from pavane.cache import Change
from pavane.protos.v1 import admin_pb2 as pb
from pavane.scheduler.cache_events import CacheChange
from pavane.scheduler.introspection import CallCounts, EngineStats, HostStats, MessageStats, SlotStats, WorkflowStats
from pavane.scheduler.tally import Activity, TokenCounts
from pavane.server.convert import STATES
from pavane.server.status import duration

# What a change of the cache is, from where and to where.
_CHANGES: dict[Change, tuple[pb.CacheEventKind.ValueType, pb.Tier.ValueType, pb.Tier.ValueType]] = {
    "stored": (pb.CACHE_EVENT_KIND_STORED, pb.TIER_UNSPECIFIED, pb.TIER_SLOTS),
    "evicted": (pb.CACHE_EVENT_KIND_EVICTED, pb.TIER_SLOTS, pb.TIER_UNSPECIFIED),
    "left": (pb.CACHE_EVENT_KIND_MOVED, pb.TIER_SLOTS, pb.TIER_HOST),
    "came": (pb.CACHE_EVENT_KIND_MOVED, pb.TIER_HOST, pb.TIER_SLOTS),
    "lost": (pb.CACHE_EVENT_KIND_EVICTED, pb.TIER_HOST, pb.TIER_UNSPECIFIED),
}


def stats_response(stats: EngineStats, limits: pb.Limits, slot_bytes: int) -> pb.GetStatsResponse:
    times = stats.step_times
    return pb.GetStatsResponse(
        uptime=duration(stats.uptime),
        workflows=stats.workflows,
        calls=_calls(stats.calls),
        slots=_slots(stats.slots, stats.host, slot_bytes),
        since_start=_activity(stats.since_start),
        recent=_activity(stats.recent),
        recent_window=duration(stats.recent_window),
        step_times=pb.StepTimes(
            steps=times.steps,
            median=duration(times.median),
            p95=duration(times.p95),
            longest=duration(times.longest),
        ),
        limits=limits,
    )


def workflow_stats(stats: WorkflowStats) -> pb.WorkflowStats:
    message = pb.WorkflowStats(
        namespace=stats.namespace,
        id=stats.id,
        calls=_calls(stats.calls),
        tokens=stats.tokens,
        tokens_in_slots=stats.tokens_in_slots,
        tokens_on_host=stats.tokens_on_host,
        slots=stats.slots,
        budget_tokens=stats.budget,
        spent_tokens=stats.spent,
        priority=stats.priority,
        ttl=duration(stats.ttl),
        idle=duration(stats.idle),
        ended=_tokens(stats.ended),
    )
    if stats.ttl_left is not None:
        message.ttl_left.CopyFrom(duration(stats.ttl_left))
    return message


def message_stats(stats: MessageStats, slot_bytes: int) -> pb.MessageStats:
    return pb.MessageStats(
        id=stats.id,
        state=STATES[stats.state],
        decode=stats.decode,
        tokens=stats.tokens,
        tokens_in_slots=stats.tokens_in_slots,
        tokens_on_host=stats.tokens_on_host,
        bytes=stats.tokens_in_slots * slot_bytes,
        readers_left=stats.readers_left,
        pinned=stats.pinned,
        parents=stats.parents,
        copy_of=stats.copy_of or "",
        age=duration(stats.age),
    )


def cache_event(change: CacheChange) -> pb.CacheEvent:
    kind, source, target = _CHANGES[change.kind]
    return pb.CacheEvent(
        kind=kind,
        source=source,
        target=target,
        namespace=change.namespace,
        workflow_id=change.workflow_id,
        message_id=change.message_id,
        content_key=change.content_key,
        tokens=change.tokens,
        sequence=change.sequence,
    )


def _calls(calls: CallCounts) -> pb.CallCounts:
    return pb.CallCounts(
        blocked=calls.blocked,
        queued=calls.queued,
        running=calls.running,
        done=calls.done,
        failed=calls.failed,
        cancelled=calls.cancelled,
    )


def _slots(slots: SlotStats, host: HostStats | None, slot_bytes: int) -> pb.SlotStats:
    used = slots.idle + slots.locked
    tiers = [pb.TierUse(tier=pb.TIER_SLOTS, capacity=slots.total, used=used, bytes_per_token=slot_bytes)]
    if host is not None:
        tiers.append(
            pb.TierUse(
                tier=pb.TIER_HOST,
                capacity=host.capacity,
                used=host.used,
                bytes_per_token=slot_bytes,
                kept_tokens=host.kept,
                fetched_tokens=host.fetched,
                failed_moves=host.failed,
            )
        )
    return pb.SlotStats(
        total=slots.total,
        free=slots.free,
        idle=slots.idle,
        locked=slots.locked,
        tiers=tiers,
        namespaces=[pb.NamespaceSlots(namespace=name, slots=held) for name, held in slots.namespaces],
        evicted_tokens=slots.evicted,
    )


def _activity(activity: Activity) -> pb.Activity:
    return pb.Activity(
        ended=_tokens(activity.ended),
        sampled=activity.sampled,
        steps=activity.steps,
        rows=activity.rows,
        step_time=duration(activity.step_s),
        forward_time=duration(activity.forward_s),
    )


def _tokens(counts: TokenCounts) -> pb.TokenCounts:
    return pb.TokenCounts(
        reused_in_place=counts.in_place,
        repositioned=counts.repositioned,
        encoded=counts.encoded,
        generated=counts.generated,
        trailer=counts.trailer,
        reencoded=counts.reencoded,
    )
