"""Workflows that contend for a small pool: texts, what was written beside them, and answers that read it later."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.scheduler import POLICIES
from pavane.scheduler.spec import CallSpec, Outcome, ParentSpec
from support.fingerprint import FingerprintRunner
from support.harness import Harness, decode, prefill

CALLS = 6  # of a workflow


@dataclass
class World:
    """A server and what is asked of it. Ids say the workflow."""

    rng: random.Random
    slots: int = 0
    fields: dict[str, object] = field(default_factory=dict)
    calls: dict[str, list[CallSpec]] = field(default_factory=dict)  # by workflow

    def __post_init__(self) -> None:
        rng = self.rng
        self.slots = rng.choice([50, 70, 100])
        self.fields = {
            "bos_id": rng.choice([None, 0]),
            "max_running": rng.choice([2, 4, 8]),
            "token_budget": rng.choice([8, 40, 200]),
            "policy": rng.choice(POLICIES),
        }
        for name in ("u", "v", "w"):
            self.calls[name] = calls = []
            for i in range(CALLS):
                calls.append(self._call(f"{name}{i}", [call.id for call in calls]))

    def _call(self, name: str, known: list[str]) -> CallSpec:
        rng, first = self.rng, 3 + 7 * self.rng.randrange(13)
        parents = rng.sample(known, min(len(known), rng.choice([0, 1, 1, 2, 2, 3])))
        edges = [ParentSpec(parent, exact=rng.random() < 0.3) for parent in parents]
        length = rng.randint(1, self.slots // 6 if parents else self.slots // 2)
        text = [first + i % 6 for i in range(length)]
        if parents and rng.random() < 0.6:
            return decode(name, text[:4], *edges, max_tokens=rng.randint(1, 12), seed=rng.randrange(9), trailer=())
        return prefill(name, text, *edges)

    def harness(self, check: bool) -> Harness:
        h = Harness(FingerprintRunner(self.slots), self.slots, check=check, **self.fields)  # type: ignore[arg-type]
        for name in self.calls:
            h.scheduler.open("", name, 0, 1e9, h.now)
        return h

    def together(self) -> dict[str, Outcome | None]:
        """All calls, one after the other of each workflow, while KV is dropped at any time; None for what is refused at
        once."""
        h, rng = self.harness(True), self.rng
        left = {name: list(calls) for name, calls in self.calls.items()}
        while any(left.values()):
            name = rng.choice([name for name in left if left[name]])
            submit(h, name, left[name].pop(0))
            for _ in range(rng.choice([0, 0, 1, 5, 20])):
                h.step()
                if rng.random() < 0.2:
                    h.cache.evict(rng.choice([5, 1000]))
        h.run()
        return {call.id: h.ended.get(call.id) for calls in self.calls.values() for call in calls}

    def alone(self, workflow: str, message: str) -> Outcome:
        """The call, and what it depends on, in a server of its own."""
        wanted, chosen = {message}, []
        for call in reversed(self.calls[workflow]):
            if call.id in wanted:
                wanted.update(edge.id for edge in call.parents)
                chosen.append(call)
        h = self.harness(False)
        for call in reversed(chosen):
            submit(h, workflow, call)
        h.run()
        return h.ended[message]


def submit(h: Harness, workflow: str, call: CallSpec) -> None:
    """Unless it is refused at once: it is too long for the pool, or a parent was."""
    try:
        h.submit(call, workflow=workflow)
    except RequestError as error:
        if error.reason not in (Reason.NEVER_FITS, Reason.UNKNOWN_MESSAGE):
            raise
