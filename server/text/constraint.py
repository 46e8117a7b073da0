"""Constrained decoding: JSON schemas, regular expressions and grammars, compiled and followed by llguidance.

A constraint is about text. Which tokens may come next is asked of llguidance while the model runs; control tokens are
never among them, but for those that end the turn, and these only where the text may end and may also go on.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from pavane.kernels.batch import UInt32
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.spec import ConstraintState
from pavane.server.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import llguidance

MAX_CHARS = 65_536
COMPILE_S = 10.0  # fuel and sizes are bounded as well: a compilation that is given up ends by itself
KEPT = 64  # compiled constraints
# llguidance recurses along chains of rules, and what overflows a stack ends the process: this is enough for MAX_CHARS.
_STACK_BYTES = 256 * 2**20
_LIMITS = {"step_lexer_fuel": 200_000, "step_max_items": 50_000, "max_lexer_states": 50_000, "verbose_errors": False}
# As json.dumps writes it: without room for a model to fill with white space. A schema's x-guidance may say otherwise.
_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

_NO_TEXT = "NoExtensionBias"  # what llguidance says then


class Constraints:
    """Compiles constraints and follows them. `get` may be called from any thread; `masks` from one."""

    def __init__(self, tokenizer: Tokenizer, end_ids: frozenset[int], vocab_size: int) -> None:
        """`vocab_size` is the model's, not less than the tokenizer's: tokens that only the model has are forbidden."""
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._words = (vocab_size + 31) // 32
        self._compiler: ThreadPoolExecutor | None = None
        self._filler = ThreadPoolExecutor(max_workers=1, thread_name_prefix="masks")  # its thread starts with the first
        self._vocabulary: _Vocabulary | None = None
        self._kept: OrderedDict[tuple[str, str], _Compiled] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, kind: str, text: str, call_id: str) -> _Compiled:
        """A `json_schema`, `regex` or `grammar`, compiled. Takes its time if it is new.

        Raises:
            RequestError: it is malformed, satisfied by no text, or too costly.
        """
        key = (kind, text)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        if len(text) > MAX_CHARS:
            raise _refusal(call_id, kind, f"is {len(text)} characters long; at most {MAX_CHARS} are allowed")
        try:
            made = self._deep().submit(self._compile, kind, text).result(COMPILE_S)
        except TimeoutError:
            raise _refusal(call_id, kind, f"took longer than {COMPILE_S:g} s to compile; simplify it") from None
        except _InvalidError as error:
            raise _refusal(call_id, kind, str(error)) from None
        except ImportError:
            text = f"call {call_id!r}: {kind} needs a server with llguidance: pip install 'pavane[server]' there"
            raise RequestError(Reason.UNSUPPORTED, text, (call_id,)) from None
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made

    def masks(self, states: Sequence[ConstraintState]) -> tuple[UInt32, Callable[[], None]]:
        """See `TextRules.masks`."""
        masks = np.zeros((len(states), self._words), dtype=np.uint32)

        def fill() -> None:
            for state, mask in zip(states, masks, strict=True):
                assert isinstance(state, _State)
                state.fill(mask)

        return masks, self._filler.submit(fill).result

    def _deep(self) -> ThreadPoolExecutor:
        """One thread with a stack as large as it takes."""
        with self._lock:
            if self._compiler is None:
                self._compiler = ThreadPoolExecutor(max_workers=1, thread_name_prefix="constraints")
                before = threading.stack_size(_STACK_BYTES)
                try:
                    self._compiler.submit(int).result()
                finally:
                    threading.stack_size(before)
            return self._compiler

    def _compile(self, kind: str, text: str) -> _Compiled:
        import llguidance

        if self._vocabulary is None:
            self._vocabulary = _Vocabulary(self._tokenizer, self._end_ids)
        make = llguidance.LLMatcher
        if kind == "json_schema":
            _check_json(text)
            grammar = make.grammar_from_json_schema(text, defaults=_JSON)  # type: ignore[arg-type]
        else:
            grammar = make.grammar_from_regex(text) if kind == "regex" else make.grammar_from_lark(text)
        limits = llguidance.LLParserLimits(**_LIMITS)  # type: ignore[arg-type]
        compiled = _Compiled(make(self._vocabulary.tokenizer, grammar, log_level=0, limits=limits), self._vocabulary)
        first = compiled.start(self._end_ids)
        mask = np.zeros(self._words, dtype=np.uint32)
        first.fill(mask)
        if first.error == _NO_TEXT or not (first.error or mask.any() or first.satisfied):
            raise _InvalidError("is satisfied by no text; loosen it")
        if first.error:
            raise _InvalidError(f"cannot be compiled: {first.error}")
        return compiled


class _Vocabulary:
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


class _Compiled:
    """A constraint, shared by all who ask for it."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: _Vocabulary) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    def start(self, end_ids: frozenset[int]) -> _State:
        """See `Constraint.start`."""
        return _State(self._matcher.deep_copy(), self._vocabulary, self._vocabulary.mask(end_ids))


class _State:
    """See `ConstraintState`."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: _Vocabulary, ends: UInt32) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._ends = ends

    def advance(self, token: int) -> None:
        self._matcher.consume_token(token)  # what is wrong with it is in `error`

    def fill(self, mask: UInt32) -> None:
        """Sets the bits of the tokens that may come next, in a mask of zeros. Releases the GIL."""
        mine = mask[: self._vocabulary.words]
        self._matcher.unsafe_compute_mask_ptr(mine.ctypes.data, mine.nbytes)
        if self._matcher.is_error():
            mine[:] = 0
            return
        mine &= self._vocabulary.text
        if self.satisfied and mine.any():
            mine |= self._ends

    @property
    def satisfied(self) -> bool:
        return bool(self._matcher.is_accepting())

    @property
    def complete(self) -> bool:
        return bool(self._matcher.is_stopped())

    @property
    def error(self) -> str:
        return _words(self._matcher.get_error())


class _InvalidError(Exception):
    """What is wrong with a constraint."""


def _check_json(text: str) -> None:
    """llguidance would take it as a part of its own JSON."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _InvalidError(f"is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise _InvalidError("is no JSON object; use {} for any JSON")


def _words(error: str) -> str:
    line = " ".join(error.replace("<non-verbose/>", "").partition("<backtrace>")[0].split())
    return line if len(line) <= 240 else line[:240] + "..."


def _refusal(call_id: str, kind: str, text: str) -> RequestError:
    return RequestError(Reason.INVALID_CONSTRAINT, f"call {call_id!r}: its {kind} {text}", (call_id,))
