"""What is wrong with a request is said at once: code, reason, and what to change. The server goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from end_to_end.served import PATIENCE, Wire, copied, decode, failure, prefill, refused, seconds, stored, turns
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from pavane.protos.v1 import pavane_pb2 as pb

INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
TAKEN, NEVER = grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.FAILED_PRECONDITION
VOCABULARY = 49_152
Request = Callable[[Wire], Any]
Case = tuple[str, Request, grpc.StatusCode, str, tuple[str, ...]]


@pytest.fixture(autouse=True)
async def goes_on(wire: Wire) -> AsyncIterator[None]:
    """Before and after: a good request. Nothing of the bad one remains."""
    await wire.tell(prefill("good", "Hello."))
    yield
    story = await wire.tell(decode("fine", ["good"], max_tokens=1))
    assert story["fine"].message.state == pb.STATE_DONE


def submit(*calls: pb.Call) -> Request:
    return lambda wire: wire.submit(*calls)


def grouped(*calls: pb.Call, **fields: Any) -> Request:
    groups = [pb.Group(**{"id": "g", "members": ["good"], "need": 1, **fields})]
    return lambda wire: wire.submit(*calls, groups=groups)


def sampled(words: str, **options: Any) -> Case:
    name = " ".join(f"{key}={str(value)[:20]}" for key, value in options.items())
    return (name, submit(decode("x", **options)), INVALID, "INVALID_SAMPLING", ("'x'", words))


def constrained(words: str, **constraint: str) -> Case:
    ((kind, text),) = constraint.items()
    case = (submit(decode("x", **constraint)), INVALID, "INVALID_CONSTRAINT", ("'x'", f"its {kind}", words))
    return (f"{kind} {text[:20]}", *case)


def forced(words: str, ids: list[int], **options: Any) -> Case:
    call = decode("x", forced=pb.Forced(ids=ids), **options)
    return (f"forced {ids} {options}", submit(call), INVALID, "INVALID_SAMPLING", ("'x'", words))


def method(name: str, **fields: Any) -> Request:
    """An RPC about the test's workflow."""

    def send(wire: Wire) -> Any:
        request = getattr(pb, f"{name}Request")(**{"workflow_id": wire.id, **fields})
        call = getattr(wire.rpc, name)(request, timeout=PATIENCE)
        return call.read() if name in ("Watch", "Run") else call

    return send


def model(name: str, **fields: Any) -> Request:
    return lambda wire: getattr(wire.models, name)(getattr(pb, f"{name}Request")(**fields), timeout=PATIENCE)


def within(namespace: str) -> Request:
    def send(wire: Wire) -> Any:
        request = pb.OpenWorkflowRequest(workflow_id=wire.id)
        return wire.rpc.OpenWorkflow(request, metadata=(("pavane-namespace", namespace),), timeout=PATIENCE)

    return send


def header(**fields: Any) -> pb.Call:
    return pb.Call(id="x", decode=pb.Decode(header=pb.Header(**fields)))


def given(**fields: Any) -> pb.Call:
    return pb.Call(id="x", prefill=pb.Prefill(**fields))


def copy(id: str, of: str) -> pb.Call:
    return pb.Call(id=id, prefill=pb.Prefill(copy=pb.Copy(of=of)))


X = prefill("x", "?")
PARENT = pb.ParentRef
CASES: list[Case] = [
    # unknown
    *(
        (f"{name} unknown workflow", method(name, workflow_id="nowhere", **fields), MISSING, "UNKNOWN_WORKFLOW", words)
        for words in [("'nowhere'", "OpenWorkflow")]
        for name, fields in {
            "CloseWorkflow": {},
            "Submit": {"calls": [X]},
            "Watch": {},
            "Cancel": {"ids": ["good"]},
            "Finish": {"ids": ["good"]},
            "Release": {"ids": ["good"]},
            "GetMessage": {"id": "good"},
            "ListMessages": {},
        }.items()
    ),
    (
        "Run unknown workflow",
        lambda wire: wire.rpc.Run(
            pb.RunRequest(submit=pb.SubmitRequest(workflow_id="nowhere", calls=[X])), timeout=PATIENCE
        ).read(),
        MISSING,
        "UNKNOWN_WORKFLOW",
        ("'nowhere'",),
    ),
    *(
        (f"{name} unknown message", method(name, **fields), MISSING, "UNKNOWN_MESSAGE", ("no message 'nobody'",))
        for name, fields in {
            "Watch": {"ids": ["good", "nobody"]},
            "Cancel": {"ids": ["good", "nobody"]},
            "Finish": {"ids": ["nobody"]},
            "Release": {"ids": ["nobody"]},
            "GetMessage": {"id": "nobody"},
        }.items()
    ),
    ("unknown parent", submit(decode("x", ["good", "nobody"])), MISSING, "UNKNOWN_MESSAGE", ("'nobody'",)),
    ("copy of nobody", submit(copy("x", "nobody")), MISSING, "UNKNOWN_MESSAGE", ("'nobody'",)),
    # ids
    *(
        (f"malformed {what} {id[:9]!r}", request, INVALID, "INVALID_ID", ("is not valid", "A-Z a-z 0-9 . _ -"))
        for id in ("", "a b", "ä", "x/y", "new\nline", "a" * 65, "a" * 10_000)
        for what, request in {
            "workflow": method("OpenWorkflow", workflow_id=id),
            "call": submit(prefill(id, "?")),
            "parent": submit(decode("x", [id])),
        }.items()
    ),
    ("malformed copied id", submit(copy("x", "a b")), INVALID, "INVALID_ID", ("'a b'", "copied")),
    ("malformed namespace", within("a b"), INVALID, "INVALID_ID", ("namespace 'a b'", "at most 64")),
    ("long namespace", within("a" * 65), INVALID, "INVALID_ID", ("at most 64",)),
    ("id reused", submit(prefill("good", "Other.")), TAKEN, "ID_REUSED", ("'good'", "choose a new one")),
    ("id twice", submit(X, prefill("x", "Other.")), TAKEN, "ID_REUSED", ("'x'", "choose a new one")),
    # the graph
    ("no calls", submit(), INVALID, "INVALID_REQUEST", ("no calls",)),
    ("neither kind", submit(pb.Call(id="x")), INVALID, "INVALID_REQUEST", ("'x'", "neither", "set one")),
    ("a parent twice", submit(decode("x", ["good", "good"])), INVALID, "INVALID_PARENT", ("'good' twice", "Copy")),
    ("its own parent", submit(decode("x", ["x"])), INVALID, "CYCLE", ("x <- x", "remove one")),
    ("its own copy", submit(copy("x", "x")), INVALID, "CYCLE", ("x <- x",)),
    (
        "a cycle",
        submit(decode("a", ["c"]), copy("b", "a"), decode("c", ["good", "b"])),
        INVALID,
        "CYCLE",
        ("a <- c <- b <- a", "remove one of these edges"),
    ),
    (
        "too many parents",
        submit(decode("x", [f"p{i}" for i in range(513)])),
        INVALID,
        "TOO_LARGE",
        ("513 parents", "limit is 512"),
    ),
    (
        "graph too large",
        submit(*(stored(f"m{i}", 1) for i in range(201))),
        INVALID,
        "TOO_LARGE",
        ("201", "at most 200"),
    ),
    # groups
    *(
        (f"group: {said}", grouped(*calls, **fields), code, reason, words)
        for said, calls, fields, code, reason, words in [
            ("needs none", (), {"need": 0}, INVALID, "INVALID_GROUP", ("'g' needs 0 of 1 members", "1..1")),
            ("needs too many", (), {"need": 2}, INVALID, "INVALID_GROUP", ("'g' needs 2 of 1 members",)),
            ("has none", (), {"members": []}, INVALID, "INVALID_GROUP", ("'g' needs 1 of 0 members",)),
            ("twice", (), {"members": ["good"] * 2}, INVALID, "INVALID_PARENT", ("'good' twice", "name it once")),
            ("nobody", (), {"members": ["good", "nobody"]}, MISSING, "UNKNOWN_MESSAGE", ("no message 'nobody'",)),
            ("in itself", (), {"members": ["g"]}, INVALID, "INVALID_GROUP", ("the group 'g' where only a message",)),
            ("copied", (copy("x", "g"),), {}, INVALID, "INVALID_GROUP", ("'x' names the group 'g'",)),
            ("of its reader", (decode("x", ["g"]),), {"members": ["x"]}, INVALID, "CYCLE", ("x <- g <- x",)),
            ("a message's id", (), {"id": "good"}, TAKEN, "ID_REUSED", ("'good'", "choose a new one")),
            ("a call's id", (prefill("g", "?"),), {}, TAKEN, "ID_REUSED", ("'g'", "choose a new one")),
            ("malformed id", (), {"id": "a b"}, INVALID, "INVALID_ID", ("group id 'a b'",)),
            ("malformed member", (), {"members": ["a b"]}, INVALID, "INVALID_ID", ("'g': member id 'a b'",)),
            (
                "too large",
                (),
                {"members": [f"p{i}" for i in range(513)]},
                INVALID,
                "TOO_LARGE",
                ("513 members", "limit is 512"),
            ),
        ]
    ),
    # placement
    *(
        (f"offset {at}", submit(decode("x", [PARENT(id="good", offset=at)])), INVALID, "INVALID_PLACEMENT", words)
        for at in (-1, -(2**31), 8192, 2**31 - 1)
        for words in [("'good'", f"offset {at};", "0..8191")]
    ),
    *(
        (f"start {at}", submit(decode("x", ["good"], start=at)), INVALID, "INVALID_PLACEMENT", words)
        for at in (-1, 8192, 2**31 - 1)
        for words in [(f"starts at {at};", "0..8191")]
    ),
    # content
    ("empty header", submit(header()), INVALID, "EMPTY_CONTENT", ("'x'", "empty header", "turn or tokens")),
    ("no header", submit(pb.Call(id="x", decode=pb.Decode())), INVALID, "EMPTY_CONTENT", ("empty header",)),
    ("header of no tokens", submit(header(tokens=pb.Tokens())), INVALID, "EMPTY_CONTENT", ("empty header",)),
    ("no content", submit(given()), INVALID, "EMPTY_CONTENT", ("'x'", "turns, text, tokens or copy")),
    ("no turns", submit(given(turns=pb.Turns())), INVALID, "EMPTY_CONTENT", ("no turns", "give it one")),
    ("no text", submit(given(text="")), INVALID, "EMPTY_CONTENT", ("no tokens", "at least one")),
    ("no tokens", submit(given(tokens=pb.Tokens())), INVALID, "EMPTY_CONTENT", ("no tokens", "at least one")),
    ("Tokenize nothing", model("Tokenize"), INVALID, "EMPTY_CONTENT", ("no content",)),
    (
        "Tokenize a copy",
        model("Tokenize", content=copy("x", "y").prefill),
        INVALID,
        "INVALID_REQUEST",
        ("turns or text",),
    ),
    (
        "unknown role",
        submit(pb.Call(id="x", prefill=turns(("wizard", "?")))),
        INVALID,
        "INVALID_REQUEST",
        ("'x'", "'wizard'", "use one of", "user"),
    ),
    (
        "a name",
        submit(header(turn=pb.Turn(role="assistant", name="Bob"))),
        INVALID,
        "INVALID_REQUEST",
        ("'Bob'", "leave name"),
    ),
    # tokens
    *(
        (
            f"token {id} in {what}",
            submit(call),
            INVALID,
            "INVALID_TOKENS",
            ("'x'", f"{id} is not in 0..{VOCABULARY - 1}"),
        )
        for id in (VOCABULARY, 2**32 - 1)
        for what, call in {
            "content": prefill("x", tokens=[5, id]),
            "header": header(tokens=pb.Tokens(ids=[5, id])),
            "forced": decode("x", forced=pb.Forced(ids=[5, id])),
        }.items()
    ),
    ("Detokenize", model("Detokenize", ids=[VOCABULARY]), INVALID, "INVALID_TOKENS", (f"0..{VOCABULARY - 1}",)),
    # enums
    ("layout 7", submit(copied(X, layout=7)), INVALID, "INVALID_REQUEST", ("'x'", "layout 7 is unknown")),
    ("fidelity -3", submit(copied(X, fidelity=-3)), INVALID, "INVALID_REQUEST", ("fidelity -3 is unknown",)),
    (
        "fidelity 9 of an edge",
        submit(decode("x", [PARENT(id="good", fidelity=9)])),  # type: ignore[arg-type]
        INVALID,
        "INVALID_REQUEST",
        ("fidelity of a parent 9 is unknown",),
    ),
    # sampling
    sampled("temperature is -1; use 0 (greedy)", temperature=-1.0),
    sampled("temperature is nan", temperature=float("nan")),
    sampled("temperature is inf", temperature=float("inf")),
    sampled("top_p is 0; use more than 0", top_p=0.0),
    sampled("top_p is 1.5", top_p=1.5),
    sampled("top_p is nan", top_p=float("nan")),
    sampled("min_p is -0.5; use 0 (off) to 1", min_p=-0.5),
    sampled("min_p is 2", min_p=2.0),
    sampled("top_k is 2147483648", top_k=2**31),
    sampled("max_tokens is 0; use at least 1", max_tokens=0),
    sampled("logprobs is 21; use 1 for those", logprobs=21),
    sampled("repetition_penalty is 0; use more than 0", repetition_penalty=0.0),
    sampled("repetition_penalty is -1", repetition_penalty=-1.0),
    sampled("repetition_penalty is 10.5; use more than 0, up to 10", repetition_penalty=10.5),
    sampled("repetition_penalty is nan", repetition_penalty=float("nan")),
    *(
        sampled(f"{name} is {said}; use -2 to 2", **{name: value})
        for name in ("presence_penalty", "frequency_penalty")
        for said, value in {"2.5": 2.5, "-3": -3.0, "nan": float("nan"), "inf": float("inf")}.items()
    ),
    sampled(f"logit_bias: token id {VOCABULARY} is not in 0..{VOCABULARY - 1}", logit_bias={VOCABULARY: 1.0}),
    sampled("logit_bias of token 5 is 101; use -100 to 100", logit_bias={5: 101.0}),
    sampled("logit_bias of token 5 is inf; use -100 to 100, or -inf", logit_bias={5: float("inf")}),
    sampled("logit_bias of token 5 is nan", logit_bias={5: float("nan")}),
    sampled("1025 logit biases; at most 1024", logit_bias=dict.fromkeys(range(1025), 1.0)),
    sampled("min_tokens is 5, max_tokens only 4; lower the one", min_tokens=5, max_tokens=4),
    sampled("min_tokens is 2147483648", min_tokens=2**31),
    sampled("17 stop strings; at most 16", stop=["a"] * 17),
    sampled("a stop string is empty; leave it out", stop=["a", ""]),
    sampled("longer than 256 characters", stop=["a" * 257]),
    sampled(f"stop token id {VOCABULARY} is not in", stop_token_ids=[VOCABULARY]),
    sampled("ignore_eos is set, but [2] are stop_token_ids; drop one", stop_token_ids=[2], ignore_eos=True),
    forced("forced has no ids; leave it out", []),
    forced("drop stop and stop_token_ids", [5], stop=["a"]),
    forced("drop stop and stop_token_ids", [5], stop_token_ids=[7]),
    forced("drop regex", [5], regex="a+"),
    forced("forces 2 tokens and sets max_tokens 3; leave max_tokens out", [5, 6], max_tokens=3),
    # constraints
    constrained("is not JSON: Expecting property name", json_schema="{"),
    constrained("is not JSON: maximum recursion depth", json_schema='{"a":' * 2000),
    constrained("is no JSON object; use {} for any JSON", json_schema="[]"),
    constrained("Invalid type: objekt", json_schema='{"type": "objekt"}'),
    constrained("Unimplemented keys", json_schema='{"not": {}}'),
    constrained("Unsatisfiable schema: minimum (5)", json_schema='{"type": "integer", "minimum": 5, "maximum": 3}'),
    constrained("does not exist", json_schema='{"$ref": "#/$defs/nowhere"}'),
    constrained("'http://127.0.0.1:9/x' is not present", json_schema='{"$ref": "http://127.0.0.1:9/x"}'),
    constrained("unclosed group", regex="(("),
    constrained("look-around", regex="a(?=b)"),
    constrained("is satisfied by no text; loosen it", regex=r"[^\s\S]"),
    constrained("is 65537 characters long; at most 65536", regex="a" * 65537),
    constrained("unknown name", grammar="start: nowhere"),
    constrained("is satisfied by no text; loosen it", grammar="start: start"),
    constrained("is satisfied by no text; loosen it", grammar="start: <|im_end|>"),  # which is no text
    constrained("Empty grammar", grammar=""),
    constrained("too deeply nested", grammar="start: " + "(" * 20_000 + '"a"' + ")" * 20_000),
    # what never fits
    (
        "too long for the model",
        submit(decode("x", max_tokens=9000)),
        NEVER,
        "CONTEXT_TOO_LONG",
        ("'x'", "9006 tokens long", "9002 to come", "limit is 8192"),
    ),
    ("too long for the pool", submit(decode("x", max_tokens=5000)), NEVER, "NEVER_FITS", ("needs 5006", "has 4096")),
    # times, pages
    (
        "timeout 0",
        submit(copied(X, timeout=seconds(0))),
        INVALID,
        "INVALID_REQUEST",
        ("'x'", "timeout", "longer than 0"),
    ),
    ("timeout -1", submit(copied(X, timeout=seconds(-1))), INVALID, "INVALID_REQUEST", ("timeout is -1 s",)),
    ("ttl -2", method("OpenWorkflow", ttl=seconds(-2)), INVALID, "INVALID_REQUEST", ("ttl is -2 s", "leave it out")),
    (
        "deadline 0",
        method("OpenWorkflow", deadline=seconds(0)),
        INVALID,
        "INVALID_REQUEST",
        ("deadline is 0 s", "leave it out"),
    ),
    # what becomes of a message
    ("seal a prefill", method("Finish", ids=["good"]), NEVER, "NOT_A_DECODE", ("'good' is a Prefill", "only decodes")),
    ("max_attempts 17", submit(copied(X, max_attempts=17)), INVALID, "INVALID_REQUEST", ("'x'", "is 17; use 1 to 16")),
    *(
        (f"retention {said}", submit(copied(X, retention=pb.Retention(**fields))), INVALID, "INVALID_REQUEST", words)
        for fields, said, words in [
            ({"ttl": seconds(0)}, "ttl 0", ("'x'", "retention.ttl is 0 s", "longer than 0")),
            ({"ttl": seconds(-0.5)}, "ttl -0.5", ("retention.ttl is -0.5 s",)),
            ({"readers": 100_001}, "readers", ("'x'", "retention.readers is 100001; use at most 100000")),
        ]
    ),
    *(
        (f"labels: {said}", submit(copied(X, labels=labels)), INVALID, "INVALID_REQUEST", ("'x'", words))
        for labels, said, words in [
            ({str(i): "" for i in range(17)}, "17", "17 labels; at most 16"),
            ({"": "a"}, "no name", "label '' has a name of 0 characters; use 1 to 256"),
            ({"a" * 257: "b"}, "a long name", "a name of 257 characters; use 1 to 256"),
            ({"run": "a" * 257}, "a long value", "label 'run' has a value of 257 characters; use at most 256"),
        ]
    ),
    ("a page of nothing", method("ListMessages", page_token="4;7"), INVALID, "INVALID_REQUEST", ("page_token",)),
]


@pytest.mark.parametrize(("request_", "code", "reason", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
async def test_refused(
    wire: Wire, request_: Request, code: grpc.StatusCode, reason: str, words: tuple[str, ...]
) -> None:
    told = await refused(request_(wire))
    assert (told.code, told.reason) == (code, reason), told.words
    assert told.words == told.details
    for word in words:
        assert word in told.words
    assert len(told.words) < 400
    assert [m.id for m in (await wire.list()).messages] == ["good"]  # nothing of it was accepted


# ---- bytes


def raw(channel: grpc.aio.Channel, name: str, data: bytes) -> Awaitable[Any]:
    """The bytes as they are."""
    if name in ("Watch", "Run"):
        stream = channel.unary_stream(f"/pavane.v1.WorkflowService/{name}")
        return stream(data, timeout=PATIENCE).read()
    service = "ModelService" if name in ("Tokenize", "Detokenize") else "WorkflowService"
    return channel.unary_unary(f"/pavane.v1.{service}/{name}")(data, timeout=PATIENCE)


WORKFLOW_METHODS = [
    "OpenWorkflow", "CloseWorkflow", "Submit", "Cancel", "Finish", "Release", "GetMessage", "ListMessages",
]  # fmt: skip


@pytest.mark.parametrize("name", [*WORKFLOW_METHODS, "Watch", "Run", "Tokenize", "Detokenize"])
async def test_truncated_bytes(channel: grpc.aio.Channel, name: str) -> None:
    for data in (b"\x0a\x10abc", b"\xff\xff\xff\xff", b"\x0a"):
        told = await refused(raw(channel, name, data))
        assert (told.code, told.reason) == (INVALID, "INVALID_REQUEST")
        assert "cannot be decoded" in told.words


@pytest.mark.parametrize("where", ["workflow id", "text", "stop"])
async def test_text_that_is_not_utf8(channel: grpc.aio.Channel, wire: Wire, where: str) -> None:
    mark = "MARKER"
    workflow, call = wire.id, decode("x", stop=["#"])
    if where == "workflow id":
        workflow = mark
    elif where == "text":
        call = prefill("x", mark)
    else:
        call = decode("x", stop=[mark])
    data = pb.SubmitRequest(workflow_id=workflow, calls=[call]).SerializeToString()
    told = await refused(raw(channel, "Submit", data.replace(mark.encode(), b"\xc3\x28\xff\xfe\x80\x80")))
    assert (told.code, told.reason) == (INVALID, "INVALID_REQUEST")
    assert "UTF-8" in told.words


async def test_a_request_that_is_too_large(wire: Wire) -> None:
    """gRPC itself refuses it, so that there is no pavane.v1.Error; its words name both sizes."""
    told = await refused(wire.submit(prefill("x", "a" * (65 * 2**20))))
    assert told.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert told.error is None
    assert str(64 * 2**20) in told.details


# ---- later


async def test_too_many_unfinished_calls(wire: Wire) -> None:
    await wire.submit(decode("long", max_tokens=2000), *(decode(f"c{i}", ["long"]) for i in range(150)))
    told = await refused(wire.submit(*(decode(f"d{i}", ["long"]) for i in range(60))))
    assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert "at most 200" in told.words
    assert "send later" in told.words
    assert told.error is not None
    delay = told.error.retry_after.ToNanoseconds()
    assert 0 < delay <= 60 * 10**9
    data = told.metadata["grpc-status-details-bin"]
    assert isinstance(data, bytes)
    status = Status.FromString(data)
    assert status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    info = RetryInfo()
    (detail,) = status.details
    assert detail.Unpack(info)
    assert info.retry_delay.ToNanoseconds() == delay
    # What fits is still taken, and once there is room the same submission is.
    await wire.submit(*(decode(f"e{i}", ["long"]) for i in range(40)))
    assert len((await wire.cancel("long", descendants=True)).cancelled) == 191
    story = await wire.tell(*(stored(f"d{i}", 3) for i in range(60)))
    assert len(story.order) == 60


async def test_a_context_that_turns_out_too_long(wire: Wire) -> None:
    """Known only when the parents are: the call fails, its siblings do not."""
    parents = [stored(f"p{i}", 3000 + i) for i in range(3)]
    story = await wire.tell(
        *parents,
        decode("long", ["p0", "p1", "p2"]),
        decode("child", ["long"]),
        pb.Call(id="copy", prefill=parents[0].prefill, parents=[PARENT(id=f"p{i}") for i in range(2)], start=8000),
    )
    message = story["long"].message
    assert (message.state, message.error.reason) == (pb.STATE_FAILED, "CONTEXT_TOO_LONG")
    for word in ("'long'", "p0 3000", "p1 3001", "p2 3002", "limit is 8192", "drop or shorten parents"):
        assert word in message.error.text
    assert list(message.error.ids) == ["long", "p0", "p1", "p2"]
    assert (story["child"].message.error.reason, list(story["child"].message.error.ids)) == ("PARENT_FAILED", ["long"])
    assert story["copy"].message.error.reason == "CONTEXT_TOO_LONG"
    assert "position 11000" in story["copy"].message.error.text
    assert all(story[f"p{i}"].message.state == pb.STATE_DONE for i in range(3))


async def test_a_call_that_never_fits_into_the_pool(wire: Wire) -> None:
    story = await wire.tell(stored("p", 2500), stored("q", 1700, token=31), decode("x", ["p", "q"], max_tokens=10))
    message = story["x"].message
    assert (message.state, message.error.reason) == (pb.STATE_FAILED, "NEVER_FITS")
    info = await wire.info()
    needed = 4200 + message.content_begin + 10 + len(info.trailer_ids)
    for word in (f"needs {needed} token slots", "4200 that it sees", "10 to generate", f"has {info.token_slots}"):
        assert word in message.error.text
    assert "--num-slots" in message.error.text


async def test_an_unknown_method(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw(channel, "Explode", b"")
    assert failure(caught.value).code is grpc.StatusCode.UNIMPLEMENTED
