"""Choosing the chat format of a model by rendering its template on probe conversations."""

from pathlib import Path

from pavane.models.errors import ModelError
from pavane.models.tokenizer_spec import TokenizerSpec
from pavane.server.text.chat_file import layout_from_file
from pavane.server.text.chat_format import ChatFormat
from pavane.server.text.chat_layout import FAMILIES, Layout
from pavane.server.text.chat_probe import examined
from pavane.server.text.chat_template import ChatTemplate
from pavane.server.text.tokenizer import Tokenizer

CHAT_FORMATS = tuple(FAMILIES)


def choose_chat_format(spec: TokenizerSpec, tokenizer: Tokenizer, name: str = "auto") -> ChatFormat:
    """The chat format of a model, with a report of where it differs from the model's template.

    Args:
        name: one of `CHAT_FORMATS`, the path of a JSON file that describes one (see `chat_file`), or "auto": the one
            whose user and assistant turns are the template's. Of a family's variants the one that differs least.

    Raises:
        ModelError: no format, or not the named one, fits the model; the text says what to do.
    """
    template = _template(spec, tokenizer)
    if name != "auto":
        named = [examined(layout, spec, tokenizer, template) for layout in _named(name, tokenizer)]
        return min(named, key=lambda found: (not found.fits, found.differences)).chat
    if template is None:
        raise ModelError(
            f"the model has no chat template: name its format (--chat-format {' or '.join(CHAT_FORMATS)}, or a file), "
            "or choose a model made for chat"
        )
    layouts = [layout for family in FAMILIES.values() for layout in family if _spelt(layout, tokenizer)]
    candidates = [layout for layout in layouts if layout.mentions in (spec.chat_template or "")]
    fitting = [found for found in (examined(one, spec, tokenizer, template) for one in candidates) if found.fits]
    if not fitting:
        raise ModelError(
            f"the model's chat template is none of {', '.join(CHAT_FORMATS)}: choose a model that uses one of them, or "
            "name the one to use instead, or a file that describes it (--chat-format); the server info then says where "
            "it differs from the template"
        )
    return min(fitting, key=lambda found: (found.differences, not found.layout.mentions)).chat


def _named(name: str, tokenizer: Tokenizer) -> list[Layout]:
    if name in FAMILIES:
        family = FAMILIES[name]
        return [layout for layout in family if _spelt(layout, tokenizer)] or [family[0]]
    if name.endswith(".json"):
        return [layout_from_file(Path(name))]
    raise ModelError(
        f"there is no chat format {name!r}: use auto, one of {', '.join(CHAT_FORMATS)}, or a JSON file that describes "
        "one (its path ends in .json)"
    )


def _spelt(layout: Layout, tokenizer: Tokenizer) -> bool:
    return all(tokenizer.control_id(token) is not None for token in layout.control)


def _template(spec: TokenizerSpec, tokenizer: Tokenizer) -> ChatTemplate | None:
    if spec.chat_template is None:
        return None
    return ChatTemplate(
        spec.chat_template, bos_token=tokenizer.spelling(spec.bos_id), eos_token=tokenizer.spelling(spec.eos_id)
    )
