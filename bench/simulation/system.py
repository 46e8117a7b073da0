"""What is simulated: a scheduler over a cache, with its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from pavane.bench.simulation.tokens import VOCABULARY
from pavane.cache import GraphCache
from pavane.scheduler.graph import Limits
from pavane.scheduler.scheduler import Scheduler
from pavane.scheduler.tenants import BURST, Tenants
from pavane.scheduler.text import ConstraintState, StopMatcher

Eviction = Literal["graph", "lru"]
ENOUGH_SLOTS = 1 << 24
ENOUGH_CALLS = 1 << 24


@dataclass(frozen=True, slots=True)
class System:
    """Settings of the server, named as its flags."""

    num_slots: int = ENOUGH_SLOTS
    max_num_seqs: int = 16
    max_num_batched_tokens: int = 512
    max_model_len: int = 65_536
    policy: str = "graph"
    eviction: Eviction = "graph"
    burst: float = BURST  # of tenants, in units of work
    load_control: bool = True
    priorities: Mapping[str, int] = field(default_factory=dict)  # of a tenant's workflows, where not 0

    def cache(self) -> GraphCache:
        return GraphCache(self.num_slots, eviction=self.eviction)

    def scheduler(self) -> Scheduler:
        return Scheduler(
            self.cache(),
            Limits(self.max_model_len, self.num_slots, VOCABULARY, max_unfinished=ENOUGH_CALLS),
            NoText(),
            max_running=self.max_num_seqs,
            token_budget=self.max_num_batched_tokens,
            policy=self.policy,
            tenants=Tenants(burst=self.burst),
            load_control=self.load_control,
        )


class NoText:
    """Traces have neither stop strings nor constraints."""

    def matcher(self, stop: tuple[str, ...], beginning: str) -> StopMatcher:
        _no_text()

    def masks(self, states: Sequence[ConstraintState]) -> tuple[NoReturn, Callable[[], None]]:
        _no_text()


def _no_text() -> NoReturn:
    raise AssertionError("a call of a trace has stop strings or a constraint")
