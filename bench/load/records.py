"""What a load's client has seen: latencies by tenant and kind, tokens by class, how every call ended."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pavane.clients import Receipt

CLASSES = ("reused_in_place", "repositioned", "encoded", "generated", "trailer", "reencoded")
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
FEW_DEFECTS = 20  # of which the words are kept


def percentile(values: Iterable[float], percent: float) -> float:
    """Nearest rank of a sample: the smallest value that at least `percent` % of them do not exceed; nan if empty."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else math.nan


@dataclass
class Latencies:
    """Seconds. `workflow`: from when one was due to its last call's end. `first_token`: from when all that a call
    reads was written (nothing: from when its workflow was due) to its first token. `gap`: between two arrivals."""

    workflow: array[float] = field(default_factory=lambda: array("d"))
    first_token: array[float] = field(default_factory=lambda: array("d"))
    gap: array[float] = field(default_factory=lambda: array("d"))


@dataclass
class Records:
    """Everything is counted in calls but `begun`, `ended` and `given_up`, which are workflows.

    `done` and `failed` were acknowledged by the server, `withdrawn` were open when we closed their workflows, `refused`
    were not taken, or their connection was lost.
    """

    latencies: dict[tuple[str, str], Latencies] = field(default_factory=dict)  # (tenant, kind)
    begun: int = 0
    ended: int = 0
    given_up: int = 0  # open when the run was over, and closed by us
    done: int = 0
    failed: Counter[str] = field(default_factory=Counter)  # by reason
    refused: Counter[str] = field(default_factory=Counter)
    withdrawn: int = 0
    tokens: int = 0  # generated ones that have arrived
    spent: Counter[str] = field(default_factory=Counter)  # tokens by class, of receipts
    defects: list[str] = field(default_factory=list)
    more_defects: int = 0
    lag: array[float] = field(default_factory=lambda: array("d"))  # seconds that workflows were sent too late
    stalls: array[float] = field(default_factory=lambda: array("d"))  # of our own event loop

    def of(self, tenant: str, kind: str) -> Latencies:
        return self.latencies.setdefault((tenant, kind), Latencies())

    @property
    def open(self) -> int:
        return self.begun - self.ended - self.given_up

    @property
    def errors(self) -> int:
        return self.failed.total() + self.refused.total()

    def add_receipt(self, receipt: Receipt) -> None:
        for name in CLASSES:
            self.spent[name] += getattr(receipt, name)

    def defect(self, text: str) -> None:
        """Something that must not be, whatever the load."""
        if len(self.defects) < FEW_DEFECTS:
            self.defects.append(text)
        else:
            self.more_defects += 1

    def merged(self, name: str, tenant: str | None = None, kind: str | None = None) -> Sequence[float]:
        """All values of one latency, of one tenant or kind if given."""
        out = array("d")
        for (its_tenant, its_kind), latencies in self.latencies.items():
            if tenant in (None, its_tenant) and kind in (None, its_kind):
                out.extend(getattr(latencies, name))
        return out
