"""Incremental detokenisation: text is given out as soon as no later token can change it."""

import codecs
from collections.abc import Sequence

from pavane.server.text.tokenizer import Tokenizer


class Detokenizer:
    """All pushed text and the flushed rest together are `tokenizer.decode` of all ids.

    An incomplete UTF-8 sequence is held back, at most three bytes; a token costs time in its own length only.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, ids: Sequence[int]) -> str:
        """The text that became final with `ids`. Raises ValueError for an id outside the vocabulary."""
        return self._decoder.decode(b"".join(map(self._tokenizer.bytes_of, ids)))

    def flush(self) -> str:
        """The held-back rest, as replacement characters; the next push begins a new text."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest
