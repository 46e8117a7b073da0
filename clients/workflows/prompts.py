"""Prompts by name: texts with {placeholders}, the workflow's own or from a file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from pavane.clients.workflows.setting import Prompts

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def fill(text: str, **values: object) -> str:
    """Puts values in place of their placeholders; all other braces stay as they are."""
    return _PLACEHOLDER.sub(lambda match: str(values[match[1]]) if match[1] in values else match[0], text)


def check_prompts(given: Prompts, own: Prompts) -> Prompts:
    """The prompts to use: `given`, or the workflow's `own` if none are. Raises ValueError for names or placeholders
    that differ: prompts of two kinds mixed by accident would be hard to notice."""
    if not given:
        return own
    for name in given:
        if name not in own:
            raise ValueError(f"there is no prompt {name!r}; this workflow has {', '.join(own)}")
    for name, text in own.items():
        if name not in given:
            raise ValueError(f"the prompt {name!r} is missing; give all of {', '.join(own)}")
        if not isinstance(given[name], str):
            raise TypeError(f"the prompt {name!r} must be a string, not {given[name]!r}")
        for placeholder in dict.fromkeys(_PLACEHOLDER.findall(text)):
            if f"{{{placeholder}}}" not in given[name]:
                raise ValueError(
                    f"the prompt {name!r} lacks the placeholder {{{placeholder}}}; put it where it belongs"
                )
    return given


def load_prompts(path: Path, own: Prompts) -> Prompts:
    """All prompts of a workflow from a TOML file of name = "text". Raises ValueError that names the file."""
    try:
        with path.open("rb") as file:
            given = tomllib.load(file)
        if not given:
            raise ValueError(f"no prompts in it; give all of {', '.join(own)}")
        return check_prompts(given, own)
    except (OSError, ValueError, TypeError) as error:  # what is no TOML is a ValueError too
        raise ValueError(f"{path}: {error}") from error


def dump_prompts(prompts: Prompts) -> str:
    """The file that `load_prompts` reads: to begin from when writing one's own."""
    return "\n".join(f'{name} = """\n{_escaped(text)}"""\n' for name, text in prompts.items())


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
