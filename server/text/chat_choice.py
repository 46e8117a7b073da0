"""Choosing the chat format of a model by rendering its template on probe conversations."""

from dataclasses import dataclass, replace

from pavane.models.errors import ModelError
from pavane.models.tokenizer_spec import TokenizerSpec
from pavane.server.text.chat_format import ChatFormat, Markers, Turn, control_token
from pavane.server.text.chat_template import ChatTemplate, TemplateRefusedError
from pavane.server.text.tokenizer import Tokenizer

_CHATML = Markers("chatml", "<|im_start|>", "", "\n", "<|im_end|>", "\n", strips=False)
_LLAMA_3 = Markers("llama3", "<|start_header_id|>", "<|end_header_id|>", "\n\n", "<|eot_id|>", "", strips=True)
_FAMILIES = {markers.name: markers for markers in (_CHATML, _LLAMA_3)}

CHAT_FORMATS = tuple(_FAMILIES)

_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class _Probe:
    """A conversation, what it tries, and whether a format that fails it is not the template's at all."""

    about: str
    turns: tuple[tuple[str, str], ...]
    essential: bool = False
    generation: bool = True


_SYSTEM = ("system", "Be brief.")
_PROBES = (
    _Probe("a chat of several turns", (_SYSTEM, ("user", "2+2?"), ("assistant", "4"), ("user", "And 3+3?")), True),
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
        name: one of `CHAT_FORMATS`, or "auto": the one that reproduces the template on ordinary conversations.

    Raises:
        ModelError: no format, or not the named one, fits the model; the text says what to do.
    """
    if name != "auto":
        if name not in _FAMILIES:
            raise ModelError(f"there is no chat format {name!r}: use auto or one of {', '.join(CHAT_FORMATS)}")
        if spec.chat_template is None:
            return replace(_bare(_FAMILIES[name], spec, tokenizer), report="the model has no chat template of its own")
        return _examined(_FAMILIES[name], spec, tokenizer, _template(spec, tokenizer))[0]
    if spec.chat_template is None:
        raise ModelError(
            f"the model has no chat template: name its format (--chat-format {' or '.join(CHAT_FORMATS)}), or choose a "
            "model made for chat"
        )
    template = _template(spec, tokenizer)
    for markers in _FAMILIES.values():
        tokens = (markers.begin, markers.role_end, markers.end)
        if any(token and tokenizer.control_id(token) is None for token in tokens):
            continue
        examined, fits = _examined(markers, spec, tokenizer, template)
        if fits:
            return examined
    raise ModelError(
        f"the model's chat template is none of {', '.join(CHAT_FORMATS)}: choose a model that uses one of them, or "
        "name the one to use instead (--chat-format); the server info then says where it differs from the template"
    )


def _template(spec: TokenizerSpec, tokenizer: Tokenizer) -> ChatTemplate:
    return ChatTemplate(
        spec.chat_template or "", bos_token=tokenizer.spelling(spec.bos_id), eos_token=tokenizer.spelling(spec.eos_id)
    )


def _bare(markers: Markers, spec: TokenizerSpec, tokenizer: Tokenizer) -> ChatFormat:
    if markers.role_end:
        control_token(tokenizer, markers.role_end)
    control_token(tokenizer, markers.begin)
    end = control_token(tokenizer, markers.end)
    return ChatFormat(
        name=markers.name,
        roles=_ROLES,
        trailer=(end, *tokenizer.encode(markers.after, special=False)),
        end_ids=tokenizer.eos_ids | {end},
        begins_with_bos=False,
        report="",
        _markers=markers,
        _tokenizer=tokenizer,
    )


def _examined(
    markers: Markers, spec: TokenizerSpec, tokenizer: Tokenizer, template: ChatTemplate
) -> tuple[ChatFormat, bool]:
    """The format with the roles and the report that the template gives it, and whether it passes what is essential."""
    chat = _bare(markers, spec, tokenizer)
    examiner = _Examiner(chat, spec, tokenizer, template)
    differences = [(probe, examiner.difference(probe)) for probe in _PROBES]
    fits = not any(probe.essential and difference for probe, difference in differences)
    roles = tuple(
        role
        for role in _ROLES
        if role != "tool" or not examiner.difference(_Probe("", (_SYSTEM, ("user", "Hi"), ("tool", "42"))))
    )
    report = "\n".join(f"{probe.about}: {difference}" for probe, difference in differences if difference)
    return replace(chat, roles=roles, begins_with_bos=examiner.begins_with_bos(), report=report), fits


@dataclass(frozen=True)
class _Examiner:
    chat: ChatFormat
    spec: TokenizerSpec
    tokenizer: Tokenizer
    template: ChatTemplate

    def difference(self, probe: _Probe) -> str:
        """How the template's tokens differ from the format's, empty if they do not."""
        ours = self.chat.turns([Turn(role, "", text) for role, text in probe.turns])
        if probe.generation:
            ours += self.chat.header("assistant", "", "")
        try:
            theirs = self._rendered(probe)
        except TemplateRefusedError as refusal:
            return f"the template refuses it ({refusal}), this server does not"
        if theirs == ours:
            return ""
        if ours and theirs[-len(ours) :] == ours:
            extra = self.tokenizer.decode(theirs[: -len(ours)], special=True)
            return f"the template begins with {extra!r}, which is left out unless sent"
        written, sent = (self.tokenizer.decode(ids, special=True) for ids in (theirs, ours))
        return f"the template writes {written!r}, this server {sent!r}"

    def begins_with_bos(self) -> bool:
        bos = self.spec.bos_id
        if bos is None:
            return False
        try:
            rendered = self.template.render(_messages(_PROBES[0]), add_generation_prompt=True)
        except TemplateRefusedError:
            return False
        # A format whose turns begin with the BOS token itself (ChatML on SmolLM2) needs no other.
        begin = self.tokenizer.spelling(bos)
        return begin != self.chat._markers.begin and rendered.startswith(begin)

    def _rendered(self, probe: _Probe) -> list[int]:
        """The template's tokens, without BOS."""
        rendered = self.template.render(_messages(probe), add_generation_prompt=probe.generation)
        ids = self.tokenizer.encode(rendered, special=True)
        return ids[1:] if self.begins_with_bos() and ids[:1] == [self.spec.bos_id] else ids


def _messages(probe: _Probe) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in probe.turns]
