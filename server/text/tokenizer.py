"""The model's tokenizer, whatever files it comes from, with control tokens kept apart from text."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tokenizers

from pavane.models.errors import ModelError
from pavane.models.tokenizer_spec import ByteLevelSpec, SentencePieceSpec, TokenizerJsonSpec, TokenizerSpec
from pavane.server.text.byte_level import byte_level
from pavane.server.text.sentence_piece import sentence_piece
from pavane.server.text.tokenizer_json import tokenizer_json
from pavane.server.text.vocabulary import Vocabulary

PIECE = 8192  # tokens whose text takes some 0.3 ms
LONG = 32_768  # characters; longer texts are encoded in pieces of about so many
# Every pattern that byte-level vocabularies split text by begins a new piece at a space behind a letter.
_CUT = re.compile(r"(?<=[a-z]) (?=[a-z])")


def _go_on() -> None:
    pass


class Tokenizer:
    """Immutable after construction and usable from any thread; encoding releases the GIL.

    A token is *control* if the vocabulary says so, if it begins or ends text, or if the chat template writes it: such
    a token is never made from text that users sent (`special=False`), and it has no text of its own.

    The text of tokens is that of each token, put together: no space is added or taken away. A SentencePiece tokenizer
    that puts a space before every text therefore also gives it back: `decode(encode("Hi"))` is " Hi".

    Characters none of whose bytes the vocabulary has are left out, as the model's own tokenizer does (SmolLM2 has no
    token for a few ASCII control codes, for instance U+0004).
    """

    def __init__(self, spec: TokenizerSpec) -> None:
        """Build the encoders.

        Raises:
            ModelError: the vocabulary is inconsistent, or asks for something that is not reproduced exactly.
        """
        vocabulary = _vocabulary(spec)
        self.vocab_size = len(vocabulary.tokens)
        self.bos_id = vocabulary.bos_id
        self.eos_ids = spec.end_ids
        self.control_ids = vocabulary.control_ids
        self._vocabulary = vocabulary
        self._bytes = vocabulary.data
        self._texts = [b"" if id in self.control_ids else data for id, data in enumerate(vocabulary.data)]
        self._control_text = {vocabulary.tokens[id]: id for id in sorted(self.control_ids)}
        self._space_after_control = _space_after_control(vocabulary)
        added = vocabulary.special.get_added_tokens_decoder().values()
        self._may_cut = isinstance(spec, ByteLevelSpec) and not any(" " in token.content for token in added)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids of a whole text, without BOS; control tokens spelled in it become such only with `special`."""
        return self.encode_array(text, special=special).tolist()

    def encode_array(self, text: str, *, special: bool) -> array[int]:
        """The same as int32, for texts of any length: no step on the way holds the GIL for long."""
        return self._encode(self._vocabulary.special if special else self._vocabulary.plain, text)

    def encode_inner(self, text: str, *, after_control: bool) -> list[int]:
        """Token ids of a piece in the middle of a text, which may be cut there if control tokens stand at its ends.

        Args:
            after_control: a control token stands before it; some tokenizers put a space there.
        """
        if after_control and self._space_after_control:
            return self.encode(text, special=False)
        return self._encode(self._vocabulary.inner, text).tolist()

    def _encode(self, encoder: tokenizers.Tokenizer, text: str) -> array[int]:
        ids = array("i")
        for piece in self._pieces(text):
            # The batch call releases the GIL, the single one does not; nor does reading the ids, or freeing all of it.
            ids.extend(encoder.encode_batch_fast([piece], add_special_tokens=False)[0].ids)
        return ids

    def _pieces(self, text: str) -> Iterator[str]:
        """`text`, cut where its tokens are the same with and without the cut."""
        begin = 0
        while self._may_cut and len(text) - begin > LONG:
            cut = _CUT.search(text, begin + LONG)
            if cut is None:
                break
            yield text[begin : cut.start()]
            begin = cut.start()
        yield text[begin:] if begin else text

    def encode_bytes(self, data: bytes) -> list[int]:
        """Token ids whose bytes are exactly `data`; what is no valid UTF-8 becomes one token per byte."""
        ids = []
        while data:
            try:
                valid, broken, data = data.decode("utf-8"), b"", b""
            except UnicodeDecodeError as error:
                valid, broken, data = (
                    data[: error.start].decode("utf-8"),
                    data[error.start : error.end],
                    data[error.end :],
                )
            tokens = self.encode_inner(valid, after_control=False)
            if b"".join(map(self.bytes_of, tokens)) != valid.encode("utf-8"):
                # The tokenizer would write it otherwise, for instance composed.
                tokens, broken = [], valid.encode("utf-8") + broken
            ids += tokens
            ids += [self._vocabulary.byte_ids[byte] for byte in broken]
        return ids

    def decode(self, ids: Iterable[int], *, special: bool = False, pause: Callable[[], None] = _go_on) -> str:
        """The text of `ids`; invalid UTF-8 becomes U+FFFD. Control tokens are spelled out only with `special`. `pause`
        is called after each PIECE of tokens.

        Raises:
            ValueError: an id is outside the vocabulary.
        """
        if isinstance(ids, array) and ids:
            values = np.asarray(ids)
            low, high, known = values.min(), values.max(), ids.tolist()
        else:
            known = list(ids)
            low, high = min(known, default=0), max(known, default=0)
        if low < 0 or high >= self.vocab_size:
            self.bytes_of(next(id for id in known if not 0 <= id < self.vocab_size))  # raises
        data = self._bytes if special else self._texts
        pieces = []
        for at in range(0, len(known), PIECE):  # without a Python call for each token
            pieces.append(b"".join(map(data.__getitem__, known[at : at + PIECE])))
            pause()
        return b"".join(pieces).decode("utf-8", errors="replace")

    def bytes_of(self, id: int, *, special: bool = False) -> bytes:
        """What token `id` adds to the text: nothing for a control token, unless `special`.

        Raises:
            ValueError: the id is outside the vocabulary.
        """
        if not 0 <= id < self.vocab_size:
            raise ValueError(f"token id {id} is outside the vocabulary (0..{self.vocab_size - 1})")
        return (self._bytes if special else self._texts)[id]

    def token_bytes(self) -> list[bytes | None]:
        """What every token adds to the text, by id; None for those that add none: control and unused tokens."""
        return [None if id in self.control_ids else data or None for id, data in enumerate(self._bytes)]

    def control_id(self, text: str) -> int | None:
        """The id of the control token spelled `text`, None if there is none."""
        return self._control_text.get(text)

    def spelling(self, id: int | None) -> str:
        """How token `id` is written in a chat template; empty for None."""
        return "" if id is None else self._vocabulary.tokens[id]


def _vocabulary(spec: TokenizerSpec) -> Vocabulary:
    match spec:
        case ByteLevelSpec():
            return byte_level(spec)
        case SentencePieceSpec():
            return sentence_piece(spec)
        case TokenizerJsonSpec():
            return tokenizer_json(spec)
    raise ModelError(f"there is no tokenizer for {type(spec).__name__}")


def _space_after_control(vocabulary: Vocabulary) -> bool:
    """Whether text after a control token begins like a whole text, with a space put before it."""
    for id in sorted(vocabulary.control_ids):
        if not vocabulary.tokens[id]:
            continue
        ids = vocabulary.special.encode(vocabulary.tokens[id] + "a", add_special_tokens=False).ids
        if ids[:1] == [id]:
            return bool(ids[1:] != vocabulary.inner.encode("a", add_special_tokens=False).ids)
    return False
