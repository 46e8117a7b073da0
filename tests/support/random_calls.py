"""Calls and groups drawn at random: few different texts, so that much is equal or begins equally, and often the same
parents in the same places."""

from __future__ import annotations

import random
from collections.abc import Container
from dataclasses import dataclass, field, replace
from typing import Any

from pavane.scheduler.spec import CallSpec, GroupSpec, ParentSpec, Retention
from support.harness import decode, digest, prefill

TEXTS = [[3, 4, 5, 6, 7, 3, 3, 4, 9], [3, 4, 5, 5, 5, 5, 5, 5, 5], [8, 3, 4, 5, 6, 7, 3, 3, 4]]


@dataclass
class RandomCalls:
    """`calm`: nothing that may end a call before it is done. `chatty`: long answers and little else."""

    rng: random.Random
    calm: bool
    chatty: bool
    named: int = 0
    _before: list[list[ParentSpec]] = field(default_factory=list)  # edges of earlier calls

    def tokens(self, most: int = 9) -> list[int]:
        return self.rng.choice(TEXTS)[: self.rng.randint(1, most)]

    def spec(self, known: list[str], groups: Container[str]) -> CallSpec:
        """A new call that reads some of `known`, of which `groups` are."""
        rng = self.rng
        pin, readers = rng.random() < 0.1, rng.choice([0, 0, 2])
        ttl = float(rng.randint(1, 30)) if rng.random() < 0.05 and not self.calm else None
        return replace(self._call(known, groups), retention=Retention(pin, ttl, readers))

    def group(self, messages: list[str]) -> GroupSpec | None:
        if not messages or self.rng.random() > 0.15:
            return None
        self.named += 1
        recent = messages[-8:]
        members = tuple(self.rng.sample(recent, min(len(recent), self.rng.choice([1, 2, 3, 5]))))
        need, rest = self.rng.randint(1, len(members)), self.rng.random() < 0.5 and not self.calm
        return GroupSpec(f"g{self.named}", digest(self.named, members, need), members, need, rest)

    def _call(self, known: list[str], groups: Container[str]) -> CallSpec:
        rng = self.rng
        self.named += 1
        name, edges = f"m{self.named}", self._edges(known, groups)
        fields: dict[str, Any] = {
            "start": rng.randrange(70) if rng.random() < 0.1 else None,
            "timeout": float(rng.randint(1, 40)) if rng.random() < 0.06 and not self.calm else None,
        }
        kind = rng.random() if not self.chatty else 0.6 + 0.4 * rng.random()
        if kind < 0.35:
            return prefill(name, self.tokens(), *edges, exact=rng.random() < 0.3, **fields)
        messages = [i for i in known if i not in groups]
        if kind < 0.45 and messages:
            return prefill(name, [], *edges, copy_of=rng.choice(messages), exact=rng.random() < 0.3, **fields)
        fields["trailer"] = rng.choice([(), (), (1, 2)])
        if kind < 0.7:
            one_pass = rng.random() < 0.6 and not self.chatty
            fields |= {"forced": tuple(self.tokens()), "one_pass": one_pass, "logprobs": rng.random() < 0.5}
            return decode(name, self.tokens(4), *edges, **fields)
        answer = decode(
            name,
            self.tokens(4),
            *edges,
            seed=rng.randrange(3),
            max_tokens=rng.choice([1, 2, 5, 20, 45]),
            end_ids=frozenset(rng.sample(range(3, 97), rng.choice([0, 10]))),
            stop_ids=frozenset(rng.sample(range(3, 97), rng.choice([0, 4]))),
            # The runner takes no notice of these, but they are kept up to date.
            repetition_penalty=rng.choice([1.0, 1.0, 1.3]) if not self.chatty else 1.0,
            frequency_penalty=rng.choice([0.0, 0.0, 0.5]) if not self.chatty else 0.0,
            logprobs=rng.choice([0, 1, 3]),
            **fields,
        )
        return replace(answer, max_attempts=rng.choice([1, 1, 3]))

    def _edges(self, known: list[str], groups: Container[str]) -> list[ParentSpec]:
        rng = self.rng
        again = [edges for edges in self._before[-6:] if all(edge.id in known for edge in edges)]
        if again and rng.random() < 0.3:
            return [replace(edge, last_use=False) for edge in rng.choice(again)]
        recent = known[-12:]
        names = rng.sample(recent, min(len(recent), rng.choice([0, 0, 1, 1, 2, 3, 4])))
        names = [name for name in names if name not in groups or rng.random() < 0.7]
        chat, all_exact = rng.random() < 0.4, rng.random() < 0.2
        edges = []
        for parent in sorted(names, key=known.index) if chat else names:
            place = "packed" if chat else rng.choice(["packed", "packed", "offset", "as_encoded"])
            edges.append(
                ParentSpec(
                    parent,
                    offset=rng.randrange(60) if place == "offset" else None,
                    as_encoded=place == "as_encoded",
                    exact=all_exact or rng.random() < 0.2,
                    last_use=rng.random() < 0.04,
                )
            )
        self._before.append(edges)
        return edges
