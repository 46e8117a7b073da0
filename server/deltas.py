"""The content of one attempt of a call as it is told: text and tokens piece by piece, merged for who reads late."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from operator import attrgetter

from pavane.protos.v1 import pavane_pb2 as pb
from pavane.scheduler.spec import DecodeSpec, TokensAdded, Top
from pavane.server.convert import top_messages
from pavane.server.text.detokenizer import Detokenizer
from pavane.server.text.stops import StopMatcher
from pavane.server.text.tokenizer import Tokenizer

_cursor = attrgetter("cursor")


@dataclass(slots=True)
class _Delta:
    cursor: int
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    top: tuple[Top, ...]
    first_token: int
    first_char: int


class Deltas:
    """Text that may still become part of a stop string is held back."""

    def __init__(self, tokenizer: Tokenizer, decode: DecodeSpec | None) -> None:
        self._text = Detokenizer(tokenizer)
        self._stops: StopMatcher | None = None
        self._min_tokens = 0  # before so many no stop string counts
        if decode is not None and decode.stop:
            self._min_tokens = decode.min_tokens
            self._stops = StopMatcher(tokenizer, decode.stop, "" if decode.min_tokens else decode.beginning)
        self._held = ""
        self._deltas: list[_Delta] = []

    @property
    def first(self) -> int:
        """Cursor of the first piece; 0 before there is one."""
        return self._deltas[0].cursor if self._deltas else 0

    def add(self, cursor: int, event: TokensAdded) -> None:
        last = self._deltas[-1] if self._deltas else _Delta(0, "", (), (), (), 0, 0)
        first_token, first_char = last.first_token + len(last.tokens), last.first_char + len(last.text)
        text = self._held + self._text.push(event.tokens)
        hold = 0
        if self._stops is not None:
            watched = event.tokens[max(0, self._min_tokens - first_token) :]
            matched = any(self._stops.push(token) is not None for token in watched)
            hold = len(text) if matched else min(len(text), self._stops.held())
        cut = len(text) - hold
        self._held = text[cut:]
        self._deltas.append(
            _Delta(cursor, text[:cut], event.tokens, event.logprobs, event.top, first_token, first_char)
        )

    def after(self, cursor: int, message_id: str) -> pb.Event | None:
        """All that came after the cursor as one event; None if nothing did."""
        first = bisect_right(self._deltas, cursor, key=_cursor)
        if first == len(self._deltas):
            return None
        new = self._deltas[first:]
        event = pb.Event(cursor=new[-1].cursor, id=message_id)
        delta = event.delta  # filled where it is: a message that is handed over is copied
        delta.text = "".join([d.text for d in new])
        delta.first_token, delta.first_char = new[0].first_token, new[0].first_char
        for d in new:
            delta.tokens.extend(d.tokens)
            delta.logprobs.extend(d.logprobs)
            if d.top:
                delta.top_logprobs.extend(top_messages(d.top))
        return event
