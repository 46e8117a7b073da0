"""Choosing the chat format of a model by rendering its template on probe conversations."""

from dataclasses import dataclass, replace
from pathlib import Path

from pavane.models.errors import ModelError
from pavane.models.tokenizer_spec import TokenizerSpec
from pavane.server.text.chat_file import layout_from_file
from pavane.server.text.chat_format import ChatFormat, Turn, bare_format
from pavane.server.text.chat_layout import FAMILIES, Layout
from pavane.server.text.chat_template import ChatTemplate, TemplateRefusedError
from pavane.server.text.tokenizer import Tokenizer

CHAT_FORMATS = tuple(FAMILIES)


@dataclass(frozen=True)
class _Probe:
    """A conversation, and what it tries."""

    about: str
    turns: tuple[tuple[str, str], ...]
    generation: bool = True


_ROLES = ("system", "user", "assistant")
_SYSTEM = ("system", "Be brief.")
_CHAT = (("user", "2+2?"), ("assistant", "4"), ("user", "And 3+3?"))
_PROBES = (
    _Probe("a chat of several turns", (_SYSTEM, *_CHAT)),
    _Probe("a system message alone", (_SYSTEM,)),
    _Probe("a finished chat", (_SYSTEM, ("user", "Hi"), ("assistant", "Hello")), generation=False),
    _Probe("no system message", (("user", "Hi"),)),
    _Probe("white space around a text", (_SYSTEM, ("user", "\n\n  Hi \n"), ("assistant", "  Hello\n"), ("user", "!"))),
    _Probe("empty texts", (("system", ""), ("user", ""), ("assistant", ""), ("user", "Hi"))),
    _Probe("two user turns in a row", (_SYSTEM, ("user", "Hi"), ("user", "there"))),
    _Probe("two assistant turns in a row", (_SYSTEM, ("user", "Hi"), ("assistant", "A"), ("assistant", "B"))),
    _Probe("a system message later on", (_SYSTEM, ("user", "Hi"), ("system", "Be kind."), ("user", "Hi"))),
    _Probe(
        "thinking in an earlier turn",
        (_SYSTEM, ("user", "Hi"), ("assistant", "<think>\nhm\n</think>\n\nHello"), ("user", "Bye")),
    ),
)


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
        examined = [_examined(layout, spec, tokenizer, template) for layout in _named(name, tokenizer)]
        return min(examined, key=lambda found: (not found.fits, found.differences)).chat
    if template is None:
        raise ModelError(
            f"the model has no chat template: name its format (--chat-format {' or '.join(CHAT_FORMATS)}, or a file), "
            "or choose a model made for chat"
        )
    layouts = [layout for family in FAMILIES.values() for layout in family if _spelt(layout, tokenizer)]
    candidates = [layout for layout in layouts if layout.mentions in (spec.chat_template or "")]
    fitting = [found for found in (_examined(one, spec, tokenizer, template) for one in candidates) if found.fits]
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


@dataclass(frozen=True)
class _Examined:
    """A format with the roles and the report that the template gives it.

    Attributes:
        fits: turns of user and assistant are the template's.
        differences: of probes, how many.
    """

    chat: ChatFormat
    layout: Layout
    fits: bool
    differences: int


def _examined(layout: Layout, spec: TokenizerSpec, tokenizer: Tokenizer, template: ChatTemplate | None) -> _Examined:
    if layout.bos and spec.bos_id is None:
        raise ModelError(f"chat format {layout.name}: bos is true, but the tokenizer has no BOS token; set it to false")
    chat = bare_format(layout, tokenizer)
    if template is None:
        report = "\n".join(("the model has no chat template of its own", *layout.notes))
        return _Examined(replace(chat, report=report), layout, True, 0)
    examiner = _Examiner(chat, layout, spec, tokenizer, template)
    found = [(probe.about, examiner.difference(probe)) for probe in _probes(layout)]
    lines = [f"{about}: {difference}" for about, difference in found if difference]
    lines += [f"the format has no role {role}" for role in _ROLES if role not in layout.forms]
    lines += examiner.repeated_bos()
    roles = tuple(role for role in layout.forms if role in _ROLES or not examiner.difference(_probe_of(role, layout)))
    bos = examiner.begins_with_bos() if layout.bos is None else layout.bos
    report = "\n".join((*layout.notes, *lines)) if lines else ""
    chat = replace(chat, roles=roles, begins_with_bos=bos, report=report)
    return _Examined(chat, layout, examiner.fits(), len(lines) + len(layout.forms) - len(roles))


def _probe_of(role: str, layout: Layout) -> _Probe:
    """A turn of a role that only some templates have."""
    return _known(_Probe("", (_SYSTEM, ("user", "Hi"), ("assistant", "?"), (role, "42"), ("user", "Hi"))), layout)


def _probes(layout: Layout) -> list[_Probe]:
    return [probe for probe in (_known(probe, layout) for probe in _PROBES) if probe.turns]


def _known(probe: _Probe, layout: Layout) -> _Probe:
    """The probe without turns of roles that a format from a file may lack."""
    return replace(probe, turns=tuple(turn for turn in probe.turns if turn[0] in layout.forms))


@dataclass(frozen=True)
class _Examiner:
    chat: ChatFormat
    layout: Layout
    spec: TokenizerSpec
    tokenizer: Tokenizer
    template: ChatTemplate

    def fits(self) -> bool:
        """Whether turns of user and assistant are the template's; what it begins a conversation with may differ."""
        if "user" not in self.layout.forms:
            return False
        ours = self._ours(_Probe("", _CHAT))
        for turns in (_CHAT, (_SYSTEM, *_CHAT), (*_CHAT[:2], *_CHAT), (_SYSTEM, *_CHAT[:2], *_CHAT)):
            try:
                theirs = self._theirs(_Probe("", turns))
            except TemplateRefusedError:
                continue
            if theirs[-len(ours) :] == ours:
                return True
        return False

    def difference(self, probe: _Probe) -> str:
        """How the template's tokens differ from the format's, empty if they do not."""
        ours = self._ours(probe)
        try:
            theirs = self._theirs(probe)
        except TemplateRefusedError as refusal:
            return f"the template refuses it ({refusal}), this server does not"
        if theirs == ours:
            return ""
        if ours and theirs[-len(ours) :] == ours:
            extra = self.tokenizer.decode(theirs[: -len(ours)], special=True)
            return f"the template begins with {extra!r}, which is left out unless sent"
        written, sent = (self.tokenizer.decode(ids, special=True) for ids in (theirs, ours))
        if written == sent:
            return f"the template's {written!r} has {len(theirs)} tokens, this server's {len(ours)} others"
        return f"the template writes {written!r}, this server {sent!r}"

    def begins_with_bos(self) -> bool:
        return self._rendered_bos() > 0

    def repeated_bos(self) -> list[str]:
        """What is to say if the template writes BOS more than once."""
        if self._rendered_bos() < 2:
            return []
        bos = self.tokenizer.spelling(self.spec.bos_id)
        return [f"BOS: the template writes {bos!r} again before later turns, this server once, before everything"]

    def _rendered_bos(self) -> int:
        """How often the template writes BOS in a chat; 0 if it does not begin with it."""
        if self._bos is None:
            return 0
        for turns in ((_SYSTEM, *_CHAT), _CHAT):
            try:
                rendered = self._rendered(_Probe("", turns))
            except TemplateRefusedError:
                continue
            return rendered.count(self._bos) if rendered[:1] == [self._bos] else 0
        return 0

    @property
    def _bos(self) -> int | None:
        """BOS, unless it is a mark that turns bring themselves (ChatML on SmolLM2)."""
        bos = self.spec.bos_id
        return None if self.tokenizer.spelling(bos) in self.layout.control else bos

    def _ours(self, probe: _Probe) -> list[int]:
        ids = self.chat.turns([Turn(role, "", text) for role, text in probe.turns])
        return ids + (self.chat.header("assistant", "", "") if probe.generation else [])

    def _theirs(self, probe: _Probe) -> list[int]:
        """The template's tokens, without BOS."""
        return [id for id in self._rendered(probe) if id != self._bos]

    def _rendered(self, probe: _Probe) -> list[int]:
        messages = [{"role": role, "content": text} for role, text in probe.turns]
        rendered = self.template.render(messages, add_generation_prompt=probe.generation)
        return self.tokenizer.encode(rendered, special=True)
