"""What is asked of the scheduler, and what it says: frozen values only."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from pavane.scheduler.text import Constraint


class State(StrEnum):
    """BLOCKED -> QUEUED -> RUNNING -> DONE; FAILED and CANCELLED from any of the first three.

    A preempted call goes from RUNNING back to QUEUED, a lazy Prefill from BLOCKED to DONE.
    """

    BLOCKED = "blocked"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    def __init__(self, name: str) -> None:
        self.ended = name in ("done", "failed", "cancelled")


class Finish(StrEnum):
    END_OF_TURN = "end_of_turn"
    STOP = "stop"
    LENGTH = "length"
    CONSTRAINT = "constraint"
    FORCED = "forced"
    SEALED = "sealed"


@dataclass(frozen=True, slots=True)
class ParentSpec:
    """An edge. `offset` and `as_encoded` exclude each other; neither: packed after the parent before."""

    id: str
    offset: int | None = None
    as_encoded: bool = False
    exact: bool = False
    last_use: bool = False


@dataclass(frozen=True, slots=True)
class DecodeSpec:
    """How to generate. `max_tokens` None: as many as fit. `end_ids` end the turn when sampled; they are no content.

    `logprobs`: 0 none, 1 those of the content's tokens, n > 1 those of the n likeliest tokens as well.
    """

    seed: int
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    constraint: Constraint | None = None
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    end_ids: frozenset[int] = frozenset()
    logprobs: int = 0
    forced: tuple[int, ...] = ()
    one_pass: bool = False
    beginning: str = ""  # text of the forced beginning of the answer, which is part of the header
    trailer: tuple[int, ...] = ()
    attention_mass: bool = False  # its receipt says where its attention goes

    @property
    def edits(self) -> bool:
        """Whether logits are changed before a token is chosen, other than by temperature and filters."""
        return bool(
            self.repetition_penalty != 1
            or self.presence_penalty
            or self.frequency_penalty
            or self.logit_bias
            or self.min_tokens
            or self.constraint is not None
        )


@dataclass(frozen=True, slots=True)
class Retention:
    """What is known of a message's future. `readers`: that many calls will read it that are not submitted yet. `ttl`:
    seconds after its end in which it can be named. `pin`: its encoding is the last to be evicted."""

    pin: bool = False
    ttl: float | None = None
    readers: int = 0


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """As a parent: the first `need` of `members` that are done, in the order of `members`. With `cancel_rest` the
    others are cancelled then."""

    id: str
    digest: bytes
    members: tuple[str, ...]
    need: int
    cancel_rest: bool = False


@dataclass(frozen=True, slots=True)
class CallSpec:
    """One call. `tokens` is the whole text of a Prefill or the header of a Decode, best an array("i"), which is only
    copied; `exact` the call's own fidelity."""

    id: str
    digest: bytes  # of the request's bytes: the same id with the same digest is the same call
    tokens: Sequence[int] = ()
    copy_of: str | None = None
    decode: DecodeSpec | None = None
    parents: tuple[ParentSpec, ...] = ()
    exact: bool = False
    start: int | None = None
    timeout: float | None = None  # seconds
    max_attempts: int = 1
    retention: Retention = Retention()
    labels: tuple[tuple[str, str], ...] = ()  # for people

    @property
    def stored_tokens(self) -> int:
        """What the message is counted as until it has ended: its known tokens, and all that it may generate."""
        decode = self.decode
        return len(self.tokens) + (0 if decode is None else len(decode.forced) or decode.max_tokens or 0)

    @property
    def lazy(self) -> bool:
        return self.exact and self.decode is None


class ParentUse(NamedTuple):
    id: str
    placed_at: int
    encoded_at: int
    exact: bool
    tokens: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a call cost. in_place + repositioned + encoded = tokens visible at the first generated token."""

    in_place: int = 0
    repositioned: int = 0
    encoded: int = 0
    generated: int = 0
    trailer: int = 0
    reencoded: int = 0
    blocked_s: float = 0.0
    queued_s: float = 0.0
    first_token_s: float = 0.0
    total_s: float = 0.0
    preemptions: int = 0
    placement_ignored: bool = False
    parents: tuple[ParentUse, ...] = ()
    attention_mass: tuple[tuple[str, float], ...] = ()  # see attention.py; if asked for

    def plus(self, other: Receipt) -> Receipt:
        """The sum of two receipts: of counts and times, without the parents and where attention goes."""
        return Receipt(
            self.in_place + other.in_place,
            self.repositioned + other.repositioned,
            self.encoded + other.encoded,
            self.generated + other.generated,
            self.trailer + other.trailer,
            self.reencoded + other.reencoded,
            self.blocked_s + other.blocked_s,
            self.queued_s + other.queued_s,
            self.first_token_s + other.first_token_s,
            self.total_s + other.total_s,
            self.preemptions + other.preemptions,
            self.placement_ignored or other.placement_ignored,
        )


@dataclass(frozen=True, slots=True)
class Failure:
    reason: str
    text: str
    ids: tuple[str, ...] = ()


class Top(NamedTuple):
    """The likeliest tokens in one place, likeliest first."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """A call as it stands, for readers outside the engine."""

    id: str
    state: State
    tokens: array[int] | tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    top: tuple[Top, ...] = ()  # one for each of logprobs, if asked for
    content: tuple[int, int] = (0, 0)
    start: int = 0
    finish: Finish | None = None
    seed: int = 0
    beginning: str = ""
    receipt: Receipt = field(default_factory=Receipt)
    failure: Failure | None = None
    decode: bool = False
    attempts: int = 1
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class StateChanged:
    id: str
    state: State


class TokensAdded(NamedTuple):
    """Content as it is generated; a stop string may still cut it, the Ended that follows has what remains."""

    id: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    top: tuple[Top, ...] = ()


@dataclass(frozen=True, slots=True)
class Restarted:
    """What was generated so far is void: attempt number `attempt` begins, because of `failure`."""

    id: str
    attempt: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class Ended:
    id: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Closed:
    """The workflow is gone."""

    total: Receipt


Event = StateChanged | TokensAdded | Restarted | Ended | Closed
