"""The options of sampling, each with an effect that can be told exactly, on the real model."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
from end_to_end.served import ServerProcess, Story, Wire, content, decode, prefill

from pavane.clients import Client
from pavane.protos.v1 import pavane_pb2 as pb

QUESTION = "Repeat the word sea."
BEGUN = "sea, sea, sea, sea, sea, sea,"  # and so it goes on
_NUMBERS = itertools.count()


async def answers(wire: Wire, *calls: pb.Call) -> Story:
    """Each generated alone, one after the other: always in steps of the same shapes."""
    story = await wire.tell(prefill("q", QUESTION))
    for call in calls:
        story.calls |= (await wire.tell(call)).calls
    return story


async def one(wire: Wire, count: int = 16, **options: Any) -> pb.Message:
    id = f"a{next(_NUMBERS)}"
    return (await answers(wire, decode(id, ["q"], BEGUN, max_tokens=count, **options)))[id].message


async def test_penalties_end_repetition(wire: Wire) -> None:
    plain = content(await one(wire))
    assert max(Counter(plain).values()) > 4
    for penalty in ({"presence_penalty": 2.0, "frequency_penalty": 2.0}, {"repetition_penalty": 3.0}):
        assert max(Counter(content(await one(wire, **penalty))).values()) <= 3
    for off in ({"presence_penalty": 0.0}, {"repetition_penalty": 1.0}, {"min_tokens": 0}, {"logit_bias": {}}):
        assert content(await one(wire, **off)) == plain


async def test_a_bias_decides(wire: Wire) -> None:
    plain = content(await one(wire, 6))
    forced = content(await one(wire, 6, logit_bias={500: 100.0}))
    assert forced == [500] * 6
    without = content(await one(wire, 6, logit_bias=dict.fromkeys(plain, -math.inf)))
    assert not set(without) & set(plain)


async def test_log_probabilities_are_the_models_own(wire: Wire) -> None:
    """Whatever was done to the logits before a token was chosen."""
    story = await answers(
        wire,
        decode("plain", ["q"], max_tokens=5, logprobs=4),
        decode("edited", ["q"], max_tokens=5, logprobs=4, logit_bias={500: 100.0}, repetition_penalty=2.0),
        decode("one", ["q"], max_tokens=5, logprobs=1),
        decode("none", ["q"], max_tokens=5),
    )
    plain, edited = story["plain"].message, story["edited"].message
    for message in (plain, edited):
        assert len(message.logprobs) == len(message.top_logprobs) == 5
        for place in message.top_logprobs:
            assert len(place.tokens) == len(place.logprobs) == 4
            assert list(place.logprobs) == sorted(place.logprobs, reverse=True)
            assert sum(map(math.exp, place.logprobs)) < 1.001
    assert [place.tokens[0] for place in plain.top_logprobs] == content(plain)
    assert [place.logprobs[0] for place in plain.top_logprobs] == list(plain.logprobs)
    # The first place is the same for both: nothing was generated yet.
    assert edited.top_logprobs[0] == plain.top_logprobs[0]
    assert content(edited) == [500] * 5
    assert 500 not in edited.top_logprobs[0].tokens
    assert edited.logprobs[0] < edited.top_logprobs[0].logprobs[3]
    deltas = [place for delta in story["plain"].deltas for place in delta.top_logprobs]
    assert deltas == list(plain.top_logprobs)
    assert list(story["one"].message.logprobs) == list(plain.logprobs)
    assert not story["one"].message.top_logprobs
    assert not story["none"].message.logprobs


async def test_a_cut_leaves_places_without_likeliest_tokens(wire: Wire) -> None:
    plain = await one(wire, 8)
    pieces = [await wire.text([token]) for token in content(plain)]
    first = next(i for i, piece in enumerate(pieces) if len(piece) > 2)
    stop = pieces[first][2:]
    message = await one(wire, 8, stop=[stop], logprobs=3)
    assert message.finish == pb.FINISH_REASON_STOP
    assert len(content(message)) == len(message.logprobs) == len(message.top_logprobs) > first
    for logprob, place in zip(message.logprobs, message.top_logprobs, strict=True):
        assert len(place.tokens) == (0 if math.isnan(logprob) else 3)
    assert math.isnan(message.logprobs[-1])


async def test_min_tokens(wire: Wire) -> None:
    """Neither the end of the turn nor stop tokens nor stop strings come before."""
    brief = {"temperature": 1.0, "ignore_eos": False, "max_tokens": 60}
    ask = prefill("say", 'Answer with the single word "Yes". Nothing else.')
    story = await wire.tell(ask, *(decode(f"x{i}", ["say"], "Yes", seed=i, **brief) for i in range(4)))
    held = await wire.tell(*(decode(f"y{i}", ["say"], "Yes", seed=i, min_tokens=20, **brief) for i in range(4)))
    assert min(len(content(story[f"x{i}"].message)) for i in range(4)) < 20
    ends = (await wire.info()).end_token_ids
    for i in range(4):
        made = content(held[f"y{i}"].message)
        assert len(made) >= 20
        assert not set(made) & set(ends)
    plain = await one(wire, 12)
    token = content(plain)[2]
    assert len(content(await one(wire, 12, stop_token_ids=[token]))) <= 2
    late = await one(wire, 12, stop_token_ids=[token], min_tokens=6)
    assert len(content(late)) >= 6
    assert token not in content(late)[:6]


async def test_stop_strings_before_min_tokens_are_text_like_any_other(wire: Wire) -> None:
    plain = await one(wire, 12)
    pieces = [await wire.text([token]) for token in content(plain)]
    text = "".join(pieces)
    stop = pieces[0] + pieces[1]
    begins = [i for i in range(len(text)) if text.startswith(stop, i)]
    assert len(begins) > 1  # it repeats itself
    for least in range(8):
        told = await wire.tell(decode(f"m{least}", ["q"], BEGUN, max_tokens=12, stop=[stop], min_tokens=least))
        message = told[f"m{least}"].message
        before = len("".join(pieces[:least]))
        cut = next((at for at in begins if at >= before), None)
        assert message.text == BEGUN + text[:cut]
        assert told[f"m{least}"].text == text[:cut]
        assert len(content(message)) >= least
        assert message.finish == (pb.FINISH_REASON_LENGTH if cut is None else pb.FINISH_REASON_STOP)


async def test_n_samples(server: ServerProcess) -> None:
    async with Client(server.target) as client, client.workflow() as wf:
        ask = wf.prefill(user="Name a colour.")
        options: Any = {"max_tokens": 6, "temperature": 1.5, "ignore_eos": True, "logprobs": 2}
        many = [await message for message in wf.decode_n(4, ask, id="c", seed=11, **options)]
        again = [await message for message in wf.decode_n(2, ask, id="d", seed=11, **options)]
        drawn = [await message for message in wf.decode_n(2, ask, **options)]
    assert [result.id for result in many] == ["c-0", "c-1", "c-2", "c-3"]
    assert len({result.seed for result in [*many, *drawn]}) == 6
    assert len({result.content for result in many}) > 1
    assert [result.seed for result in again] == [result.seed for result in many[:2]]
    for result in many:
        assert [len(place) for place in result.top_logprobs] == [2] * 6
        assert all(logprob <= 0 for place in result.top_logprobs for _, logprob in place)


@pytest.mark.parametrize("n", [2, 20])
async def test_every_number_of_likeliest_tokens(wire: Wire, n: int) -> None:
    places = (await one(wire, 2, logprobs=n)).top_logprobs
    assert [len(set(place.tokens)) for place in places] == [n, n]
