"""From a call whose parents are complete to what it sees: placement, contexts, and its own place in a tree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from pavane.cache import Keep, Member, Node, Position, Span, inputs_of
from pavane.cache.slots import SlotPool
from pavane.scheduler.calls import Call, Use
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.lifetimes import reading
from pavane.scheduler.spec import ParentSpec


class Structure(Protocol):
    """What resolving a call asks of the cache."""

    pool: SlotPool

    def position(self, namespace: str, visible: Sequence[Member], start: int) -> Position: ...

    def extend(self, node: Node, tokens: Sequence[int]) -> Span: ...

    def branch(self, node: Node, tokens: Sequence[int]) -> Span: ...

    def retain(self, span: Span, level: Keep) -> None: ...


def resolve(cache: Structure, call: Call, max_model_len: int) -> None:
    """Fills in `uses`, `visible`, `start`, `span`, `tokens` and `max_tokens`; retains the spans it sets.

    Raises RequestError if the context turns out too long for the model or for the pool; what is retained by then, the
    end of the call releases.
    """
    spec = call.spec
    sources = {parent.id: parent for parent in call.parents}
    edges = list(_edges(call))
    packed = bool(edges) and all(edge.exact for edge in edges)
    call.placement_ignored = packed and (
        spec.start is not None or any(e.offset is not None or e.as_encoded for e in edges)
    )
    cursor = furthest = 0
    for edge in edges:
        parent = sources[edge.id]
        length = len(parent.tokens)
        if packed or (edge.offset is None and not edge.as_encoded):
            at = cursor
        else:
            at = edge.offset if edge.offset is not None else parent.start
        if at + length > max_model_len:
            raise _too_long(call, at + length, max_model_len)
        if edge.exact:
            span = cache.extend(cache.position(call.workflow.namespace, call.visible, at).node, parent.tokens)
            cache.retain(span, reading(call.workflow))
        else:
            assert parent.span is not None
            span = parent.span
        call.uses.append(Use(edge.id, span, at, at if edge.exact else parent.start, edge.exact))
        call.visible.append(Member(span, at))
        cursor = at + length
        furthest = max(furthest, cursor)
    call.start = furthest if spec.start is None or packed else spec.start
    _own(cache, call, max_model_len)


def _edges(call: Call) -> Iterator[ParentSpec]:
    """With the winners of a group instead of the group, each parent once. A place given for a group is that of its
    first winner."""
    groups = {group.id: group.winners for group in call.groups}
    named = {edge.id for edge in call.spec.parents}
    for edge in call.spec.parents:
        if edge.id not in groups:
            yield edge
            continue
        offset = edge.offset
        for winner in groups[edge.id]:
            if winner.id not in named:
                named.add(winner.id)
                yield replace(edge, id=winner.id, offset=offset)
                offset = None


def _own(cache: Structure, call: Call, max_model_len: int) -> None:
    decode = call.spec.decode
    if call.spec.copy_of is not None:
        call.tokens.extend(next(p for p in call.parents if p.id == call.spec.copy_of).tokens)
    else:
        call.tokens.extend(call.spec.tokens)
    call.own_visible = len(call.tokens)
    call.content_begin = call.content_end = len(call.tokens) if decode else 0
    known = call.start + len(call.tokens)
    if decode is None:
        call.content_end = len(call.tokens)
        call.sealed = True
        if known > max_model_len:
            raise _too_long(call, known, max_model_len)
    else:
        room = max_model_len - known - len(decode.trailer)
        wanted = len(decode.forced) if decode.forced else decode.max_tokens
        if room < (wanted if wanted is not None else 1):
            raise _too_long(call, known + (wanted or 1) + len(decode.trailer), max_model_len)
        call.max_tokens = wanted if wanted is not None else room
    place = cache.position(call.workflow.namespace, call.visible, call.start)
    if decode is None:
        call.span = cache.extend(place.node, call.tokens)
    else:
        if decode.one_pass:
            call.tokens.extend(decode.forced)
            call.content_end = len(call.tokens)
            call.tokens.extend(decode.trailer)
        # What is known is looked up, but for the row that the first token is chosen after: each decode needs its own.
        header = cache.extend(place.node, call.tokens[: call.own_visible - 1])
        call.span = Span(cache.branch(header.node, call.tokens[call.own_visible - 1 :]).node, header.lo)
    cache.retain(call.span, call.keep)
    if not call.spec.lazy:
        _check_pool(cache, call)


def inputs(call: Call) -> list[Span]:
    """What the last part of the call's own tokens, a decode's tail, reads: the part before it, too."""
    assert call.span is not None
    tail = call.span.node
    return inputs_of(Span(tail, tail.lo))


def _check_pool(cache: Structure, call: Call) -> None:
    """The call needs all that it sees, and itself at its longest, in the pool at once."""
    assert call.span is not None
    decode = call.spec.decode
    seen = sum(len(node) for node in _distinct(inputs_of(call.span)))
    size = cache.pool.size
    extra = 0 if decode is None else len(decode.trailer)
    room = size - seen - call.own_visible - extra
    if decode is not None and decode.max_tokens is None and not decode.forced and room > 0:
        call.max_tokens = min(call.max_tokens, room)
    if room < call.max_tokens or room < 0:
        needed = seen + call.own_visible + extra + call.max_tokens
        raise RequestError(
            Reason.NEVER_FITS,
            f"call {call.id!r} needs {needed} token slots at once ({seen} that it sees, {call.own_visible} of its own, "
            f"{call.max_tokens} to generate, {extra} trailer) and the server has {size}; use fewer or shorter parents, "
            "a smaller max_tokens, or a server with more --num-slots",
            (call.id,),
        )


def _distinct(spans: Sequence[Span]) -> set[Node]:
    return {node for span in spans for node in span.upwards()}


def _too_long(call: Call, end: int, limit: int) -> RequestError:
    lengths = ", ".join(f"{p.id} {len(p.tokens)}" for p in call.parents) or "none"
    own = len(call.spec.tokens)
    return RequestError(
        Reason.CONTEXT_TOO_LONG,
        f"call {call.id!r} would reach position {end}, the model's limit is {limit}; tokens of its parents: {lengths}; "
        f"of its own {'header' if call.spec.decode else 'text'}: {own}; drop or shorten parents, or lower max_tokens",
        (call.id, *(p.id for p in call.parents)),
    )
