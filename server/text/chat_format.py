"""Chat turns as tokens, message by message.

A turn is a header, its text and a trailer, and turns put together are the tokens that the model's chat template gives.
A text border is no token border: BPE merges the header's last newline with a text that begins with one. So everything
between two control tokens is encoded as one string, the generation header with the forced beginning as well.

Text is only text: "<|im_end|>" inside it is spelled with ordinary tokens. There the tokens differ from a template
that is rendered and then tokenised, on purpose: no user can end a turn or forge another role.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pavane.models.errors import ModelError
from pavane.server.text.chat_layout import Form, Layout
from pavane.server.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Turn:
    """One turn of a chat; `name` is the speaker's, empty for none."""

    role: str
    name: str
    text: str


@dataclass(frozen=True)
class ChatFormat:
    """A chat format of one model.

    Attributes:
        name: of the format, such as "chatml".
        roles: those that the template writes like every other.
        trailer: the tokens after an answer's text; appended to every finished answer.
        end_ids: tokens that end a turn when they are sampled.
        begins_with_bos: the template writes the BOS token before the first turn.
        report: where the format differs from the model's own template, for people; empty if nowhere.
    """

    name: str
    roles: tuple[str, ...]
    trailer: tuple[int, ...]
    end_ids: frozenset[int]
    begins_with_bos: bool
    report: str
    _layout: Layout = field(repr=False)
    _tokenizer: Tokenizer = field(repr=False)

    def turns(self, turns: Sequence[Turn]) -> list[int]:
        """The tokens of whole turns, trailers included.

        Raises:
            ValueError: a role that the template does not have, or a name.
        """
        ids: list[int] = []
        for turn in turns:
            form = self._form(turn.role)
            text = form.lead + (turn.text.strip() if self._layout.strips else turn.text)
            if self._ends_like_an_answer(form):
                ids += self._encoded(form, turn.name, text, "")
                ids += self.trailer
            else:
                ids += self._encoded(form, turn.name, text, form.end)
        return ids

    def header(self, role: str, name: str, forced_text: str) -> list[int]:
        """The tokens that an answer begins with: the generation header and the forced beginning of its text.

        Raises:
            ValueError: a role that the template does not have or whose turns do not end in `trailer`, or a name.
        """
        form = self._form(role)
        if not self._ends_like_an_answer(form):
            raise ValueError(
                f"the model's chat template ends turns of role {role!r} otherwise: generate as 'assistant'"
            )
        return self._encoded(form, name, form.lead + forced_text if forced_text else "", "")

    def _form(self, role: str) -> Form:
        if role not in self.roles:
            raise ValueError(f"the model's chat template has no role {role!r}: use one of {', '.join(self.roles)}")
        return self._layout.forms[role]

    def _ends_like_an_answer(self, form: Form) -> bool:
        return form.end == self._layout.forms["assistant"].end

    def _encoded(self, form: Form, name: str, text: str, end: str) -> list[int]:
        if name and not form.named:
            raise ValueError(
                f"the model's chat template has no place for a name: leave name {name!r} empty, or put it into the text"
            )
        begin = list(pieces(self._layout, form.named if name else form.begin))
        begin = [(control, piece if control else piece.replace("{name}", name)) for control, piece in begin]
        return encoded(self._tokenizer, [*begin, (False, text), *pieces(self._layout, end)], form.after_control)


def pieces(layout: Layout, text: str) -> Iterator[tuple[bool, str]]:
    """The control tokens (True) in a string of the layout and what stands between them (False)."""
    marks = "|".join(re.escape(mark) for mark in sorted(layout.control, key=len, reverse=True))
    for at, piece in enumerate(re.split(f"({marks})", text) if marks else [text]):
        if piece:
            yield at % 2 == 1, piece


def encoded(tokenizer: Tokenizer, parts: Sequence[tuple[bool, str]], after_control: bool) -> list[int]:
    """The tokens of control tokens (True) and text (False); text is encoded in one from one control token to the next.

    Args:
        after_control: a control token stands before the first part.
    """
    ids: list[int] = []
    text = ""
    for control, piece in (*parts, (True, "")):
        if not control:
            text += piece
            continue
        if text:
            ids += tokenizer.encode_inner(text, after_control=after_control)
        if piece:
            ids.append(control_token(tokenizer, piece))
        text, after_control = "", True
    return ids


def bare_format(layout: Layout, tokenizer: Tokenizer) -> ChatFormat:
    """The format that a layout gives with a vocabulary, without a look at the model's template.

    Raises:
        ModelError: the vocabulary lacks a control token of the layout.
    """
    for token in layout.control:
        control_token(tokenizer, token)
    trailer = encoded(tokenizer, list(pieces(layout, layout.forms["assistant"].end)), after_control=False)
    return ChatFormat(
        name=layout.name,
        roles=tuple(layout.forms),
        trailer=tuple(trailer),
        end_ids=tokenizer.eos_ids | {control_token(tokenizer, token) for token in layout.ends},
        begins_with_bos=bool(layout.bos),
        report="",
        _layout=layout,
        _tokenizer=tokenizer,
    )


def control_token(tokenizer: Tokenizer, text: str) -> int:
    """The id of a control token. Raises ModelError if the vocabulary has none of that spelling."""
    id = tokenizer.control_id(text)
    if id is None:
        raise ModelError(f"the vocabulary has no control token {text!r}; choose another chat format (--chat-format)")
    return id
