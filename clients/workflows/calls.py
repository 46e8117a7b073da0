"""Calls of a workflow, each with the setting applied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar, Unpack

from pavane.clients.calls import DecodeOptions, PrefillOptions
from pavane.clients.edges import Parent
from pavane.clients.sampling import derived_seed
from pavane.clients.workflows.prompts import check_prompts, fill
from pavane.clients.workflows.setting import Prompts, Setting

Handle = TypeVar("Handle", bound=Parent)
Made = TypeVar("Made", covariant=True)


class Caller(Protocol[Made]):
    """What takes calls and gives handles for them: a Workflow, or a Draft to plan with."""

    def prefill(self, *parents: str | Parent, **options: Unpack[PrefillOptions]) -> Made: ...

    def decode(self, *parents: str | Parent, **options: Unpack[DecodeOptions]) -> Made: ...


class Calls(Generic[Handle]):
    """Puts a workflow's calls into `to`; `own` are its prompts unless the setting has others. Raises ValueError."""

    def __init__(self, to: Caller[Handle], setting: Setting, own: Prompts) -> None:
        self._to = to
        self.setting = setting
        self._prompts = check_prompts(setting.prompts, own)

    def expects(self, id: str) -> bool:
        """Whether a run of the setting's script has this answer; True without a script."""
        return self.setting.script is None or id in self.setting.script

    def prefill(self, id: str, *parents: Parent, prompt: str | None = None, **values: object) -> Handle:
        """A prompt with its placeholders filled in, behind `parents`: the user turn `prompt` (default: as `id`), after
        the system turn `prompt`_system; a workflow may have only one of the two."""
        name = prompt or id
        options: PrefillOptions = {"id": id, "fidelity": self.setting.fidelity, "layout": self.setting.layout}
        if (system := self._prompts.get(f"{name}_system")) is not None:
            options["system"] = fill(system, **values)
        if (user := self._prompts.get(name)) is not None:
            options["user"] = fill(user, **values)
        return self._sent(self._to.prefill(*parents, **options))

    def decode(
        self,
        id: str,
        *parents: Parent,
        max_tokens: int,
        prefix: str = "",
        regex: str | None = None,
        json_schema: Mapping[str, object] | None = None,
    ) -> Handle:
        """An answer that sees `parents`. It has a seed of its own, which depends on its id and the setting's alone."""
        setting = self.setting
        options: DecodeOptions = {
            "id": id,
            "fidelity": setting.fidelity,
            "layout": setting.layout,
            "prefix": prefix,
            "temperature": setting.temperature,
            "seed": derived_seed(setting.seed, id),
        }
        content = self._scripted(id, max_tokens) if setting.script is not None else None
        if content:
            options["forced"] = content
        elif content is not None:  # it was nothing but its end of turn: no text but the empty one is allowed
            options["regex"] = ""
        else:
            options["max_tokens"] = max_tokens
            options["ignore_eos"] = setting.equal_lengths
            options["regex"] = regex
            options["json_schema"] = json_schema
        return self._sent(self._to.decode(*parents, **options))

    def _sent(self, handle: Handle) -> Handle:
        return handle

    def _scripted(self, id: str, max_tokens: int) -> list[int]:
        assert self.setting.script is not None
        content = self.setting.script.get(id)
        if content is None:
            raise ValueError(f"the script has no answer {id!r}: it was recorded with other sizes, or another workflow")
        if len(content) > max_tokens:
            raise ValueError(f"the script's answer {id!r} has {len(content)} tokens, {max_tokens} are allowed")
        return list(content)
