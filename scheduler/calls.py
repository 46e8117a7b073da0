"""The record of one call, owned by the scheduler. Its states and their order are in spec.State."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from pavane.cache import Keep, Member, Span
from pavane.scheduler.attention import Attention
from pavane.scheduler.edits import Edits
from pavane.scheduler.samples import Settings
from pavane.scheduler.scoring import Pass
from pavane.scheduler.spec import CallSpec, Failure, Finish, GroupSpec, Outcome, ParentUse, Receipt, State, Top
from pavane.scheduler.tenants import Tenant
from pavane.scheduler.text import StopMatcher


@dataclass(slots=True)
class Use:
    """A resolved edge: where the parent stands, its encoding, and how much of it this call was first to compute."""

    id: str
    span: Span
    placed_at: int
    encoded_at: int
    exact: bool
    fresh: int = 0

    @property
    def tokens(self) -> int:
        return self.span.length

    @property
    def repositioned(self) -> bool:
        return not self.exact and self.placed_at != self.encoded_at


@dataclass(slots=True, eq=False)
class Call:
    spec: CallSpec
    workflow: Workflow
    serial: int  # order of arrival, over all workflows
    accepted_at: float
    state: State = State.BLOCKED

    # the graph
    parents: list[Call] = field(default_factory=list)  # and the source of a copy
    children: dict[Call, None] = field(default_factory=dict)  # that have not ended
    groups: list[Group] = field(default_factory=list)  # that it reads
    member_of: list[Group] = field(default_factory=list)
    pending: int = 0  # parents and groups whose promise is open
    promised: bool = False  # its own is kept: children may read it
    unfinished_readers: int = 0
    released: bool = False

    # the order, in the units of estimates.py
    work: float = 0.0  # of the call alone
    chain: float = 0.0  # the longest sum of it and what waits for it

    # the message
    tokens: array[int] = field(default_factory=lambda: array("i"))  # header, content, trailer
    content_begin: int = 0
    content_end: int = 0
    max_tokens: int = 0
    logprobs: list[float] = field(default_factory=list)
    top: list[Top] = field(default_factory=list)  # as many as logprobs, if asked for
    finish: Finish | None = None
    failure: Failure | None = None
    matcher: StopMatcher | None = None
    edits: Edits | None = None  # from its first token on, until its content is final
    settings: Settings | None = None  # of its samples, from the first on
    start: int = 0  # logical offset of the first token
    seed: int = 0  # of the current attempt
    attempt: int = 1
    attention: Attention | None = None  # from its first token on, if asked for
    scoring: Pass | None = None  # it is no message, but a pass of a score
    to_be_sealed: bool = False  # its next token is the last

    # the cache
    span: Span | None = None  # its own encoding; retained until nobody can ask for it
    keep: Keep = Keep.LATER  # the level at which it is retained
    rests: bool = False  # it has ended, and no call that is to read it is known
    expected_readers: int = 0  # that are not submitted yet
    uses: list[Use] = field(default_factory=list)
    visible: list[Member] = field(default_factory=list)
    needs: list[Span] = field(default_factory=list)  # acquired: while it runs, and between the pieces of its mending
    inputs_ready: bool = False  # all of `needs` but its own path is computed
    mending: bool = False  # `needs` is for one hole (mending.py); the call itself comes later
    sealed: bool = False  # tokens are final
    encoded: bool = False  # ... and all scheduled: usable by children in the same step

    # the receipt
    stored: int = 0  # tokens that its tenant is charged with for the message
    fresh: int = 0  # own tokens before the content that this call was first to compute
    own_visible: int = 0  # own tokens before the content (of a Prefill: all)
    generated: int = 0
    trailer: int = 0
    reencoded: int = 0
    preemptions: int = 0
    placement_ignored: bool = False
    ready_at: float | None = None
    started_at: float | None = None
    first_token_at: float | None = None
    ended_at: float | None = None

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def asks_attention(self) -> bool:
        return self.spec.decode is not None and self.spec.decode.attention_mass

    @property
    def deadline(self) -> float | None:
        own = None if self.spec.timeout is None else self.accepted_at + self.spec.timeout
        shared = self.workflow.deadline
        return shared if own is None else own if shared is None else min(own, shared)

    def receipt(self, now: float) -> Receipt:
        end = self.ended_at if self.ended_at is not None else now
        ready = self.ready_at if self.ready_at is not None else end
        started = self.started_at if self.started_at is not None else end
        uses = self.uses
        parents = tuple([ParentUse(u.id, u.placed_at, u.encoded_at, u.exact, u.span.length) for u in uses])
        visible = self.own_visible + sum([tokens for _, _, _, _, tokens in parents])
        encoded = self.fresh + sum([use.fresh for use in uses])
        repositioned = sum(
            [parent.tokens - use.fresh for use, parent in zip(uses, parents, strict=True) if use.repositioned]
        )
        computes = not self.spec.lazy and (self.encoded or self.first_token_at is not None)
        return Receipt(
            in_place=visible - repositioned - encoded if computes else 0,
            repositioned=repositioned if computes else 0,
            encoded=encoded,
            generated=self.generated,
            trailer=self.trailer,
            reencoded=self.reencoded,
            blocked_s=ready - self.accepted_at,
            queued_s=max(0.0, started - ready),
            first_token_s=self.first_token_at - ready if self.first_token_at is not None else 0.0,
            total_s=end - self.accepted_at,
            preemptions=self.preemptions,
            placement_ignored=self.placement_ignored,
            parents=parents,
            attention_mass=self.attention.means() if self.attention is not None else (),
        )

    def outcome(self, now: float) -> Outcome:
        decode = self.spec.decode
        return Outcome(
            id=self.id,
            state=self.state,
            tokens=self.tokens[:],
            logprobs=tuple(self.logprobs) if decode is not None and decode.logprobs else (),
            top=tuple(self.top),
            content=(self.content_begin, self.content_end),
            start=self.start,
            finish=self.finish,
            seed=self.seed,
            beginning=decode.beginning if decode else "",
            receipt=self.receipt(now),
            failure=self.failure,
            decode=decode is not None,
            attempts=self.attempt,
            labels=self.spec.labels,
        )


@dataclass(slots=True, eq=False)
class Group:
    """The promise of some of its members: open until `winners` are known or it has failed."""

    spec: GroupSpec
    workflow: Workflow
    members: list[Call]
    children: dict[Call, None] = field(default_factory=dict)  # that wait for it
    winners: tuple[Call, ...] = ()  # in the order of the members
    failure: Failure | None = None
    released: bool = False

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def open(self) -> bool:
        return not self.winners and self.failure is None


@dataclass(slots=True, eq=False)
class Workflow:
    """Ids of one workflow and what they stand for."""

    namespace: str
    id: str
    serial: int  # order of arrival
    tenant: Tenant
    budget: int  # tokens, 0 = none
    ttl: float  # seconds
    opened_at: float
    touched_at: float
    busy_since: float = 0.0  # since when it has had unfinished calls
    priority: int = 0  # within its tenant, higher first
    deadline: float | None = None  # for all of its calls
    idle: bool = False  # waits for a person or a tool
    begun_at: float | None = None  # since when it is under way; None: it waits for its turn
    work: float = 0.0  # left to do, in the units of estimates.py
    calls: dict[str, Call] = field(default_factory=dict)
    open: dict[Call, None] = field(default_factory=dict)  # those that have not ended, parents first
    resting: int = 0  # tokens of messages that rest
    grows: bool = False  # calls have come, or are announced, that read what others had ended by then
    groups: dict[str, Group] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)  # of every id ever used, released ones too
    unfinished: int = 0
    spent: int = 0
    total: Receipt = field(default_factory=Receipt)

    @property
    def key(self) -> tuple[str, str]:
        return (self.namespace, self.id)
