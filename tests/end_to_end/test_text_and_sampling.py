"""What is generated: greedy and seeded, cut by stops, forced; and what it cost."""

from __future__ import annotations

from typing import Any

import pytest
from end_to_end.served import Wire, content, decode, prefill, turns

from pavane.protos.v1 import pavane_pb2 as pb

QUESTION = "Write one sentence about the sea."


async def answer(wire: Wire, id: str, count: int = 12, **options: Any) -> pb.Message:
    """An answer to the question, generated alone: always in steps of the same shapes."""
    await wire.tell(prefill("q", QUESTION))
    return (await wire.tell(decode(id, ["q"], max_tokens=count, **options)))[id].message


async def test_greedy_is_deterministic(wire: Wire) -> None:
    first = await answer(wire, "a", logprobs=1)
    assert list(first.tokens) == list((await answer(wire, "b", seed=7)).tokens)
    # Nothing but the likeliest token is left to draw.
    assert list(first.tokens) == list((await answer(wire, "c", temperature=3.0, top_k=1)).tokens)


async def test_seeds_are_reported_and_reproduce(wire: Wire) -> None:
    drawn = [await answer(wire, f"a{i}", temperature=1.5, top_p=0.95, top_k=200) for i in range(2)]
    assert drawn[0].seed != drawn[1].seed
    assert content(drawn[0]) != content(drawn[1])
    again = await answer(wire, "again", temperature=1.5, top_p=0.95, top_k=200, seed=drawn[0].seed)
    assert again.seed == drawn[0].seed
    assert list(again.tokens) == list(drawn[0].tokens)


async def test_the_template_is_what_the_messages_say(wire: Wire) -> None:
    """Messages put together are the tokens of one prompt with all of the turns."""
    story = await wire.tell(prefill("q", QUESTION), decode("a", ["q"], "The sea "))
    tokens = [*story["q"].message.tokens, *story["a"].message.tokens]
    assert list(story["q"].message.tokens) == await wire.tokenize(turns(("user", QUESTION)))
    text = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n{story['a'].message.text}<|im_end|>\n"
    assert await wire.detokenize(tokens) == text


@pytest.mark.parametrize("prefix", ["", "Well, "])
async def test_a_stop_string_cuts_the_text(wire: Wire, prefix: str) -> None:
    full = await answer(wire, "full", prefix=prefix)
    text = full.text.removeprefix(prefix)
    pieces = [await wire.text([token]) for token in content(full)]
    # Begins inside one token and ends inside a later one.
    begin = len("".join(pieces[:5])) + len(pieces[5]) // 2
    stop = text[begin : begin + len(pieces[5]) + 1]
    assert len(stop) > 1
    cut = text.index(stop)
    # One after the other: in one batch the roundings of bfloat16 are others.
    story = await wire.tell(decode("a", ["q"], prefix, max_tokens=12, stop=["never said", stop]))
    uncut = (await wire.tell(decode("b", ["q"], prefix, max_tokens=12, stop=["never said"])))["b"]
    message = story["a"].message
    assert message.finish == pb.FINISH_REASON_STOP
    assert message.text == prefix + text[:cut]
    assert story["a"].text == text[:cut]  # nothing of the stop string was ever shown
    assert await wire.text(content(message)) == text[:cut]
    assert list(message.tokens[message.content_end :]) == list((await wire.info()).trailer_ids)
    kept = content(full)[: sum(len("".join(pieces[:i])) <= cut for i in range(1, len(pieces)))]
    assert content(message)[: len(kept)] == kept
    assert uncut.message.finish == pb.FINISH_REASON_LENGTH
    assert prefix + uncut.text == uncut.message.text == full.text
    # Whoever reads it finds all of it encoded, the token that was cut as well.
    after = (await wire.tell(decode("after", ["q", "a"])))["after"].message
    assert after.receipt.reused_in_place == len(message.tokens) + len((await wire.get("q")).tokens)


async def test_stop_tokens_and_the_end_of_the_turn(wire: Wire) -> None:
    full = await answer(wire, "full")
    tokens = content(full)
    stop = tokens[4]
    message = await answer(wire, "a", stop_token_ids=[stop])
    assert content(message) == tokens[: tokens.index(stop)]
    assert message.finish == pb.FINISH_REASON_STOP
    end = (await wire.info()).end_token_ids[0]
    story = await wire.tell(
        prefill("say", 'Answer with the single word "Yes". Nothing else.'),
        decode("yes", ["say"], "Yes", max_tokens=40, ignore_eos=False),
    )
    turn = story["yes"].message
    assert turn.finish == pb.FINISH_REASON_END_OF_TURN
    assert end not in content(turn)
    assert turn.tokens[turn.content_end] == end
    assert len(content(turn)) < 40
    assert turn.text == "Yes" + story["yes"].text


async def test_forced_tokens_step_by_step_and_in_one_pass(wire: Wire) -> None:
    full = await answer(wire, "full", logprobs=1)
    ids = content(full)
    stepwise, at_once = [
        (await wire.tell(decode(id, ["q"], forced=pb.Forced(ids=ids, one_pass=one), logprobs=1)))[id]
        for id, one in (("steps", False), ("pass", True))
    ]
    for told in (stepwise, at_once):
        message = told.message
        assert message.finish == pb.FINISH_REASON_FORCED
        assert content(message) == ids
        assert message.text == full.text
        assert list(message.tokens) == list(full.tokens)
        assert message.receipt.generated == len(ids)
        assert len(message.logprobs) == len(ids)
    steps, one_pass = list(stepwise.message.logprobs), list(at_once.message.logprobs)
    assert steps == pytest.approx(list(full.logprobs), abs=1e-3)  # the same steps, forced
    assert one_pass == pytest.approx(steps, abs=0.15)  # bfloat16: other shapes, other roundings
    assert max(abs(p) for p in steps) > 0.3
    # Other tokens are less likely than what greedy decoding took.
    other = pb.Forced(ids=[ids[0], *reversed(ids[1:])], one_pass=True)
    shuffled = (await wire.tell(decode("other", ["q"], forced=other, logprobs=1)))["other"].message
    assert sum(shuffled.logprobs) < sum(one_pass) - 5


async def test_a_copy_has_the_tokens_and_other_eyes(wire: Wire) -> None:
    copy = pb.Call(id="k", prefill=pb.Prefill(copy=pb.Copy(of="a")), parents=[pb.ParentRef(id="p")])
    story = await wire.tell(prefill("q", QUESTION), decode("a", ["q"]), prefill("p", "Another question?"), copy)
    a, k = story["a"].message, story["k"].message
    assert list(k.tokens) == list(a.tokens)
    assert k.start == len(story["p"].message.tokens)
    assert [use.id for use in k.receipt.parents] == ["p"]
