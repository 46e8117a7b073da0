"""How families of chat templates write turns, as data.

Where a template writes a turn differently depending on others, the layout has a form that does not: each message is
then encoded the same wherever it is read. `notes` declare what that changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Form:
    """How the turns of a role are written: begin lead text end.

    Attributes:
        lead: what stands before a text; left out of a generation header without a forced beginning.
        named: instead of `begin` where the speaker has a name, which replaces {name}; empty if names are refused.
        after_control: a control token stands before the turn, as after every turn that ends in one.
    """

    begin: str
    end: str
    lead: str = ""
    named: str = ""
    after_control: bool = True


@dataclass(frozen=True)
class Layout:
    """A chat format, independent of any vocabulary.

    Attributes:
        forms: by role.
        control: the control tokens in the forms; all else in them is ordinary text.
        ends: the control tokens that end an answer.
        strips: white space around a text is removed.
        bos: BOS stands before everything; None for as the model's template has it.
        mentions: a template that does not contain it is of another family.
        notes: what the layout does on purpose unlike its family's templates.
    """

    name: str
    forms: Mapping[str, Form]
    control: tuple[str, ...]
    ends: tuple[str, ...]
    strips: bool = False
    bos: bool | None = None
    mentions: str = ""
    notes: tuple[str, ...] = field(default=())


_ROLES = ("system", "user", "assistant", "tool")


def _chatml(name: str = "chatml") -> Layout:
    forms = {role: Form(f"<|im_start|>{role}\n", "<|im_end|>\n") for role in _ROLES}
    return Layout(name, forms, ("<|im_start|>", "<|im_end|>"), ("<|im_end|>",))


def _with_tool_response(layout: Layout) -> Layout:
    tool = Form("<|im_start|>user\n<tool_response>\n", "\n</tool_response><|im_end|>\n")
    return replace(layout, forms={**layout.forms, "tool": tool})


def _qwen3() -> Layout:
    return replace(
        _with_tool_response(_chatml("qwen3")),
        mentions="</think>",
        notes=("thinking: what an earlier turn has thought stays in it, and no empty thought is put into a turn",),
    )


def _llama_3(tool: str) -> Layout:
    names = {role: role for role in _ROLES} | {"tool": tool}
    control = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    forms = {
        role: Form(f"<|start_header_id|>{name}<|end_header_id|>\n\n", "<|eot_id|>") for role, name in names.items()
    }
    notes = ("system: a default prompt or dates that a template puts before the system message are not written",)
    return Layout("llama3", forms, control, ("<|eot_id|>",), strips=True, notes=notes)


_OWN_INSTRUCTION = (
    "system: a system message is an [INST] of its own, which the user turn after it does not share",
    "[/INST] begins an answer: it stands before the assistant's turn, not after every user turn",
)


def _llama_2() -> Layout:
    forms = {
        "system": Form("[INST] <<SYS>>\n", "\n<</SYS>>\n\n"),
        "user": Form("[INST] ", ""),
        "assistant": Form(" [/INST]", " </s>", lead=" ", after_control=False),
    }
    return Layout("llama2", forms, ("</s>",), ("</s>",), strips=True, notes=_OWN_INSTRUCTION)


def _mistral_text(open: str, lead: str, end: str) -> Layout:
    """v1 and v2, whose instruction marks are ordinary text."""
    forms = {
        "system": Form(open, "\n\n"),
        "user": Form(open, ""),
        "assistant": Form(" [/INST]", end, lead=lead, after_control=False),
    }
    return Layout("mistral", forms, ("</s>",), ("</s>",), notes=_OWN_INSTRUCTION)


def _mistral(space: str, *, own_system: bool = False) -> Layout:
    """v3 (a space after each mark) and the tekken versions (none); v7 has marks for the system message."""
    marks: tuple[str, ...] = ("[INST]", "[/INST]", "</s>")
    system = Form(f"[INST]{space}", "\n\n")
    notes: tuple[str, ...] = _OWN_INSTRUCTION
    if own_system:
        marks += ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
        system = Form(f"[SYSTEM_PROMPT]{space}", "[/SYSTEM_PROMPT]")
        notes = notes[1:]
    forms = {
        "system": system,
        "user": Form(f"[INST]{space}", ""),
        "assistant": Form("[/INST]", "</s>", lead=space),
    }
    return Layout("mistral", forms, marks, ("</s>",), notes=notes)


def _gemma() -> Layout:
    names = {"system": "user", "user": "user", "assistant": "model"}
    forms = {role: Form(f"<start_of_turn>{name}\n", "<end_of_turn>\n") for role, name in names.items()}
    control = ("<start_of_turn>", "<end_of_turn>")
    notes = ("system: a system message is a user turn of its own",)
    return Layout("gemma", forms, control, ("<end_of_turn>",), strips=True, notes=notes)


# Variants of a family in the order in which they are tried.
FAMILIES: dict[str, tuple[Layout, ...]] = {
    "chatml": (_chatml(), _with_tool_response(_chatml())),
    "llama3": (_llama_3("tool"), _llama_3("ipython")),
    "llama2": (_llama_2(),),
    "mistral": (
        _mistral(" "),
        _mistral(""),
        _mistral("", own_system=True),
        _mistral(" ", own_system=True),
        _mistral_text("[INST] ", "", "</s>"),
        _mistral_text("[INST] ", " ", "</s>"),
        _mistral_text(" [INST] ", " ", "</s>"),
        _mistral_text("[INST] ", "", "</s> "),
    ),
    "qwen3": (_qwen3(),),
    "gemma": (_gemma(),),
}
