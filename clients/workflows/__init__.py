"""Workflows as short functions on the public client. Each module is the tutorial of its pattern.

kind = WORKFLOWS["tree-of-thoughts"]
outcome = await kind.run(client, kind.sample_problems()[0], kind.small(), Setting())
again = await kind.run(client, ..., Setting(fidelity="exact", script=outcome.script()))  # the same tokens
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pavane.clients.workflows import (
    branch_solve_merge,
    coarse_to_fine,
    debate,
    iterative_debate,
    multi_question,
    prisoners,
    rag_team,
    tree_of_thoughts,
)
from pavane.clients.workflows.kind import Kind
from pavane.clients.workflows.outcome import Outcome
from pavane.clients.workflows.run import Follow
from pavane.clients.workflows.setting import Prompts, Script, Setting

_KINDS: tuple[Kind[Any, Any], ...] = (
    tree_of_thoughts.KIND,
    iterative_debate.KIND,
    debate.KIND,
    branch_solve_merge.KIND,
    multi_question.KIND,
    prisoners.KIND,
    coarse_to_fine.KIND,
    rag_team.KIND,
)
WORKFLOWS: Mapping[str, Kind[Any, Any]] = {kind.name: kind for kind in _KINDS}

__all__ = ["WORKFLOWS", "Follow", "Kind", "Outcome", "Prompts", "Script", "Setting"]
