"""Constraints over the real vocabulary: whatever is allowed step by step makes a text that fits."""

from __future__ import annotations

import json
import random
import re
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from support.vocabularies import byte_level_spec, sentence_piece_spec

from pavane.scheduler.errors import Reason, RequestError
from pavane.server.text import constraint
from pavane.server.text.constraint import _LIMITS, KEPT, Constraints
from pavane.server.text.tokenizer import Tokenizer

END = 2
ENDS = frozenset([END])
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "ü"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
SUM = 'start: NUMBER (" + " NUMBER)~0..2 " = " NUMBER\nNUMBER: /[0-9]{1,3}/'


@pytest.fixture(scope="module")
def constraints(tokenizer: Tokenizer) -> Constraints:
    return Constraints(tokenizer, ENDS, tokenizer.vocab_size + 100)


def allowed(constraints: Constraints, state: Any) -> list[int]:
    masks, ready = constraints.masks([state])
    ready()
    return [int(i) for i in np.flatnonzero(np.unpackbits(masks[0].view(np.uint8), bitorder="little"))]


def walked(
    constraints: Constraints, tokenizer: Tokenizer, kind: str, text: str, rng: random.Random, end: int = END
) -> str:
    """A text that is made of any of the tokens that are allowed, whichever."""
    ends = frozenset([end])
    state = constraints.get(kind, text, "x").start(ends)
    content: list[int] = []
    while not state.complete:
        choice = allowed(constraints, state)
        assert max(choice) < tokenizer.vocab_size
        assert not (set(choice) - ends) & tokenizer.control_ids
        assert (end in choice) == state.satisfied
        token = rng.choice(choice)
        if token == end:
            break
        state.advance(token)
        assert not state.error
        content.append(token)
        assert len(content) < 200
    assert state.satisfied
    return tokenizer.decode(content)


def a_person(text: str) -> bool:
    value = json.loads(text)
    assert value.keys() <= PERSON["properties"].keys()  # type: ignore[attr-defined]
    assert isinstance(value["name"], str)
    assert len(value["name"]) <= 12
    assert type(value["age"]) is int
    assert 0 <= value["age"] <= 150
    tags = value.get("tags", [])
    assert len(tags) <= 2
    return set(tags) <= {"a", "b", "ü"}


CASES: list[tuple[str, str, Callable[[str], object]]] = [
    ("json_schema", json.dumps(PERSON), a_person),
    ("json_schema", '{"enum": [1, "zwei", null, {"a": [true]}]}', json.loads),
    ("json_schema", '{"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 3}', json.loads),
    ("regex", "(yes|no|maybe not)", re.compile("(yes|no|maybe not)").fullmatch),
    ("regex", "[a-zäé]{3,9}-[0-9]{2}", re.compile("[a-zäé]{3,9}-[0-9]{2}").fullmatch),
    ("grammar", SUM, re.compile(r"[0-9]{1,3}( \+ [0-9]{1,3}){0,2} = [0-9]{1,3}").fullmatch),
]


@pytest.mark.parametrize(("kind", "text", "fits"), CASES)
def test_every_walk_ends_in_a_text_that_fits(
    constraints: Constraints, tokenizer: Tokenizer, kind: str, text: str, fits: Callable[[str], object]
) -> None:
    rng = random.Random(1)
    made = {walked(constraints, tokenizer, kind, text, rng) for _ in range(12)}
    assert len(made) > 1
    for one in made:
        assert fits(one) is not False, one
        assert fits(one) is not None or one == "null", one


def test_json_is_on_one_line_unless_the_schema_asks_otherwise(constraints: Constraints, tokenizer: Tokenizer) -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}}, "required": ["a", "b"]}
    schema["additionalProperties"] = False
    plain = walked(constraints, tokenizer, "json_schema", json.dumps(schema), random.Random(1))
    assert plain == '{"a": 1, "b": 2}'
    dense = schema | {"x-guidance": {"item_separator": ",", "key_separator": ":", "whitespace_flexible": False}}
    assert walked(constraints, tokenizer, "json_schema", json.dumps(dense), random.Random(1)) == '{"a":1,"b":2}'


def test_end_tokens_are_the_calls_own(constraints: Constraints, tokenizer: Tokenizer) -> None:
    compiled = constraints.get("regex", "a+", "x")
    (a,) = tokenizer.encode("a", special=False)
    for ends in (ENDS, frozenset[int]()):
        state = compiled.start(ends)
        assert END not in allowed(constraints, state)
        state.advance(a)
        assert (END in allowed(constraints, state)) == bool(ends)
        assert state.satisfied
        assert not state.complete


def test_states_of_one_constraint_are_apart(constraints: Constraints, tokenizer: Tokenizer) -> None:
    one, two = (constraints.get("regex", "(ab|cd)!", "x").start(ENDS) for _ in range(2))
    for token in tokenizer.encode("ab", special=False):
        one.advance(token)
    masks, ready = constraints.masks([one, two])
    ready()
    assert masks.shape == (2, (tokenizer.vocab_size + 100 + 31) // 32)
    assert not (masks[0] & masks[1]).any()


def test_a_wrong_token_is_an_error_that_stays(constraints: Constraints, tokenizer: Tokenizer) -> None:
    state = constraints.get("regex", "a+", "x").start(ENDS)
    state.advance(tokenizer.encode("b", special=False)[0])
    assert not state.satisfied
    assert allowed(constraints, state) == []
    assert state.error
    assert state.complete
    assert not state.satisfied


def test_compiled_ones_are_kept_but_not_all(tokenizer: Tokenizer) -> None:
    constraints = Constraints(tokenizer, ENDS, tokenizer.vocab_size)
    first = constraints.get("regex", "a{1}", "x")
    for i in range(2, KEPT + 1):
        constraints.get("regex", f"a{{{i}}}", "x")
    assert constraints.get("regex", "a{1}", "y") is first
    constraints.get("regex", "b", "x")
    assert constraints.get("regex", "a{1}", "y") is first
    second = constraints.get("regex", "a{2}", "x")
    assert constraints.get("regex", "a{2}", "x") is second


def test_deep_chains_of_rules_do_not_overflow(constraints: Constraints, tokenizer: Tokenizer) -> None:
    """In an ordinary thread they would end the process."""
    rules = "\n".join(f"a{i:x}:a{i + 1:x}" for i in range(5000))
    text = f'start:a0\n{rules}\na{5000:x}:"deep"'
    assert walked(constraints, tokenizer, "grammar", text, random.Random(1)) == "deep"


@pytest.mark.parametrize("number", ["9007199254740993", "-9223372036854775296", "1" + "0" * 100, "-1e19", "1e400"])
def test_numbers_that_would_become_others_are_refused(constraints: Constraints, number: str) -> None:
    """A range from -2**63 to there would end the process."""
    schema = f'{{"type": "integer", "minimum": {number}, "maximum": {number}}}'
    for kind, text in (("json_schema", schema), ("grammar", f"start: %json{schema}")):
        with pytest.raises(RequestError, match=rf"its {kind} has the number {number[:30]}") as caught:
            constraints.get(kind, text, "x")
        assert caught.value.reason is Reason.INVALID_CONSTRAINT


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**63 - 1, 0.1, 1e18])
def test_numbers_that_are_taken_as_they_are(constraints: Constraints, tokenizer: Tokenizer, number: float) -> None:
    text = walked(constraints, tokenizer, "json_schema", json.dumps({"const": number}), random.Random(1))
    assert json.loads(text) == number


_PATTERNS = [{"type": "string", "pattern": f"a{i}"} for i in range(20)]
_CHAIN = {f"d{i}": {"pattern": f"a{i}", "allOf": [{"$ref": f"#/$defs/d{i + 1}"}]} for i in range(19)} | {"d19": {}}


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": _PATTERNS},
        {"allOf": [{"properties": {"x": pattern}} for pattern in _PATTERNS]},
        {"allOf": [{"anyOf": [pattern, {"type": "null"}]} for pattern in _PATTERNS]},
        {"$defs": _CHAIN, "$ref": "#/$defs/d0"},
        {"$defs": {"a": {"$anchor": "x", "allOf": _PATTERNS}}, "$ref": "#x"},
    ],
)
def test_patterns_that_double_the_time_are_refused(constraints: Constraints, schema: dict[str, Any]) -> None:
    text = json.dumps(schema)
    for kind, said in (("json_schema", text), ("grammar", f"start: %json {text}")):
        with pytest.raises(RequestError, match=rf"its {kind} joins up to \d\d patterns in one string; at most 10"):
            constraints.get(kind, said, "x")


@pytest.mark.parametrize(
    "number", ["100001", "1.00001", "1e6", "9999991", '{"allOf": [{"multipleOf": 997}, {"multipleOf": 9973}]}']
)
def test_large_multiples_are_refused(constraints: Constraints, number: str) -> None:
    text = number if number[0] == "{" else f'{{"type": "number", "multipleOf": {number}}}'
    for kind, said in (("json_schema", text), ("grammar", f"start: %json {text}")):
        with pytest.raises(RequestError, match=rf"its {kind} needs multiples of \d{{6,7}}, without a decimal"):
            constraints.get(kind, said, "x")
    for number in ("0.0001", "86400.0", "100000"):
        constraints.get("json_schema", f'{{"type": "number", "multipleOf": {number}}}', "x")


def test_joined_terminals_are_counted(constraints: Constraints) -> None:
    with pytest.raises(RequestError, match="joins up to 24 patterns"):
        constraints.get("grammar", "start: A\nA: " + " & ".join(f"/.*a{i}.*/" for i in range(24)), "x")
    constraints.get("grammar", f'start: A | "{"&" * 30}" // {"&" * 30}\nA: /[a-z]*/ & /.*&?b/', "x")


def test_patterns_apart_are_as_many_as_one_likes(constraints: Constraints) -> None:
    parts = [{"properties": {f"p{i}{j}": {"type": "string", "pattern": "^a$"} for j in range(8)}} for i in range(3)]
    tree = {"$ref": "#/$defs/node"}
    node = {"type": "object", "allOf": parts, "properties": {"left": tree, "right": tree}}
    constraints.get("json_schema", json.dumps({"$defs": {"node": node}, **tree}), "x")


def test_what_the_vocabulary_cannot_write(constraints: Constraints, tokenizer: Tokenizer) -> None:
    """SmolLM2 has no token for U+0004, and no bytes for it."""
    assert walked(constraints, tokenizer, "regex", "\x04|b", random.Random(1)) == "b"
    with pytest.raises(RequestError, match="for want of a token"):
        constraints.get("regex", "a\x04b", "x")


def test_a_dead_end_is_an_error(constraints: Constraints, tokenizer: Tokenizer) -> None:
    state = constraints.get("grammar", 'start: "a" X\nX: /[^\\s\\S]/', "x").start(ENDS)
    state.advance(tokenizer.encode("a", special=False)[0])
    assert allowed(constraints, state) == []
    assert state.error == "no text satisfies it"
    assert not state.satisfied


def test_too_costly_is_an_error(
    constraints: Constraints, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_LIMITS, "step_lexer_fuel", 50)
    with pytest.raises(RequestError, match="lexer error: too many expressions") as caught:
        constraints.get("regex", "[a-z]+x[a-z]{3,50}y", "x")
    assert caught.value.reason is Reason.INVALID_CONSTRAINT


def test_what_one_text_uses_up_the_others_do_not_lack(
    constraints: Constraints, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_LIMITS, "max_lexer_states", 1000)
    hard = ("regex", ".*a.{8}b.*c.{9}", "x")
    compiled = constraints.get(*hard)
    z, x = (tokenizer.encode(letter, special=False)[0] for letter in "zx")
    running = compiled.start(ENDS)
    running.advance(z)
    assert allowed(constraints, running)
    greedy, rng = compiled.start(ENDS), random.Random(1)
    for _ in range(60):
        choice = allowed(constraints, greedy)
        if greedy.error:
            break
        greedy.advance(rng.choice([token for token in choice if token != END]))
    assert "too many states" in greedy.error  # even alone
    assert greedy.complete
    running.advance(x)
    assert not running.complete
    assert len(allowed(constraints, running)) > 1000
    assert not running.error
    queued = compiled.start(ENDS)
    assert len(allowed(constraints, queued)) > 1000
    assert constraints.get(*hard) is not compiled
    assert len(allowed(constraints, constraints.get(*hard).start(ENDS))) > 1000


def test_what_waits_too_long_to_be_compiled_is_told_to_come_again(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    constraints = Constraints(tokenizer, ENDS, tokenizer.vocab_size)
    go_on = threading.Event()
    constraints._deep().submit(go_on.wait)  # something that will not end
    monkeypatch.setattr(constraint, "COMPILE_S", 0.05)
    with pytest.raises(RequestError, match=r"call 'x': its regex has waited 0\.05 s for others") as caught:
        constraints.get("regex", "a", "x")
    assert caught.value.reason is Reason.QUEUE_FULL
    assert caught.value.retry_after == 0.05
    go_on.set()
    monkeypatch.setattr(constraint, "COMPILE_S", 60.0)
    constraints.get("regex", "a", "x")


class Stuck(ThreadPoolExecutor):
    """Begins what it is given, and never ends it."""

    def submit(self, *_: object, **__: object) -> Future[Any]:
        job: Future[Any] = Future()
        job.set_running_or_notify_cancel()
        return job


def test_what_takes_too_long_to_compile_is_refused(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    constraints = Constraints(tokenizer, ENDS, tokenizer.vocab_size)
    constraints._compiler = Stuck()
    monkeypatch.setattr(constraint, "COMPILE_S", 0.05)
    with pytest.raises(RequestError, match=r"its regex took longer than 0\.05 s to compile; simplify it") as caught:
        constraints.get("regex", "a", "x")
    assert caught.value.reason is Reason.INVALID_CONSTRAINT


@pytest.mark.parametrize("make", [byte_level_spec, sentence_piece_spec])
@pytest.mark.parametrize(("kind", "text", "fits"), CASES[:1] + CASES[-1:])
def test_other_tokenizers(make: Any, kind: str, text: str, fits: Callable[[str], object]) -> None:
    spec = make("gpt-2", control=["<end>"]) if make is byte_level_spec else make(control=["<end>"])
    tokenizer = Tokenizer(spec)
    end = tokenizer.control_id("<end>")
    assert end is not None
    constraints = Constraints(tokenizer, frozenset([end]), tokenizer.vocab_size)
    made = {walked(constraints, tokenizer, kind, text, random.Random(i), end) for i in range(6)}
    assert len(made) > 1
    for one in made:
        assert fits(one), one


def test_a_missing_package_is_said(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(RequestError, match="pip install") as caught:
        Constraints(tokenizer, ENDS, tokenizer.vocab_size).get("regex", "a", "x")
    assert caught.value.reason is Reason.UNSUPPORTED
    assert caught.value.ids == ("x",)
