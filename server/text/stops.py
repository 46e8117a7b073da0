"""Stop strings: where generated text ends, and which tokens it then has."""

from collections.abc import Sequence

from pavane.server.text.tokenizer import Tokenizer


class StopMatcher:
    """Finds the first stop string in text that grows by tokens.

    A match may begin in the forced beginning of the answer, but not lie wholly in it. All matching is on UTF-8 bytes,
    which is the same as on characters: no encoded character begins inside another (and U+FFFD never stands for invalid
    bytes). Control tokens have no text, so that no stop string matches them.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], initial: str) -> None:
        """Args:
            stops: the stop strings; none may be empty.
            initial: the forced beginning of the answer, before the first pushed token.

        Raises:
            ValueError: a stop string is empty.
        """
        if not all(stops):
            raise ValueError("a stop string is empty: leave it out, or give the text to stop at")
        self._tokenizer = tokenizer
        self._stops = tuple(stop.encode("utf-8") for stop in stops)
        self._longest = max(map(len, self._stops), default=0)
        self._tokens: list[int] = []
        self._ends: list[int] = []  # of each token's text, in bytes of the generated text
        self._length = 0
        self._tail = initial.encode("utf-8")[-self._keep :] if self._keep else b""

    def push(self, token: int) -> tuple[int, ...] | None:
        """None while no stop string has matched; then the tokens that the message keeps.

        These are the pushed tokens wholly before the stop string, and in place of a token that straddles its begin the
        tokens of the kept part. Nothing may be pushed after a match.

        Raises:
            ValueError: the id is outside the vocabulary.
        """
        data = self._tokenizer.bytes_of(token)
        self._tokens.append(token)
        self._length += len(data)
        self._ends.append(self._length)
        text = self._tail + data
        # Before the new bytes nothing can end any more; in the forced beginning it does not count.
        found = (text.find(stop, max(0, len(self._tail) + 1 - len(stop))) for stop in self._stops)
        cut = min((at for at in found if at >= 0), default=None)
        if cut is None:
            self._tail = text[-self._keep :] if self._keep else b""
            return None
        return self._kept(max(0, self._length - len(text) + cut))

    def held(self) -> int:
        """How many characters at the end of the generated text may still become part of a stop string."""
        tail = self._tail[-self._length :] if self._length else b""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(self._tail)), longest, -1):
                if self._tail.endswith(stop[:size]):
                    longest = size
                    break
        # An incomplete last character is not part of the text yet.
        return len(tail[-longest:].decode("utf-8", errors="ignore")) if longest else 0

    @property
    def _keep(self) -> int:
        return max(0, self._longest - 1)

    def _kept(self, cut: int) -> tuple[int, ...]:
        """The pushed tokens up to byte `cut`."""
        whole = 0
        while whole < len(self._ends) and self._ends[whole] <= cut:
            whole += 1
        begin = self._ends[whole - 1] if whole else 0
        rest = self._tokenizer.bytes_of(self._tokens[whole])[: cut - begin] if cut > begin else b""
        return (*self._tokens[:whole], *self._tokenizer.encode_bytes(rest))
