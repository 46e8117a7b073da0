"""A stream that restarts from an older cursor sends deltas again, merged with new ones."""

from typing import cast

from pavane.clients.message import Message
from pavane.clients.workflow import Workflow
from pavane.protos.v1 import pavane_pb2 as pb


def delta(cursor: int, text: str, tokens: list[int], first_token: int, first_char: int) -> pb.Event:
    said = pb.Delta(text=text, tokens=tokens, first_token=first_token, first_char=first_char)
    return pb.Event(cursor=cursor, id="m", delta=said)


async def test_what_is_here_already_is_not_taken_twice() -> None:
    message = Message(cast(Workflow, None), pb.Call(id="m", decode=pb.Decode()))
    message.take(delta(4, "one", [1], 0, 0))
    message.take(delta(6, " two", [2, 3], 1, 3))
    message.begin_stream()
    message.take(delta(9, "one two three", [1, 2, 3, 4], 0, 0))
    done = pb.Message(id="m", state=pb.STATE_DONE, text="one two three.", tokens=[1, 2, 3, 4, 5], content_end=5)
    message.take(pb.Event(cursor=12, id="m", done=done))
    deltas = [d async for d in message]
    assert "".join(d.text for d in deltas) == "one two three."
    assert [t for d in deltas for t in d.tokens] == [1, 2, 3, 4, 5]


async def test_log_probabilities_and_likeliest_tokens_stay_with_their_tokens() -> None:
    def place(*tokens: int) -> pb.TopLogprobs:
        return pb.TopLogprobs(tokens=tokens, logprobs=[-float(t) for t in tokens])

    message = Message(cast(Workflow, None), pb.Call(id="m", decode=pb.Decode()))
    places = [place(i, 10 + i) for i in range(4)]
    first, second = delta(4, "a", [0, 1], 0, 0), delta(9, "abc", [0, 1, 2], 0, 0)
    for event, n in ((first, 2), (second, 3)):
        event.delta.logprobs.extend(-float(i) for i in range(n))
        event.delta.top_logprobs.extend(places[:n])
    message.take(first)
    message.begin_stream()
    message.take(second)
    done = pb.Message(id="m", state=pb.STATE_DONE, text="abcd", tokens=range(4), content_end=4, top_logprobs=places)
    done.logprobs.extend(-float(i) for i in range(4))
    message.take(pb.Event(cursor=12, id="m", done=done))
    deltas = [d async for d in message]
    assert [p for d in deltas for p in d.logprobs] == [-0.0, -1.0, -2.0, -3.0]
    expected = tuple(((i, -float(i)), (10 + i, -10.0 - i)) for i in range(4))
    assert tuple(top for d in deltas for top in d.top_logprobs) == expected
    assert (await message).top_logprobs == expected
