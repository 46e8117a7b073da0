"""Following a compiled constraint: which tokens may come next, and whether the text may end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pavane.kernels.batch import UInt32
from pavane.server.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import llguidance

NO_TEXT = "no text satisfies it"


class TokenMasks:
    """The tokenizer as llguidance wants it, and masks of the tokens that are text."""

    def __init__(self, tokenizer: Tokenizer, end_ids: frozenset[int]) -> None:
        import llguidance

        spelled = tokenizer.token_bytes()
        ends = sorted(end_ids) or [min(tokenizer.control_ids, default=0)]
        wrapper = llguidance.TokenizerWrapper(_Wrapped(tokenizer, spelled, ends[0]))
        self.tokenizer = llguidance.LLTokenizer(wrapper, n_vocab=len(spelled), eos_token=ends)
        self.words = (len(spelled) + 31) // 32
        self.text = self.mask(id for id, data in enumerate(spelled) if data is not None and id not in ends)

    def mask(self, ids: Iterable[int]) -> UInt32:
        """The mask that allows `ids`."""
        mask = np.zeros(self.words, dtype=np.uint32)
        for id in ids:
            mask[id // 32] |= np.uint32(1 << id % 32)
        return mask


class _Wrapped:
    """What llguidance.TokenizerWrapper asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, spelled: Sequence[bytes | None], eos_id: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = eos_id
        # An empty name would end in a panic there.
        self.tokens = [data or tokenizer.bytes_of(id, special=True) or b"<%d>" % id for id, data in enumerate(spelled)]
        self.special_token_ids = [id for id, data in enumerate(spelled) if data is None]

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode_bytes(text)


class Compiled:
    """A constraint, shared by all who ask for it.

    What llguidance's lexer finds out on the way it keeps for all copies of a matcher, up to a limit; one long text may
    use that up for all. Who notices goes on with a matcher compiled anew, and `spent` says that others should, too.
    """

    def __init__(self, compile: Callable[[], llguidance.LLMatcher], masks: TokenMasks) -> None:
        """`compile` may raise TimeoutError."""
        self.compile = compile
        self.masks = masks
        self.spent = False
        self._matcher = compile()

    def start(self, end_ids: frozenset[int]) -> Following:
        """See `Constraint.start`."""
        return Following(self, self._matcher.deep_copy(), self.masks.mask(end_ids))


class Following:
    """See `ConstraintState`."""

    def __init__(self, compiled: Compiled, matcher: llguidance.LLMatcher, ends: UInt32) -> None:
        self._compiled = compiled
        self._matcher = matcher
        self._ends = ends
        self._content: list[int] = []
        self._alone = False  # its matcher shares nothing with others

    def advance(self, token: int) -> None:
        self._content.append(token)
        self._matcher.consume_token(token)  # what is wrong with it is in `error`

    def fill(self, mask: UInt32) -> None:
        """Sets the bits of the tokens that may come next, in a mask of zeros. Releases the GIL."""
        mine = mask[: self._compiled.masks.words]
        self._matcher.unsafe_compute_mask_ptr(mine.ctypes.data, mine.nbytes)
        if self._matcher.is_error() and not self._alone:
            self._begin_anew()
            self._matcher.unsafe_compute_mask_ptr(mine.ctypes.data, mine.nbytes)
        if self._matcher.is_error():
            mine[:] = 0
            return
        mine &= self._compiled.masks.text
        if self.satisfied and mine.any():
            mine |= self._ends

    def _begin_anew(self) -> None:
        self._alone = self._compiled.spent = True
        try:
            matcher = self._compiled.compile()
        except TimeoutError:
            return  # the error stays
        matcher.consume_tokens(self._content)
        self._matcher = matcher

    @property
    def satisfied(self) -> bool:
        return bool(self._matcher.is_accepting())

    @property
    def complete(self) -> bool:
        return bool(self._matcher.is_stopped()) and not self._may_recover

    @property
    def error(self) -> str:
        return "" if self._may_recover else _words(self._matcher.get_error())

    @property
    def _may_recover(self) -> bool:
        return bool(self._matcher.is_error()) and not self._alone


def _words(error: str) -> str:
    """llguidance's words, on one line."""
    line = " ".join(error.replace("<non-verbose/>", "").partition("<backtrace>")[0].split())
    if line == "NoExtensionBias":
        return NO_TEXT
    if line.startswith("panic"):  # it catches its own, and what is raised by the tokenizer
        line = f"llguidance fails, perhaps for want of a token: {line}"
    return line if len(line) <= 240 else line[:240] + "..."
