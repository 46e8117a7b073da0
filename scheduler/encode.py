"""What a call adds to a step: rows, slots to grow into, and what its receipt says of them."""

from __future__ import annotations

from collections.abc import Iterator

from pavane.cache import GraphCache, Node, length_of
from pavane.kernels.batch import NO_TOKEN
from pavane.scheduler.attention import WatchedRows, attention_of
from pavane.scheduler.calls import Call, Use
from pavane.scheduler.plan import Item, Sample, Step
from pavane.scheduler.scoring import ScoreRows

RUN = 32  # slots that a running decode takes at a time


def encode(cache: GraphCache, call: Call, node: Node, count: int, step: Step) -> Item:
    """Puts the next `count` tokens of `node` into the step, and on the call's receipt."""
    assert call.span is not None
    lo = node.lo + node.filled
    first = cache.fill(node, count)
    if first:
        step.first.append((node, lo + count - first, lo + count))
    item = step.add(call, node, lo, lo + count)
    if node is call.span.node and lo >= call.span.lo + call.own_visible:  # what was generated is counted by its tokens
        if first < count:
            step.count(call, "reencoded", count - first)
    else:
        for receipt, name, tokens in charges(call, node, lo, count, first):
            step.count(receipt, name, tokens)
    step.count(call.workflow, "spent", first)
    if (call.sealed or call.asks_attention) and _own(call, node):
        _score(call, item, lo - call.span.lo, count, step)
        _watch(call, item, lo - call.span.lo, count, step)
    return item


def go_on(cache: GraphCache, call: Call, step: Step) -> bool:
    """What nearly all calls of a step do: a decode encodes the token that it took last, into a slot that it has, and
    takes the next. False if this is another case; then nothing is done."""
    span, decode = call.span, call.spec.decode
    assert span is not None
    assert decode is not None
    node = span.node
    filled = node.filled
    segments = node.context.segments
    if (
        not call.generated
        or filled + 1 != len(node.tokens)
        or node.owner is not call
        or node.coming
        or not node.extents
        or (node.extents[-1].length <= filled and length_of(node.extents) <= filled)
        or step.budget < 1
        or step.pairs < segments
        or decode.attention_mass
    ):
        return False
    at = node.lo + filled
    item = Item(call, node, at, at + 1)
    if cache.fill(node, 1):
        call.workflow.spent += 1
        step.going_on.append(item)
    else:
        step.count(call, "reencoded", 1)
    step.budget -= 1
    step.pairs -= segments
    step.busy.add(call)
    step.items.append(item)
    index = call.content_end - call.content_begin
    step.samples.append(Sample(call, item, at, index, decode.forced[index] if decode.forced else NO_TOKEN))
    return True


def goes_on(sample: Sample) -> bool:
    """Whether the call takes one more token after this one, unless this one says otherwise, and nothing else is needed
    for that."""
    call, decode = sample.call, sample.call.spec.decode
    return not (
        decode is None
        or decode.edits
        or decode.one_pass
        or call.asks_attention
        or call.generated + 1 >= call.max_tokens
    )


def charges(call: Call, node: Node, lo: int, count: int, first: int) -> Iterator[tuple[Call | Use, str, int]]:
    """What it adds to the call's receipt, in which attribute of what, that it computes `count` tokens of `node`, those
    from depth `lo` on; the last `first` of them never were computed before."""
    assert call.span is not None
    if _own(call, node):
        begin = lo - call.span.lo
        header = max(0, min(begin + count, call.own_visible) - max(begin + count - first, 0))
        yield call, "fresh", min(header, first)
        yield call, "reencoded", count - first
    elif node.context.signature is not None:  # BOS is never counted
        use = next((u for u in call.uses if any(n is node for n in u.span.upwards())), None)
        if use is not None:
            yield use, "fresh", first
            yield call, "reencoded", count - first
        else:
            yield call, "reencoded", count


def _own(call: Call, node: Node) -> bool:
    assert call.span is not None
    return node.context is call.span.node.context and node.lo >= call.span.lo


def _score(call: Call, item: Item, begin: int, count: int, step: Step) -> None:
    """What is asked about tokens that are forced in one pass: each under the row before it."""
    decode, span = call.spec.decode, call.span
    if decode is None or not decode.one_pass:
        return
    assert span is not None
    places = range(max(begin, call.content_begin - 1), min(begin + count, call.content_end - 1))
    first = places.start + 1 - call.content_begin
    if call.scoring is not None and places:
        step.scores.append(ScoreRows(call, item, span.lo + places.start, first, len(places)))
    elif decode.logprobs:
        for index, at in enumerate(places, first):
            step.samples.append(Sample(call, item, span.lo + at, index, decode.forced[index]))


def _watch(call: Call, item: Item, begin: int, count: int, step: Step) -> None:
    """The rows after which tokens are chosen, each once, if it is asked where their attention goes."""
    span = call.span
    if not call.asks_attention:
        return
    assert span is not None
    known = call.content_begin - 1 + attention_of(call).rows
    end = call.content_end - 1 if call.sealed else call.content_end
    places = range(max(begin, known), min(begin + count, end))
    if places:
        step.watched.append(WatchedRows(call, item, span.lo + places.start, len(places)))


def grow(cache: GraphCache, call: Call, node: Node) -> bool:
    """Slots for all tokens of a decode's tail, and a run to grow into while it lasts; False if there is no room."""
    if length_of(node.extents or []) >= len(node.tokens):
        return True
    left = 0 if call.sealed else call.max_tokens - call.generated
    return cache.grow(node, len(node) + min(RUN, left)) or cache.grow(node, len(node))
