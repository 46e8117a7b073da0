"""The content of a decode as it is generated: a token more, a cut, the end."""

from __future__ import annotations

import math
from hashlib import blake2b

from pavane.cache import GraphCache
from pavane.kernels.batch import NO_TOKEN
from pavane.scheduler.calls import Call
from pavane.scheduler.errors import Reason
from pavane.scheduler.samples import Taken
from pavane.scheduler.spec import Failure, Finish, TokensAdded, Top


def take(cache: GraphCache, call: Call, index: int, taken: Taken) -> tuple[TokensAdded | None, Finish | Failure | None]:
    """Takes the token with number `index` of the content: what to tell, and how the content ends, if it does.

    Of several ends that fall on one token a stop string comes before the constraint's, and that before max_tokens and
    sealing.
    """
    decode = call.spec.decode
    assert decode is not None
    token, logprob, top = taken
    if decode.one_pass:
        if index == len(call.logprobs):  # not a row that was encoded again
            call.logprobs.append(logprob)
            if decode.logprobs > 1:
                call.top.append(top)
        return None, None
    constraint = call.edits.constraint if call.edits is not None else None
    if token == NO_TOKEN:
        if math.isnan(logprob):
            return None, _no_numbers(call)
        satisfied = constraint is not None and constraint.satisfied
        return None, Finish.CONSTRAINT if satisfied else _nothing_allowed(call)
    if not decode.forced and token in decode.end_ids:
        return None, Finish.END_OF_TURN
    if not decode.forced and token in decode.stop_ids:
        return None, Finish.STOP
    _append(cache, call, token)
    call.logprobs.append(logprob)
    if decode.logprobs > 1:
        call.top.append(top)
    told = (logprob,) if decode.logprobs else ()
    added = TokensAdded(call.spec.id, (token,), told, (top,) if decode.logprobs > 1 else ())
    keep = None
    if call.matcher is not None and call.generated > decode.min_tokens:
        keep = call.matcher.push(token)
    if keep is not None:
        before = call.tokens[call.content_begin : call.content_begin + decode.min_tokens]
        cut_content(cache, call, (*before, *keep))
        return added, Finish.STOP
    if constraint is not None and constraint.complete:
        return added, Finish.CONSTRAINT if constraint.satisfied else _nothing_allowed(call)
    if call.generated == call.max_tokens:
        return added, Finish.FORCED if decode.forced else Finish.LENGTH
    return added, Finish.SEALED if call.to_be_sealed else None


def _append(cache: GraphCache, call: Call, token: int) -> None:
    """One more token, which the next step encodes."""
    assert call.span is not None
    call.generated += 1
    call.tokens.append(token)
    call.content_end += 1
    if call.edits is not None:
        call.edits.append(token)
    cache.push(call.span.node, token, call)


def _no_numbers(call: Call) -> Failure:
    text = f"call {call.id!r}: the model's logits after {call.generated} generated tokens are not numbers"
    return Failure(Reason.RUNNER_FAILED, text, (call.id,))


def _nothing_allowed(call: Call) -> Failure:
    """No token may come next, and the content may not end."""
    if call.edits is None:  # nothing was forbidden
        return _no_numbers(call)
    constraint = call.edits.constraint
    if constraint is not None and constraint.error:
        why = f"its constraint cannot be followed any further: {constraint.error}"
    else:
        why = "logit_bias, min_tokens and the constraint together forbid every one; allow some"
    return Failure(
        Reason.NOTHING_ALLOWED,
        f"call {call.id!r} finds no token after {call.generated} generated ones: {why}",
        (call.id,),
    )


def cut_content(cache: GraphCache, call: Call, keep: tuple[int, ...]) -> None:
    """Replaces the content by `keep`. What of it is encoded already stays as far as the tokens are the same."""
    assert call.span is not None
    content = call.tokens[call.content_begin :].tolist()
    same = next(
        (i for i, (a, b) in enumerate(zip(content, keep, strict=False)) if a != b), min(len(content), len(keep))
    )
    del call.tokens[call.content_begin + same :]
    cache.truncate(call.span.node, 1 + same)  # the last token of the header stands before the content
    del call.logprobs[same:]
    call.tokens.extend(keep[same:])
    call.logprobs.extend([math.nan] * (len(keep) - same))  # nobody asked the model about these
    if call.top:
        call.top[same:] = [Top()] * (len(keep) - same)
    call.content_end = len(call.tokens)
    cache.append(call.span.node, keep[same:], call)


def restart(cache: GraphCache, call: Call) -> None:
    """Another attempt at the content, with a seed of its own that follows from the one before."""
    assert call.span is not None
    cut_content(cache, call, ())
    cache.rewind(call.span.node, 0, call)  # to the last row of the header: there the content begins
    call.generated = 0
    call.edits = call.matcher = call.attention = None
    call.attempt += 1
    call.seed = int.from_bytes(blake2b(call.seed.to_bytes(8, "little"), digest_size=8).digest(), "little")


def seal(cache: GraphCache, call: Call, finish: Finish) -> None:
    """The tokens are final: the trailer follows, and the branch may be found."""
    decode, span = call.spec.decode, call.span
    assert decode is not None
    assert span is not None
    call.finish = finish
    call.tokens.extend(decode.trailer)
    call.trailer = len(decode.trailer)
    if decode.trailer:
        cache.append(span.node, decode.trailer, call)
    call.sealed = True
    call.edits = None
    cache.trim(span.node)
    call.span = cache.seal(span, call.needs)
