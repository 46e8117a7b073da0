"""What AdminService tells, as frozen values. Times are in seconds, sizes in tokens where nothing else is said."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from google.protobuf.duration_pb2 import Duration

from pavane.clients.errors import seconds
from pavane.clients.results import enum_name
from pavane.protos.v1 import admin_pb2 as pb
from pavane.protos.v1 import pavane_pb2 as core

if TYPE_CHECKING:
    from google.protobuf.message import Message as Proto


def _plain(cls: Any, message: Proto, /, **rest: object) -> dict[str, Any]:
    """The fields of a dataclass by name: those of `rest`, and the message's own; durations in seconds."""
    own = {item.name: getattr(message, item.name) for item in fields(cls) if item.name not in rest}
    return {**rest, **{k: seconds(v) if isinstance(v, Duration) else v for k, v in own.items()}}


def _tier(number: int) -> str:
    return enum_name(pb.Tier.DESCRIPTOR, "TIER_", number)


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens by what was done for them, as in receipts."""

    reused_in_place: int
    repositioned: int
    encoded: int
    generated: int
    trailer: int
    reencoded: int

    @classmethod
    def of(cls, message: pb.TokenCounts) -> Self:
        """From the wire."""
        return cls(**_plain(cls, message))


@dataclass(frozen=True, slots=True)
class CallCounts:
    """Calls by their state."""

    blocked: int
    queued: int
    running: int
    done: int
    failed: int
    cancelled: int

    @classmethod
    def of(cls, message: pb.CallCounts) -> Self:
        """From the wire."""
        return cls(**_plain(cls, message))

    @property
    def unfinished(self) -> int:
        """Those that have not ended."""
        return self.blocked + self.queued + self.running


@dataclass(frozen=True, slots=True)
class Activity:
    """What was done in some time. `ended` sums receipts, `sampled` counts tokens as they come, `rows` are tokens that
    the steps encoded."""

    ended: TokenCounts
    sampled: int
    steps: int
    rows: int
    step_time: float
    forward_time: float

    @classmethod
    def of(cls, message: pb.Activity) -> Self:
        """From the wire."""
        return cls(**_plain(cls, message, ended=TokenCounts.of(message.ended)))


@dataclass(frozen=True, slots=True)
class Tier:
    """A place for KV: "slots" is the pool that attention reads, "host" memory from where it is moved there.
    `kept_tokens` were moved to the host since the start, `fetched_tokens` from there; `failed_moves` are those that
    failed."""

    name: str
    capacity: int
    used: int
    bytes_per_token: int
    kept_tokens: int
    fetched_tokens: int
    failed_moves: int

    @classmethod
    def of(cls, message: pb.TierUse) -> Self:
        """From the wire."""
        return cls(**_plain(cls, message, name=_tier(message.tier)))


@dataclass(frozen=True, slots=True)
class Stats:
    """A server at one moment. slots_free + slots_idle + slots_locked = slots; idle ones may be evicted. `recent` covers
    the last `recent_window`. `namespaces` are the slots that each holds, the largest first. `evicted_tokens` lost their
    slots since the start."""

    uptime: float
    workflows: int
    calls: CallCounts
    slots: int
    slots_free: int
    slots_idle: int
    slots_locked: int
    evicted_tokens: int
    tiers: tuple[Tier, ...]
    namespaces: tuple[tuple[str, int], ...]
    since_start: Activity
    recent: Activity
    recent_window: float
    step_median: float
    step_p95: float
    step_longest: float
    max_running: int
    max_step_tokens: int
    max_unfinished: int
    max_model_len: int

    @classmethod
    def of(cls, message: pb.GetStatsResponse) -> Self:
        """From the wire."""
        slots, times, limits = message.slots, message.step_times, message.limits
        return cls(
            uptime=seconds(message.uptime),
            workflows=message.workflows,
            calls=CallCounts.of(message.calls),
            slots=slots.total,
            slots_free=slots.free,
            slots_idle=slots.idle,
            slots_locked=slots.locked,
            evicted_tokens=slots.evicted_tokens,
            tiers=tuple(map(Tier.of, slots.tiers)),
            namespaces=tuple((n.namespace, n.slots) for n in slots.namespaces),
            since_start=Activity.of(message.since_start),
            recent=Activity.of(message.recent),
            recent_window=seconds(message.recent_window),
            step_median=seconds(times.median),
            step_p95=seconds(times.p95),
            step_longest=seconds(times.longest),
            max_running=limits.running,
            max_step_tokens=limits.step_tokens,
            max_unfinished=limits.unfinished,
            max_model_len=limits.model_len,
        )


@dataclass(frozen=True, slots=True)
class WorkflowStats:
    """An open workflow. `ttl_left` is None while calls are unfinished; `slots` are those that its messages hold."""

    namespace: str
    id: str
    calls: CallCounts
    tokens: int
    tokens_in_slots: int
    tokens_on_host: int
    slots: int
    budget_tokens: int
    spent_tokens: int
    priority: int
    ttl: float
    ttl_left: float | None
    idle: float
    ended: TokenCounts

    @classmethod
    def of(cls, message: pb.WorkflowStats) -> Self:
        """From the wire."""
        left = seconds(message.ttl_left) if message.HasField("ttl_left") else None
        calls, ended = CallCounts.of(message.calls), TokenCounts.of(message.ended)
        return cls(**_plain(cls, message, calls=calls, ended=ended, ttl_left=left))


@dataclass(frozen=True, slots=True)
class MessageStats:
    """A message and where its KV lies; the tokens that are in no tier are encoded (again) when a call reads them."""

    id: str
    state: str
    decode: bool
    tokens: int
    tokens_in_slots: int
    tokens_on_host: int
    bytes: int
    readers_left: int
    pinned: bool
    parents: tuple[str, ...]
    copy_of: str
    age: float

    @classmethod
    def of(cls, message: pb.MessageStats) -> Self:
        """From the wire."""
        state = enum_name(core.State.DESCRIPTOR, "STATE_", message.state)
        return cls(**_plain(cls, message, state=state, parents=tuple(message.parents)))


@dataclass(frozen=True, slots=True)
class CacheEvent:
    """`kind` is "stored", "evicted" or "moved". `source` and `target` are the names of tiers; what is stored comes from
    nowhere, "", and what is evicted goes there. Ids are empty where the server does not know them."""

    kind: str
    namespace: str
    workflow_id: str
    message_id: str
    content_key: bytes
    tokens: int
    sequence: int
    source: str
    target: str

    @classmethod
    def of(cls, message: pb.CacheEvent) -> Self:
        """From the wire."""
        kind = enum_name(pb.CacheEventKind.DESCRIPTOR, "CACHE_EVENT_KIND_", message.kind)
        return cls(**_plain(cls, message, kind=kind, source=_tier(message.source), target=_tier(message.target)))


@dataclass(frozen=True, slots=True)
class CacheEvents:
    """Some events in a row; `dropped` were lost before them, since they were not read in time."""

    events: tuple[CacheEvent, ...]
    dropped: int

    @classmethod
    def of(cls, message: pb.WatchCacheResponse) -> Self:
        """From the wire."""
        return cls(tuple(map(CacheEvent.of, message.events)), message.dropped)
