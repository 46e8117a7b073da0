"""How much work is left: of a call, with what waits for it, of its workflow. The unit is one token of a prompt."""

from __future__ import annotations

from pavane.scheduler.calls import Call

DECODED = 16.0  # a generated token costs a step of its own; in prompts, tokens share one
PRIOR, PRIOR_WEIGHT = 0.6, 8.0  # of max_tokens is generated, until it is known better
MOST_UPDATES = 64  # ancestors that one new call may change


class Estimates:
    """Lengths are guessed from max_tokens, times what was observed of it: one mean per tenant and magnitude."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], tuple[float, float]] = {}  # sum of the parts, and their number

    def length(self, namespace: str, max_tokens: int) -> float:
        total, count = self._seen.get((namespace, max_tokens.bit_length()), (0.0, 0.0))
        return max_tokens * (PRIOR * PRIOR_WEIGHT + total) / (PRIOR_WEIGHT + count)

    def known_length(self, namespace: str, max_tokens: int) -> float:
        """By what was seen alone; 0 until that is enough."""
        total, count = self._seen.get((namespace, max_tokens.bit_length()), (0.0, 0.0))
        return max_tokens * total / count if count >= PRIOR_WEIGHT else 0.0

    def observe(self, call: Call) -> None:
        """The call has ended well."""
        if call.max_tokens and call.spec.decode is not None and not call.spec.decode.forced:
            key = call.workflow.namespace, call.max_tokens.bit_length()
            total, count = self._seen.get(key, (0.0, 0.0))
            keep = 1.0 if count < 256 else 255 / 256  # later ones count more, slowly
            self._seen[key] = total * keep + call.generated / call.max_tokens, count * keep + 1.0

    def work(self, call: Call, limit: int) -> float:
        """Of the call alone; `limit` stands for a max_tokens that is not given."""
        decode = call.spec.decode
        if decode is None:
            return 0.0 if call.spec.lazy else float(len(call.spec.tokens))
        exact = len(decode.forced)
        tokens = exact or self.length(call.workflow.namespace, min(decode.max_tokens or limit, limit))
        return len(call.spec.tokens) + DECODED * tokens

    def link(self, call: Call, limit: int) -> list[Call]:
        """A new call: its workflow has more to do, and those above it a longer chain below them. Returns these."""
        call.work = self.work(call, limit)
        call.chain = _length(call)
        _add(call, call.work)
        longer = [call]
        changed: list[Call] = []
        while longer:
            below = longer.pop()
            members = (member for group in below.groups if group.open for member in group.members)
            for parent in (*below.parents, *members):
                chain = _length(parent) + below.chain
                if not parent.state.ended and chain > parent.chain:
                    if len(changed) == MOST_UPDATES:
                        return changed
                    changed.append(parent)
                    parent.chain = chain
                    longer.append(parent)
        return changed

    def waits_again(self, call: Call) -> None:
        """What a running call has generated is not left to do; nothing unfinished is above it."""
        if call.spec.decode is not None and call.generated:
            expected = len(call.spec.decode.forced) or self.length(call.workflow.namespace, call.max_tokens)
            done = call.work - DECODED * max(1.0, expected - call.generated)
            call.work -= done
            call.chain -= done
            _add(call, -done)

    def unlink(self, call: Call) -> None:
        """The call has ended."""
        _add(call, -call.work)


def _add(call: Call, work: float) -> None:
    """To what its workflow and its tenant have left to do; sums of many numbers that are not whole may end below 0."""
    workflow, tenant = call.workflow, call.workflow.tenant
    workflow.work = max(0.0, workflow.work + work)
    tenant.asked = max(0.0, tenant.asked + work)


def _length(call: Call) -> float:
    """Of the call in a chain. A text comes right after calls as urgent as those that read it: so texts are encoded when
    the turn of their readers comes, and do not all wait for them in slots."""
    return call.work if call.spec.decode is not None else -1.0
