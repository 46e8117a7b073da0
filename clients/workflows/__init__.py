"""Workflows as short functions on the public client. Each module is the tutorial of its pattern.

kind = WORKFLOWS["tree-of-thoughts"]
outcome = await kind.run(client, kind.sample_problems()[0], kind.small(), Setting())
again = await kind.run(client, ..., Setting(fidelity="exact", script=outcome.script()))  # the same tokens
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pavane.clients.workflows import (
    debate,
    multi_question,
    rag_team,
    tree_of_thoughts,
)
from pavane.clients.workflows.kind import Kind
from pavane.clients.workflows.outcome import Outcome
from pavane.clients.workflows.run import Follow
from pavane.clients.workflows.setting import Prompts, Script, Setting

WORKFLOWS: Mapping[str, Kind[Any, Any]] = {
    kind.name: kind for kind in (tree_of_thoughts.KIND, debate.KIND, multi_question.KIND, rag_team.KIND)
}

__all__ = ["WORKFLOWS", "Follow", "Kind", "Outcome", "Prompts", "Script", "Setting"]
