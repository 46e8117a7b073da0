import subprocess
import sys

import pytest

from pavane.clients.calls import decode_call, prefill_call, samples
from pavane.clients.edges import Edge
from pavane.clients.errors import DeadlineExceeded, InvalidRequest, ResourceExhausted, Unavailable
from pavane.clients.retry import Backoff, RetryPolicy, retriable
from pavane.clients.sampling import derived_seed
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
        ({"user": "ab\ud800"}, "user has half a surrogate pair at 2"),
        ({"user": "a", "layout": "left"}, "packed, as_encoded"),
        ({"user": "a", "temprature": 1}, "no option 'temprature'"),
        ({"user": "a", "timeout": -1}, "timeout must be from 0 to 1e"),
        ({"user": "a", "timeout": float("inf")}, "timeout must be from 0 to 1e"),
        ({"user": "a", "timeout": "soon"}, "timeout must be a number"),
        ({"user": "a", "ttl": 0}, "ttl must be more than 0 seconds"),
        ({"user": "a", "readers": 100_001}, "readers must be from 0 to 100000"),
        ({"user": "a", "max_attempts": 0}, "max_attempts must be from 1 to 16"),
        ({"user": "a", "max_attempts": 17}, "max_attempts must be from 1 to 16"),
        ({"user": "a", "labels": ["a"]}, "labels must map strings to strings"),
        ({"user": "a", "labels": {"n": 5}}, "label 'n' must be a string"),
        ({"user": "a", "labels": {"": "x"}}, "its name must have 1 to 256 characters"),
        ({"user": "a", "labels": {"n": "x" * 257}}, "label 'n'.* at most as many"),
        ({"user": "a", "labels": {str(i): "" for i in range(17)}}, "17 entries; at most 16"),
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
        ({"repetition_penalty": 11}, "repetition_penalty must be from 0 to 10"),
        ({"presence_penalty": -2.5}, "presence_penalty must be from -2 to 2"),
        ({"frequency_penalty": "much"}, "frequency_penalty must be a number"),
        ({"logit_bias": [5]}, "logit_bias must map token ids"),
        ({"logit_bias": {"five": 1.0}}, "a token id in logit_bias must be an integer"),
        ({"logit_bias": {5: 101}}, r"logit_bias\[5\] must be from -100 to 100"),
        ({"logit_bias": {5: float("inf")}}, r"logit_bias\[5\] must be"),
        ({"min_tokens": -1}, "min_tokens must be from 0"),
        ({"logprobs": "all"}, "logprobs must be an integer"),
        ({"json_schema": 5}, "json_schema must be a string"),
        ({"regex": "a", "grammar": "b"}, "regex and grammar exclude each other"),
    ],
)
def test_wrong_decodes_are_refused_in_words(options, says):
    with pytest.raises((ValueError, TypeError), match=says):
        decode_call("a", [], options)


def test_what_becomes_of_a_message_on_the_wire():
    options = {"max_attempts": 3, "pin": True, "ttl": 0.25, "readers": 0, "labels": {"agent": "critic"}}
    call = decode_call("a", [], options)
    assert call.max_attempts == 3
    assert call.retention == pb.Retention(pin=True, ttl={"nanos": 250_000_000}, readers=0)
    assert call.retention.HasField("readers")
    assert dict(call.labels) == {"agent": "critic"}


def test_sampling_options_on_the_wire():
    sampling = decode_call(
        "a",
        [],
        {
            "repetition_penalty": 1.25, "presence_penalty": -1, "frequency_penalty": 0.5, "min_tokens": 3,
            "logit_bias": {5: 2, 7: float("-inf")}, "logprobs": True, "json_schema": {"type": "null"},
        },
    ).decode.sampling  # fmt: skip
    assert sampling == pb.Sampling(
        repetition_penalty=1.25, presence_penalty=-1.0, frequency_penalty=0.5, min_tokens=3,
        logit_bias={5: 2.0, 7: float("-inf")}, logprobs=1, json_schema='{"type": "null"}',
    )  # fmt: skip
    assert decode_call("a", [], {"logprobs": 4, "regex": "a|b"}).decode.sampling == pb.Sampling(logprobs=4, regex="a|b")


def test_samples_have_names_and_seeds_of_their_own():
    made = samples(3, {"id": "a", "seed": 7, "top_k": 5})
    assert [one["id"] for one in made] == ["a-0", "a-1", "a-2"]
    assert [one["seed"] for one in made] == [derived_seed(7, str(i)) for i in range(3)]
    assert len({one["seed"] for one in made}) == 3
    assert made[:2] == samples(2, {"id": "a", "seed": 7, "top_k": 5})
    assert samples(2, {"top_k": 5}) == [{"top_k": 5}] * 2
    with pytest.raises(ValueError, match="at least one sample"):
        samples(0, {})


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
    assert retriable(DeadlineExceeded("DEADLINE_EXCEEDED", "no answer in 30 s"))
    assert not retriable(DeadlineExceeded("DEADLINE_HOPELESS", "give it more", refused=True))


def test_the_client_needs_neither_the_engine_nor_the_command_line():
    code = "import sys, pavane.clients; print(*({'torch', 'numpy', 'rich', 'yaml'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""
