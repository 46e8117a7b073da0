"""What is known of a workflow by its name."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from pavane.clients.client import Client
from pavane.clients.workflows.calls import Calls
from pavane.clients.workflows.outcome import Outcome
from pavane.clients.workflows.problem import Problem
from pavane.clients.workflows.run import Follow
from pavane.clients.workflows.setting import Prompts, Setting
from pavane.clients.workflows.sizes import Sizes

P = TypeVar("P", bound=Problem)
S = TypeVar("S", bound=Sizes)
P_contra = TypeVar("P_contra", bound=Problem, contravariant=True)
S_contra = TypeVar("S_contra", bound=Sizes, contravariant=True)


class RunWorkflow(Protocol[P_contra, S_contra]):
    """A workflow's function. Raises PavaneError, and ValueError or TypeError for what is wrong with its arguments."""

    def __call__(
        self, client: Client, problem: P_contra, sizes: S_contra, setting: Setting, follow: Follow | None = None
    ) -> Awaitable[Outcome]: ...


@dataclass(frozen=True)
class Kind(Generic[P, S]):
    """`sizes()` are the defaults, `small()` those for a small model on two cores; `prompts` the workflow's own.
    `submit` puts the whole graph into calls, such as those of a draft; None where the client decides on the way."""

    name: str
    about: str
    problem: type[P]
    sizes: type[S]
    small: Callable[[], S]
    prompts: Prompts
    run: RunWorkflow[P, S]
    samples: tuple[P, ...]
    submit: Callable[[Calls[Any], P, S], object] | None = None

    @property
    def tutorial(self) -> str:
        """The graph and what is worth knowing of it: what the workflow's module says."""
        return inspect.getdoc(inspect.getmodule(self.run)) or ""

    def sample_problems(self) -> tuple[P, ...]:
        """A few problems of our own."""
        return self.samples
