"""From calls of a trace to what the scheduler takes: tokens that no two messages share, lengths that are decided."""

from __future__ import annotations

import numpy as np

from pavane.bench.trace import TraceCall
from pavane.bench.trace_mix import GroupRow
from pavane.kernels.batch import Samples
from pavane.scheduler.spec import CallSpec, DecodeSpec, GroupSpec, ParentSpec

VOCABULARY = 50_000
END, NEWLINE = 2, 198
TRAILER = (END, NEWLINE)
FIRST, ORDINARY = 1000, 40_000  # tokens that texts and answers consist of
_LENGTH_BITS = 32
_TEXT: list[int] = np.random.Generator(np.random.PCG64(0)).integers(FIRST, FIRST + ORDINARY, 1 << 16).tolist()


class Speller:
    """Makes CallSpecs. The text of every message is different from its first token on, so that nothing is shared but
    what the graph shares; all headers begin alike, as turns of a model do."""

    def __init__(self) -> None:
        self._messages = 0

    def spec(self, call: TraceCall) -> CallSpec:
        self._messages += 1
        parents = tuple(map(ParentSpec, call.parents))
        digest = self._messages.to_bytes(8, "big")
        if call.prefill:
            return CallSpec(call.id, digest, tokens=self._text(call.prefill), parents=parents)
        decode = DecodeSpec(
            seed=(self._messages << _LENGTH_BITS) + call.decode,
            max_tokens=call.max_tokens,
            end_ids=frozenset((END,)),
            trailer=TRAILER,
        )
        return CallSpec(call.id, digest, tokens=_header(call.header), decode=decode, parents=parents)

    def group(self, group: GroupRow) -> GroupSpec:
        return GroupSpec(group.id, group.id.encode(), group.members, group.need, cancel_rest=True)

    def _text(self, count: int) -> tuple[int, ...]:
        n = self._messages
        first = (FIRST + n % ORDINARY, FIRST + n // ORDINARY)[:count]
        at = n * 7919 % len(_TEXT)
        text = _TEXT[at : at + count - len(first)]
        while len(first) + len(text) < count:
            text += _TEXT[: count - len(first) - len(text)]
        return (*first, *text)


def _header(count: int) -> tuple[int, ...]:
    return tuple(range(100, 100 + count))


def answer(samples: Samples) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """The token of each sample [count]: the end of the turn after as many tokens as the trace says, which the seed has
    in its lower bits; before that, tokens that depend on call and place alone."""
    count = samples.count
    seeds, index = samples.seeds[:count], samples.counters[:count].astype(np.uint64)
    lengths = seeds & np.uint64((1 << _LENGTH_BITS) - 1)
    words = FIRST + (seeds * np.uint64(31) + index * np.uint64(7919) + (seeds >> np.uint64(32))) % np.uint64(ORDINARY)
    tokens: np.ndarray[tuple[int], np.dtype[np.int32]] = np.where(index >= lengths, END, words).astype(np.int32)
    return tokens
