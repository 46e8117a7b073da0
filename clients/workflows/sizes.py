"""How large a workflow is: fields with bounds and words, from which a command line makes its flags."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any

from pavane.clients.checks import integer

MOST_TOKENS = 2**31 - 1


def count(default: int, about: str, *, least: int = 1, most: int = 1000) -> Any:
    """A field for a number of agents, rounds, documents ..."""
    return field(default=default, metadata={"about": about, "least": least, "most": most})


def tokens(default: int, about: str, *, least: int = 1) -> Any:
    """A field for the most tokens of an answer."""
    return field(default=default, metadata={"about": about, "least": least, "most": MOST_TOKENS})


@dataclass(frozen=True)
class Sizes(ABC):
    """The base of each workflow's sizes. Raises ValueError or TypeError that names the field."""

    def __post_init__(self) -> None:
        for one in fields(self):
            integer(one.name, getattr(self, one.name), one.metadata["most"], one.metadata["least"])

    @abstractmethod
    def longest(self) -> int:
        """Tokens of answers, at most, that the call with the longest context reads and writes."""
