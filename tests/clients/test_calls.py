import subprocess
import sys

import pytest

from pavane.clients.calls import decode_call, prefill_call
from pavane.clients.edges import Edge
from pavane.clients.errors import InvalidRequest, ResourceExhausted, Unavailable
from pavane.clients.retry import Backoff, RetryPolicy, retriable
from pavane.protos.v1 import pavane_pb2 as pb


def test_keyword_turns_go_in_the_order_of_a_chat():
    call = prefill_call("a", [], {"user": "u", "system": "s"})
    assert [(t.role, t.text) for t in call.prefill.turns.turns] == [("system", "s"), ("user", "u")]


def test_edges_chain_and_do_not_change_each_other():
    idea = Edge("idea")
    assert idea.exact().last().to_proto() == pb.ParentRef(id="idea", fidelity=pb.FIDELITY_EXACT, last_use=True)
    assert idea.at(0).to_proto() == pb.ParentRef(id="idea", offset=0)
    assert idea.at(5).as_encoded().reuse().to_proto() == pb.ParentRef(
        id="idea", as_encoded=True, fidelity=pb.FIDELITY_REUSE
    )
    assert idea.to_proto() == pb.ParentRef(id="idea")


def test_unset_options_stay_unset_on_the_wire():
    call = decode_call("a", [], {})
    turn = pb.Turn(role="assistant")
    assert call == pb.Call(id="a", decode=pb.Decode(header=pb.Header(turn=turn), sampling=pb.Sampling()))
    greedy = decode_call("a", [], {"temperature": 0, "seed": 0, "start": 0, "timeout": 1.5})
    assert greedy.decode.sampling.HasField("temperature")
    assert greedy.decode.sampling.HasField("seed")
    assert greedy.HasField("start")
    assert (greedy.timeout.seconds, greedy.timeout.nanos) == (1, 500_000_000)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "got nothing"),
        ({"user": "a", "text": "b"}, "got user and text"),
        ({"turns": ["user"]}, "pairs"),
        ({"tokens": []}, "non-empty list"),
        ({"tokens": [-1]}, "from 0"),
        ({"user": 3}, "user must be a string"),
        ({"user": "a", "layout": "left"}, "packed, as_encoded"),
        ({"user": "a", "temprature": 1}, "no option 'temprature'"),
        ({"user": "a", "timeout": -1}, "duration"),
    ],
)
def test_wrong_prefills_are_refused_in_words(options, says):
    with pytest.raises((ValueError, TypeError), match=says):
        prefill_call("a", [], options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"top_p": 1.5}, "top_p must be from 0 to 1"),
        ({"max_tokens": "ten"}, "max_tokens must be an integer"),
        ({"max_tokens": True}, "max_tokens must be an integer"),
        ({"seed": -1}, "seed must be from 0"),
        ({"header_tokens": [1], "prefix": "So"}, "header_tokens replace"),
        ({"one_pass": True}, "give forced"),
        ({"fidelity": "high"}, "reuse, exact"),
    ],
)
def test_wrong_decodes_are_refused_in_words(options, says):
    with pytest.raises((ValueError, TypeError), match=says):
        decode_call("a", [], options)


def test_ids_and_parents_are_checked():
    with pytest.raises(ValueError, match="a message id must be"):
        decode_call("a b", [], {})
    with pytest.raises(ValueError, match="listed twice"):
        decode_call("a", [Edge("p"), Edge("p").exact()], {})
    with pytest.raises(ValueError, match="not negative"):
        Edge("p").at(-1)


def test_backoff_grows_respects_the_server_and_ends():
    backoff = Backoff(RetryPolicy(first=1.0, factor=2.0, longest=4.0, give_up_after=100.0))
    lost = Unavailable("UNAVAILABLE", "gone")
    for step in (1.0, 2.0, 4.0, 4.0):
        assert step / 2 <= backoff.wait(lost) <= step
    assert backoff.wait(ResourceExhausted("FULL", "full", retry_after=50.0)) >= 50.0
    assert backoff.wait(ResourceExhausted("FULL", "full", retry_after=101.0)) is None
    assert Backoff(RetryPolicy(give_up_after=0.0)).wait(lost) is None
    assert not retriable(InvalidRequest("BAD", "bad"))
    assert not retriable(ResourceExhausted("FULL", "full"))


def test_the_client_needs_neither_the_engine_nor_the_command_line():
    code = "import sys, pavane.clients; print(*({'torch', 'numpy', 'rich', 'yaml'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""
