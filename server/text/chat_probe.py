"""Comparing a chat format with a model's template on probe conversations."""

from dataclasses import dataclass, replace

from pavane.models.errors import ModelError
from pavane.models.tokenizer_spec import TokenizerSpec
from pavane.server.text.chat_format import ChatFormat, Turn, bare_format
from pavane.server.text.chat_layout import Layout
from pavane.server.text.chat_template import ChatTemplate, TemplateRefusedError
from pavane.server.text.tokenizer import Tokenizer


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


@dataclass(frozen=True)
class Examined:
    """A format with the roles and the report that the template gives it.

    Attributes:
        fits: turns of user and assistant are the template's.
        differences: of probes, how many.
    """

    chat: ChatFormat
    layout: Layout
    fits: bool
    differences: int


def examined(layout: Layout, spec: TokenizerSpec, tokenizer: Tokenizer, template: ChatTemplate | None) -> Examined:
    """What a layout gives with a model's vocabulary and template.

    Raises:
        ModelError: the vocabulary lacks a token that the layout needs.
    """
    if layout.bos and spec.bos_id is None:
        raise ModelError(f"chat format {layout.name}: bos is true, but the tokenizer has no BOS token; set it to false")
    chat = bare_format(layout, tokenizer)
    if template is None:
        report = "\n".join(("the model has no chat template of its own", *layout.notes))
        return Examined(replace(chat, report=report), layout, True, 0)
    examiner = _Examiner(chat, layout, spec, tokenizer, template)
    found = [(probe.about, examiner.difference(probe)) for probe in _probes(layout)]
    lines = [f"{about}: {difference}" for about, difference in found if difference]
    lines += [f"the format has no role {role}" for role in _ROLES if role not in layout.forms]
    lines += examiner.repeated_bos()
    roles = tuple(role for role in layout.forms if role in _ROLES or not examiner.difference(_probe_of(role, layout)))
    bos = examiner.begins_with_bos() if layout.bos is None else layout.bos
    report = "\n".join((*layout.notes, *lines)) if lines else ""
    chat = replace(chat, roles=roles, begins_with_bos=bos, report=report)
    return Examined(chat, layout, examiner.fits(), len(lines) + len(layout.forms) - len(roles))


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
