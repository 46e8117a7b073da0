"""The content of a decode as it is generated: a token more, a cut, the end."""

from __future__ import annotations

import math

from pavane.cache import GraphCache
from pavane.scheduler.calls import Call
from pavane.scheduler.spec import Finish


def append(cache: GraphCache, call: Call, token: int, logprob: float) -> None:
    """One more token, which the next step encodes."""
    assert call.span is not None
    call.generated += 1
    call.tokens.append(token)
    call.content_end += 1
    call.logprobs.append(logprob)
    cache.append(call.span.node, [token], call)


def cut_content(cache: GraphCache, call: Call, keep: tuple[int, ...]) -> None:
    """Replaces the content by `keep`. What of it is encoded already stays as far as the tokens are the same."""
    assert call.span is not None
    content = call.tokens[call.content_begin :].tolist()
    same = next(
        (i for i, (a, b) in enumerate(zip(content, keep, strict=False)) if a != b), min(len(content), len(keep))
    )
    del call.tokens[call.content_begin + same :]
    cache.truncate(call.span.node, call.content_begin + same)
    del call.logprobs[same:]
    call.tokens.extend(keep[same:])
    call.logprobs.extend([math.nan] * (len(keep) - same))  # nobody asked the model about these
    call.content_end = len(call.tokens)
    cache.append(call.span.node, keep[same:], call)


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
    cache.trim(span.node)
    call.span = cache.seal(span, call.needs)
