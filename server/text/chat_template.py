"""The model's own chat template (Jinja), rendered in a sandbox."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Never

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pavane.models.errors import ModelError


class TemplateRefusedError(Exception):
    """The template raised an error for this conversation; the text is the template's."""


class ChatTemplate:
    """A template with the variables and functions that published templates expect."""

    def __init__(self, source: str, *, bos_token: str, eos_token: str) -> None:
        """Compile the template. Raises ModelError if it is no valid Jinja."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ModelError(f"tokenizer.chat_template is no valid Jinja ({error}); convert the model again") from error

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        """The text of a conversation of {"role", "content"} messages. Raises TemplateRefusedError."""
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self._tokens,
            )
        # A template is a program: besides TemplateError it may raise what any expression in it raises.
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise TemplateRefusedError(str(error)) from error


class _Generation(Extension):
    """`{% generation %}` marks, for training, what the model wrote; rendered, it is what it encloses."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> Never:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
