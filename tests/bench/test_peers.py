"""The peers' adapters against a server that answers as llama.cpp does, and what the benchmarks do with them."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pavane.bench.lab import interleaved, random_tokens
from pavane.bench.peers.answer import Answer
from pavane.bench.peers.completions import Completions
from pavane.bench.peers.hf import HuggingFace
from pavane.bench.peers.http import Http, PeerFailed
from pavane.bench.peers.llama_cpp import LlamaCpp
from pavane.bench.peers.llama_server import build
from pavane.bench.peers.peer import check_installed
from pavane.bench.peers.replay import longest, prompt, replay, width
from pavane.bench.workflows.records import RecordedCall, Recording

# Two agents answer from a start, then each reads its own answer and the other's.
ANSWERS = [RecordedCall(f"a{i}", ("start",), (4,), (20 + i,) * 3, (6,), True) for i in range(2)]
READERS = [RecordedCall(f"b{i}", ("start", f"a{i}", f"a{1 - i}"), (5,), (9, 9), (6,), True) for i in range(2)]
RECORDING = Recording(
    "c", "two", {}, "own:1", 46080, (RecordedCall("start", (), (1, 2), (), (), False), *ANSWERS, *READERS)
)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.bodies.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.models)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        answer = self.server.answer(body)
        self.send_response(200 if answer else 400)
        self.end_headers()
        self.wfile.write(answer or b"no such slot")

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.bodies = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def http(server):
    http = Http(f"127.0.0.1:{server.server_port}")
    yield http
    http.close()


def events(*counts):
    """As llama.cpp streams: the second token was held back until its character was whole, the last event has none."""
    chunks = [{"tokens": [7], "tokens_predicted": count, "stop": False} for count in counts]
    chunks.append({"tokens": [], "tokens_predicted": counts[-1], "stop": True})
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)


async def test_llama_cpp_streams_are_counted_by_its_counter(server, http):
    server.answer = lambda body: events(1, 3, 4)
    streams = await LlamaCpp(http, "").stream([[11, 12], [13, 14]], 4)
    assert [[arrival.count for arrival in stream] for stream in streams] == [[1, 3, 4]] * 2
    assert all(0 < stream[0].at <= stream[-1].at for stream in streams)
    assert {tuple(body["prompt"]) for body in server.bodies} == {(11, 12), (13, 14)}
    assert all(body["ignore_eos"] and body["n_predict"] == 4 and not body["cache_prompt"] for body in server.bodies)


async def test_answers_of_another_length_are_refused(server, http):
    server.answer = lambda body: events(1, 2)
    with pytest.raises(PeerFailed, match="2 tokens instead of 3"):
        await LlamaCpp(http, "").stream([[11]], 3)
    server.answer = lambda body: b'{"times": [0.1], "tokens": [[5]]}'
    with pytest.raises(PeerFailed, match="1 tokens instead of 2"):
        await HuggingFace(http, "").complete([11], 2)


async def test_a_refused_request_says_why(server, http):
    server.answer = lambda body: b""
    with pytest.raises(PeerFailed, match="400 b'no such slot'"):
        await LlamaCpp(http, "").complete([11], 2)


def llama(body):
    """Answers of its own, by slot."""
    ids = [50 + body["id_slot"]] * body["n_predict"]
    return json.dumps({"tokens": ids, "timings": {"predicted_ms": 0.1}}).encode()


async def test_llama_cpp_gets_each_prompt_where_most_of_it_is(server, http):
    server.answer = llama
    calls, wall = await replay(LlamaCpp(http, "", slots=2), RECORDING, 0, bos=None)
    assert [call.id for call in calls] == ["a0", "a1", "b0", "b1"]
    first, later = server.bodies[:2], server.bodies[2:]
    assert all(body["cache_prompt"] and body["return_tokens"] for body in server.bodies)
    assert first[0]["prompt"] == first[1]["prompt"]
    salt = first[0]["prompt"][0]
    assert salt >= 1000
    assert first[0]["prompt"] == [salt, 2, 4]
    for body in later:
        own, other = ([4, *[50 + slot] * 3, 6] for slot in (body["id_slot"], 1 - body["id_slot"]))
        assert body["prompt"] == [salt, 2, *own, *other, 5], "its own answers, found where it left them"
        assert body["n_predict"] == 2
    assert {call.id: (call.visible, call.generated) for call in calls} == {
        "a0": (3, 3), "a1": (3, 3), "b0": (13, 2), "b1": (13, 2)
    }  # fmt: skip
    assert all(call.ready + call.total <= wall for call in calls)


async def test_a_call_starts_when_its_parents_are_done_and_no_later():
    class Slow:
        name = about = "slow"

        async def complete(self, prompt, tokens):
            running.append(len(prompt))
            started.append(sorted(running))
            await asyncio.sleep(0.01 if tokens == 3 and len(started) == 1 else 0)
            running.remove(len(prompt))
            return Answer(0.0, 0.0)

    running, started = [], []
    calls, _ = await replay(Slow(), RECORDING, 0, bos=7)
    assert started[:2] == [[4], [4, 4]], "with BOS in front"
    assert started[2:] == [[14], [14, 14]]
    assert [call.visible for call in calls] == [3, 3, 13, 13], "which is never counted"


async def test_repetitions_find_nothing_of_each_other_in_a_cache(server, http):
    server.answer = llama
    for repetition in (0, 1, 1):
        await replay(LlamaCpp(http, "", slots=2), RECORDING, repetition, bos=None)
    salts = [body["prompt"][0] for body in server.bodies]
    assert len(set(salts)) == 2
    assert salts[4:8] == salts[8:]


async def test_a_peer_that_fails_in_the_middle_says_so_by_itself(server, http):
    server.answer = lambda body: llama(body) if body["n_predict"] == 3 else b""
    with pytest.raises(PeerFailed, match="400 b'no such slot'"):
        await replay(LlamaCpp(http, "", slots=2), RECORDING, 0, bos=None)


def test_prompts_are_the_parents_in_their_order():
    calls = {call.id: call for call in RECORDING.calls}
    assert prompt(calls, calls["b1"]) == [1, 2, 4, 21, 21, 21, 6, 4, 20, 20, 20, 6, 5]
    assert (width(RECORDING), longest(RECORDING)) == (2, 15)


async def test_transformers_gets_what_is_ready_together_as_one_batch(server, http):
    server.answer = lambda body: json.dumps(
        {"times": [0.1] * body["tokens"], "tokens": [[8] * body["tokens"] for _ in body["prompts"]]}
    ).encode()
    await replay(HuggingFace(http, ""), RECORDING, 0, bos=None)
    assert [(len(body["prompts"]), body["tokens"]) for body in server.bodies] == [(2, 3), (2, 2)]


def completion(*chunks, usage):
    """As vLLM streams: each chunk with its token ids, then the usage."""
    lines = [{"choices": [{"text": "x", "token_ids": ids}]} for ids in chunks]
    events = [json.dumps(line).encode() for line in (*lines, {"choices": [], "usage": usage})]
    return b"".join(b"data: " + event + b"\n\n" for event in (*events, b"[DONE]"))


@pytest.fixture
def url(server):
    server.models = b'{"data": [{"id": "some-model"}]}'
    return f"http://127.0.0.1:{server.server_port}"


async def spelled(ids):
    return " ".join(map(str, ids))


async def test_any_completions_server_can_be_a_peer(server, url):
    server.answer = lambda body: completion([50], [51, 52], usage={"prompt_tokens": 2, "completion_tokens": 3})
    peer = await Completions.at(url, spelled)
    answer = await peer.complete([11, 12], 3)
    peer.close()
    assert server.bodies[0] == "/v1/models"
    body = server.bodies[1]
    assert (body["model"], body["prompt"], body["max_tokens"], body["ignore_eos"]) == ("some-model", [11, 12], 3, True)
    assert answer.tokens == [50, 51, 52]
    assert 0 < answer.first_token <= answer.total


async def test_a_completions_server_that_does_not_tell_its_tokens_is_fine(server, url):
    server.answer = lambda body: completion(None, usage={"prompt_tokens": 1, "completion_tokens": 3})
    peer = await Completions.at(url + "/v1/", spelled)
    assert (await peer.complete([11], 3)).tokens is None
    peer.close()


@pytest.mark.parametrize(
    ("usage", "said"),
    [
        ({"prompt_tokens": 2, "completion_tokens": 2}, "generated 2 tokens instead of 3"),
        ({"prompt_tokens": 3, "completion_tokens": 3}, "read 3 tokens instead of 2; see its tokenizer settings"),
        (None, "a stream without usage"),
    ],
)
async def test_other_lengths_than_those_asked_for_are_refused(server, url, usage, said):
    server.answer = lambda body: completion([50], usage=usage)
    peer = await Completions.at(url, spelled)
    with pytest.raises(PeerFailed, match=said):
        await peer.complete([11, 12], 3)
    peer.close()


async def test_a_server_that_takes_no_token_ids_gets_text(server, url):
    def answer(body):
        usage = {"prompt_tokens": 1 + len(body["prompt"].split()), "completion_tokens": body["max_tokens"]}
        return completion(None, usage=usage)

    server.answer = lambda body: answer(body) if isinstance(body["prompt"], str) else b""
    peer = await Completions.at(url, spelled)
    first = await peer.complete([11, 12], 3)
    assert (first.read, first.tokens) == (3, None)
    calls, _ = await replay(peer, RECORDING, 0, bos=None)
    assert [call.visible for call in calls] == [4, 4, 14, 14], "as many as it says"
    prompts = [body["prompt"] for body in server.bodies[1:]]
    assert prompts[:2] == [[11, 12], "11 12"]
    assert len(prompts) == 6
    assert prompts[2].endswith(" 2 4")
    peer.close()


async def test_a_server_that_takes_token_ids_never_gets_text(server, url):
    usage = {"prompt_tokens": 2, "completion_tokens": 1}
    server.answer = lambda body: completion([50], usage=usage) if body["prompt"] == [11, 12] else b""
    peer = await Completions.at(url, spelled)
    assert (await peer.complete([11, 12], 1)).read is None
    with pytest.raises(PeerFailed, match="400 b'no such slot'"):
        await peer.complete([13, 14], 1)
    assert [body["prompt"] for body in server.bodies[1:]] == [[11, 12], [13, 14]]
    peer.close()


async def test_what_is_no_completions_server_is_said(server, url):
    server.models = b'{"detail": "Not Found"}'
    with pytest.raises(PeerFailed, match="/v1/models names no model"):
        await Completions.at(url, spelled)
    server.models = b"<html>"
    with pytest.raises(PeerFailed, match="the answer is no JSON: b'<html>'"):
        await Completions.at(url, spelled)
    with pytest.raises(PeerFailed, match="give http://HOST:PORT"):
        await Completions.at("https://example.org", spelled)


def test_the_build_says_what_it_lacks():
    info = "CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 1 | REPACK = 0 | "
    assert build(info, {"avx2", "avx512f"}) == "SSE3 AVX2 AVX512"
    lacks = "; built without AVX512_VNNI, which this CPU has"
    assert build(info, {"avx512f", "avx512_vnni"}) == "SSE3 AVX2 AVX512" + lacks


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("pavane.bench.peers.peer.PACKAGES", {"llama.cpp": "no_such_package"})
    with pytest.raises(ModuleNotFoundError) as caught:
        check_installed(["llama.cpp"])
    assert caught.value.name == "no_such_package"


async def test_every_arm_goes_first_in_turn():
    assert [arm async for _, arm in interleaved("abc", 3)] == list("abcbcacab")


def test_prompts_are_fresh_and_can_be_made_again():
    assert random_tokens(2, 50, 1) == random_tokens(2, 50, 1)
    first, second = random_tokens(2, 50, 1)
    assert first != second
    assert [first, second] != random_tokens(2, 50, 2)


async def test_a_server_that_is_gone_is_named():
    http = Http("127.0.0.1:1")
    with pytest.raises(PeerFailed, match=r"/completion at 127\.0\.0\.1:1: no answer"):
        await LlamaCpp(http, "").stream([[11]], 2)
    http.close()
