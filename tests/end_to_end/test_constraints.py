"""Constrained answers of the real model, sampled at temperature 1: every one of them fits."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
from end_to_end.served import Wire, content, decode, prefill

from pavane.protos.v1 import pavane_pb2 as pb

ENDS = (pb.FINISH_REASON_CONSTRAINT, pb.FINISH_REASON_END_OF_TURN)
FREE: dict[str, Any] = {"temperature": 1.0, "ignore_eos": False, "max_tokens": 64}


def closed(required: list[str], **properties: Any) -> str:
    return json.dumps({"type": "object", "properties": properties, "required": required, "additionalProperties": False})


CITY = closed(
    ["city", "people"],
    city={"type": "string", "maxLength": 20},
    people={"type": "integer", "minimum": 1, "maximum": 99_999_999},
    river={"type": ["string", "null"], "maxLength": 12},
)
VERDICT = closed(
    ["verdict", "points"],
    verdict={"enum": ["right", "wrong", "unclear"]},
    points={"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 10}, "minItems": 1, "maxItems": 3},
)
NESTED = json.dumps(
    {
        "$defs": {"leaf": json.loads(closed(["n"], n={"type": "boolean"}))},
        "type": "array",
        "items": {"anyOf": [{"$ref": "#/$defs/leaf"}, {"type": "string", "pattern": "^[a-c]{1,4}$"}]},
        "minItems": 1,
        "maxItems": 3,
    }
)
CALCULATION = 'start: term (" " OP " " term)~1..2\nterm: NUMBER | "(" term ")"\nOP: /[-+*]/\nNUMBER: /[0-9]{1,3}/'


def is_city(text: str) -> bool:
    value = json.loads(text)
    assert {"city", "people"} <= value.keys() <= {"city", "people", "river"}
    assert isinstance(value["city"], str)
    assert isinstance(value.get("river"), str | None)
    return len(value["city"]) <= 20 and type(value["people"]) is int and 1 <= value["people"] <= 99_999_999


def is_verdict(text: str) -> bool:
    value = json.loads(text)
    assert value.keys() == {"verdict", "points"}
    assert value["verdict"] in ("right", "wrong", "unclear")
    return 1 <= len(value["points"]) <= 3 and all(0 <= point <= 10 for point in value["points"])


def is_nested(text: str) -> bool:
    value = json.loads(text)
    assert 1 <= len(value) <= 3
    return all(
        re.fullmatch("[a-c]{1,4}", item) if isinstance(item, str) else item in ({"n": True}, {"n": False})
        for item in value
    )


def matches(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


CASES: dict[str, tuple[str, str, Callable[[str], bool]]] = {
    "city": ("json_schema", CITY, is_city),
    "verdict": ("json_schema", VERDICT, is_verdict),
    "nested": ("json_schema", NESTED, is_nested),
    "date": ("regex", r"(19|20)[0-9]{2}-[01][0-9]-[0-3][0-9]", matches(r"(19|20)[0-9]{2}-[01][0-9]-[0-3][0-9]")),
    "word": ("regex", "[a-z]{2,8}", matches("[a-z]{2,8}")),
    "sum": ("grammar", CALCULATION, matches(r"\(*[0-9]{1,3}\)*( [-+*] \(*[0-9]{1,3}\)*){1,2}")),
}


@pytest.mark.parametrize("case", CASES)
async def test_every_answer_fits(wire: Wire, case: str) -> None:
    kind, text, fits = CASES[case]
    ids = [f"a{i}" for i in range(10)]
    options = {**FREE, kind: text}
    story = await wire.tell(
        prefill("q", "Tell me about a city, and answer with what you were asked for."),
        *(decode(id, ["q"], seed=i, **options) for i, id in enumerate(ids)),
    )
    trailer = list((await wire.info()).trailer_ids)
    made = set()
    for id in ids:
        message = story[id].message
        assert message.state == pb.STATE_DONE, message.error.text
        assert message.text == story[id].text
        assert list(message.tokens[message.content_end :]) == trailer
        if message.finish == pb.FINISH_REASON_LENGTH:  # a number may be as long as it likes
            assert len(content(message)) == 64
            continue
        assert message.finish in ENDS
        assert fits(message.text), message.text
        made.add(message.text)
    assert len(made) > 3


async def test_where_it_may_end_the_model_decides(wire: Wire) -> None:
    kinds = {"free": {}, "long": {"min_tokens": 10}, "deaf": {"ignore_eos": True}}
    calls = [
        decode(f"{kind}{i}", ["q"], seed=i, regex="[a-z]+", **FREE | {"max_tokens": 24} | more)
        for kind, more in kinds.items()
        for i in range(6)
    ]
    story = await wire.tell(prefill("q", "Write a word."), decode("fixed", ["q"], regex="sea", **FREE), *calls)
    made = {kind: [story[f"{kind}{i}"].message for i in range(6)] for kind in kinds}
    for message in chain.from_iterable(made.values()):
        assert re.fullmatch("[a-z]+", message.text)
        ended = message.finish == pb.FINISH_REASON_END_OF_TURN
        assert ended or (message.finish == pb.FINISH_REASON_LENGTH and len(content(message)) == 24)
    assert min(len(content(message)) for message in made["free"]) < 10
    assert min(len(content(message)) for message in made["long"]) >= 10
    assert {message.finish for message in made["deaf"]} == {pb.FINISH_REASON_LENGTH}
    fixed = story["fixed"].message
    assert (fixed.finish, fixed.text) == (pb.FINISH_REASON_CONSTRAINT, "sea")


async def test_the_forced_beginning_is_not_part_of_it(wire: Wire) -> None:
    story = await wire.tell(decode("a", (), 'The JSON: {"x": 1', json_schema='{"const": {"y": 2}}', **FREE))
    assert story["a"].message.text == 'The JSON: {"x": 1{"y": 2}'


async def test_stop_strings_cut_first(wire: Wire) -> None:
    options = FREE | {"json_schema": '{"const": {"one": "two three"}}'}
    story = await wire.tell(decode("a", (), stop=["o three"], **options), decode("b", (), stop=['"}'], **options))
    a, b = story["a"].message, story["b"].message
    assert (a.finish, a.text, story["a"].text) == (pb.FINISH_REASON_STOP, '{"one": "tw', '{"one": "tw')
    assert (b.finish, b.text) == (pb.FINISH_REASON_STOP, '{"one": "two three')


async def test_max_tokens_in_the_middle_is_length(wire: Wire) -> None:
    story = await wire.tell(decode("a", (), json_schema=CITY, **FREE | {"max_tokens": 3}))
    message = story["a"].message
    assert message.finish == pb.FINISH_REASON_LENGTH
    assert message.text.startswith('{"city"'[: len(message.text)])


async def test_a_bias_against_the_only_way_fails_the_call_alone(wire: Wire) -> None:
    digits = {token: float("-inf") for digit in "0123456789" for token in await wire.tokenize(pb.Prefill(text=digit))}
    story = await wire.tell(
        decode("a", (), regex="x[0-9]", logit_bias=digits, **FREE),
        decode("child", ["a"]),
        decode("b", (), regex="x[0-9]", **FREE),
    )
    failed = story["a"].message
    assert (failed.state, failed.error.reason) == (pb.STATE_FAILED, "NOTHING_ALLOWED")
    assert "after 1 generated" in failed.error.text
    assert failed.text == "x"
    assert story["child"].message.error.reason == "PARENT_FAILED"
    assert re.fullmatch("x[0-9]", story["b"].message.text)


async def test_a_constrained_answer_is_a_message_like_any_other(wire: Wire) -> None:
    """Its tokens are read by others where they lie, and the same call again is the same."""
    call = decode("a", ["q"], json_schema=VERDICT, seed=4, **FREE)
    story = await wire.tell(prefill("q", "Is it right?"), call)
    again = await wire.tell(call, decode("after", ["q", "a"]))
    assert again["a"].message == story["a"].message
    receipt = again["after"].message.receipt
    assert receipt.reused_in_place == len(story["q"].message.tokens) + len(story["a"].message.tokens)
