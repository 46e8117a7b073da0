"""Chat turns as tokens, message by message.

A turn is a header, its text and a trailer, and turns put together are the tokens that the model's chat template gives.
A text border is no token border: BPE merges the header's last newline with a text that begins with one. So everything
between two control tokens is encoded as one string, the generation header with the forced beginning as well.

Text is only text: "<|im_end|>" inside it is spelled with ordinary tokens. There the tokens differ from a template
that is rendered and then tokenised, on purpose: no user can end a turn or forge another role.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pavane.models.errors import ModelError
from pavane.server.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Turn:
    """One turn of a chat; `name` is the speaker's, empty for none."""

    role: str
    name: str
    text: str


@dataclass(frozen=True)
class Markers:
    """How a family of templates writes a turn: begin role role_end gap text end after.

    `begin`, `role_end` and `end` are control tokens (`role_end` may be empty), `gap` and `after` ordinary text. With
    `strips` the template removes white space around the text of a turn.
    """

    name: str
    begin: str
    role_end: str
    gap: str
    end: str
    after: str
    strips: bool


@dataclass(frozen=True)
class ChatFormat:
    """A chat format of one model.

    Attributes:
        name: of the format, such as "chatml".
        roles: those that the template writes like every other.
        trailer: the tokens after a turn's text; appended to every finished answer.
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
    _markers: Markers = field(repr=False)
    _tokenizer: Tokenizer = field(repr=False)

    def turns(self, turns: Sequence[Turn]) -> list[int]:
        """The tokens of whole turns, trailers included.

        Raises:
            ValueError: a role that the template does not have, or a name.
        """
        ids: list[int] = []
        for turn in turns:
            text = turn.text.strip() if self._markers.strips else turn.text
            ids += self.header(turn.role, turn.name, text)
            ids += self.trailer
        return ids

    def header(self, role: str, name: str, forced_text: str) -> list[int]:
        """The tokens that an answer begins with: the generation header and the forced beginning of its text.

        Raises:
            ValueError: a role that the template does not have, or a name.
        """
        if role not in self.roles:
            raise ValueError(f"the model's chat template has no role {role!r}: use one of {', '.join(self.roles)}")
        if name:
            raise ValueError(
                f"the model's chat template has no place for a name: leave name {name!r} empty, or put it into the text"
            )
        markers = self._markers
        if not markers.role_end:
            body = self._plain(role + markers.gap + forced_text)
        else:
            body = [*self._plain(role), self._control(markers.role_end), *self._plain(markers.gap + forced_text)]
        return [self._control(markers.begin), *body]

    def _plain(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, special=False)

    def _control(self, text: str) -> int:
        return control_token(self._tokenizer, text)


def control_token(tokenizer: Tokenizer, text: str) -> int:
    """The id of a control token. Raises ModelError if the vocabulary has none of that spelling."""
    id = tokenizer.control_id(text)
    if id is None:
        raise ModelError(f"the vocabulary has no control token {text!r}; choose another chat format (--chat-format)")
    return id
