"""Constrained decoding: JSON schemas, regular expressions and grammars, compiled and followed by llguidance.

A constraint is about text. Which tokens may come next is asked of llguidance while the model runs; control tokens are
never among them, but for those that end the turn, and these only where the text may end and may also go on.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pavane.kernels.batch import UInt32
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.text import ConstraintState
from pavane.server.text.following import NO_TEXT, Compiled, Following, TokenMasks
from pavane.server.text.schema_numbers import NumberError, in_grammar, parse
from pavane.server.text.schema_overlap import LARGEST_MULTIPLE, MOST, Overlap, joined_in_grammar
from pavane.server.text.tokenizer import Tokenizer

MAX_CHARS = 65_536
COMPILE_S = 10.0  # fuel and sizes are bounded as well: a compilation that is given up ends by itself
KEPT = 64  # compiled constraints
# llguidance recurses along chains of rules, and what overflows a stack ends the process: this is enough for MAX_CHARS.
_STACK_BYTES = 256 * 2**20
_LIMITS = {"step_lexer_fuel": 200_000, "step_max_items": 50_000, "max_lexer_states": 30_000, "verbose_errors": False}
# As json.dumps writes it: without room for a model to fill with white space. A schema's x-guidance may say otherwise.
_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Constraints:
    """Compiles constraints and follows them. `get` may be called from any thread; `masks` from one."""

    def __init__(self, tokenizer: Tokenizer, end_ids: frozenset[int], vocab_size: int) -> None:
        """`vocab_size` is the model's, not less than the tokenizer's: tokens that only the model has are forbidden."""
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._words = (vocab_size + 31) // 32
        self._compiler: ThreadPoolExecutor | None = None
        self._filler = ThreadPoolExecutor(max_workers=1, thread_name_prefix="masks")  # its thread starts with the first
        self._token_masks: TokenMasks | None = None
        self._kept: OrderedDict[tuple[str, str], Compiled] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, kind: str, text: str, call_id: str) -> Compiled:
        """A `json_schema`, `regex` or `grammar`, compiled. Takes its time if it is new.

        Raises:
            RequestError: it is malformed, satisfied by no text, or too costly.
        """
        key = (kind, text)
        with self._lock:
            if key in self._kept and not self._kept[key].spent:
                self._kept.move_to_end(key)
                return self._kept[key]
        if len(text) > MAX_CHARS:
            raise _refusal(call_id, kind, f"is {len(text)} characters long; at most {MAX_CHARS} are allowed")
        try:
            made = self._compile(kind, text)
        except _BusyError:
            busy = f"call {call_id!r}: its {kind} has waited {COMPILE_S:g} s for others to be compiled; send it later"
            raise RequestError(Reason.QUEUE_FULL, busy, (call_id,), retry_after=COMPILE_S) from None
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
                assert isinstance(state, Following)
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

    def _compile(self, kind: str, text: str) -> Compiled:
        import llguidance

        grammar = _grammar(kind, text)
        with self._lock:
            if self._token_masks is None:
                self._token_masks = TokenMasks(self._tokenizer, self._end_ids)
        masks = self._token_masks
        limits = llguidance.LLParserLimits(**_LIMITS)  # type: ignore[arg-type]

        def make() -> llguidance.LLMatcher:
            made = llguidance.LLMatcher(masks.tokenizer, grammar, log_level=0, limits=limits)
            made.compute_bitmask()  # the first is the most expensive
            return made

        def in_time() -> llguidance.LLMatcher:
            job = self._deep().submit(make)
            try:
                return job.result(COMPILE_S)
            except TimeoutError:
                if job.cancel():  # it has not begun
                    raise _BusyError from None
                raise

        compiled = Compiled(in_time, masks)
        first = compiled.start(self._end_ids)
        mask = np.zeros(self._words, dtype=np.uint32)
        first.fill(mask)
        if first.error == NO_TEXT or not (first.error or mask.any() or first.satisfied):
            raise _InvalidError("is satisfied by no text; loosen it")
        if first.error:
            raise _InvalidError(f"cannot be compiled: {first.error}")
        return compiled


def _grammar(kind: str, text: str) -> str:
    """As llguidance takes it."""
    import llguidance

    if kind == "regex":
        if (len(text) - len(text.rstrip("\\"))) % 2:  # llguidance would drop it
            raise _InvalidError("cannot be compiled: it ends in a backslash; for the character itself write two")
        return llguidance.LLMatcher.grammar_from_regex(text)
    if kind == "grammar":
        try:
            overlaps = [Overlap(schema) for schema in in_grammar(text)]
            _check_cost(joined_in_grammar(text))
            for overlap in overlaps:
                _check_cost(overlap.count(), overlap.multiple())
        except NumberError as error:
            raise _InvalidError(str(error)) from None
        except RecursionError:
            raise _InvalidError("has a schema that is nested too deeply; flatten it") from None
        return llguidance.LLMatcher.grammar_from_lark(text)
    try:  # else it would become a part of its own JSON, whatever it is
        schema = parse(text)
    except (ValueError, RecursionError) as error:
        raise _InvalidError(f"is not JSON: {error}") from None
    except NumberError as error:
        raise _InvalidError(str(error)) from None
    if not isinstance(schema, dict):
        raise _InvalidError("is no JSON object; use {} for any JSON")
    try:
        overlap = Overlap(schema)
        _check_cost(overlap.count(), overlap.multiple())
    except RecursionError:
        raise _InvalidError("is nested too deeply; flatten it") from None
    try:
        return llguidance.LLMatcher.grammar_from_json_schema(text, defaults=_JSON)  # type: ignore[arg-type]
    except ValueError as error:  # its own reader is stricter: nested too deeply, half a surrogate pair
        raise _InvalidError(f"cannot be compiled: {error}") from None


def _check_cost(patterns: int, multiple: int = 0) -> None:
    if patterns > MOST:
        raise _InvalidError(f"joins up to {patterns} patterns in one string; at most {MOST} are allowed: write fewer")
    if multiple > LARGEST_MULTIPLE:
        raise _InvalidError(
            f"needs multiples of {multiple}, without a decimal point; at most {LARGEST_MULTIPLE} is allowed"
        )


class _BusyError(TimeoutError):
    """Another constraint takes all the time."""


class _InvalidError(Exception):
    """What is wrong with a constraint."""


def _refusal(call_id: str, kind: str, text: str) -> RequestError:
    return RequestError(Reason.INVALID_CONSTRAINT, f"call {call_id!r}: its {kind} {text}", (call_id,))
