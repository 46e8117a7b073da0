"""The peers' adapters against a server that answers as llama.cpp does, and what the benchmarks do with them."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pavane.bench.lab import interleaved, random_tokens
from pavane.bench.peers.debate import Turns, debate_on, prompt
from pavane.bench.peers.hf import HuggingFace
from pavane.bench.peers.http import Http, PeerFailed
from pavane.bench.peers.llama_cpp import LlamaCpp
from pavane.bench.peers.llama_server import build
from pavane.bench.peers.peer import check_installed
from pavane.clients.workflows import Setting
from pavane.clients.workflows.debate import DebateSizes

TURNS = Turns([1, 2], [3], [4, 5], [6])


class Handler(BaseHTTPRequestHandler):
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
        await HuggingFace(http, "").answer([[11]], 2, temperature=0.0, seed=0, fresh=True)


async def test_a_refused_request_says_why(server, http):
    server.answer = lambda body: b""
    with pytest.raises(PeerFailed, match="400 b'no such slot'"):
        await LlamaCpp(http, "").answer([[11]], 2, temperature=0.0, seed=0, fresh=True)


async def test_the_debate_goes_through_each_agents_own_slot(server, http):
    server.answer = lambda body: json.dumps({"tokens": [20 + body["id_slot"]] * body["n_predict"]}).encode()
    sizes = DebateSizes(agents=3, rounds=2, answer_tokens=2, last_tokens=2)
    assert await debate_on(LlamaCpp(http, ""), TURNS, sizes, Setting()) > 0
    last = {body["id_slot"]: body for body in server.bodies[6:]}
    own, left, right = ([4, 5, 20 + i, 20 + i, 6] for i in (1, 0, 2))
    assert last[1]["prompt"] == [1, 2, *own, *own, 3, *left, *right, 4, 5]
    assert [body["cache_prompt"] for body in server.bodies] == [False] * 3 + [True] * 6
    assert sorted(body["seed"] for body in server.bodies) == list(range(1000, 1009))


def test_the_first_round_reads_the_start_alone():
    assert prompt(TURNS, [], 0) == [1, 2, 4, 5]


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
