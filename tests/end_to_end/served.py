"""A server as a process, and short words for the wire: what the end-to-end tests are written in."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import grpc
from google.protobuf.duration_pb2 import Duration

from pavane.protos.v1 import pavane_pb2 as pb
from pavane.protos.v1 import pavane_pb2_grpc as rpc

PATIENCE = 60.0  # seconds that any single request or process gets: a hang fails, it does not stall the suite
FLAGS = ("--dtype", "bfloat16", "--num-slots", "4096", "--max-unfinished-calls", "200")
TENANTS = {  # what --tenants says
    "bounded": {"max_running": 1, "max_unfinished": 4, "max_stored_tokens": 300, "max_workflows": 2},
}
ENDED = ("done", "failed")
LONG = 2000  # tokens: more than any test waits for
_CONTROL = re.compile(r"<\|.*\|>")


PAVANE_SERVE = ("-m", "pavane.cli.main", "serve")


def command(*flags: str, start: Sequence[str] = PAVANE_SERVE) -> list[str]:
    return [sys.executable, *start, *flags]


def environment(**more: str) -> dict[str, str]:
    """Ours without PAVANE_* variables."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PAVANE_")}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


class ServerProcess:
    """`pavane serve`, or what Python starts with `start`, on free ports of the loopback. Stopped by its pid, whatever
    happens."""

    def __init__(
        self, *flags: str, start: Sequence[str] = PAVANE_SERVE, stderr: int | None = None, **variables: str
    ) -> None:
        """`stderr`: an open file for its log, instead of one that `log` reads."""
        self.flags = flags or FLAGS
        self._log: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by stop
        self.process = subprocess.Popen(
            command("--port", "0", "--metrics-port", "0", *self.flags, start=start),
            stdout=subprocess.PIPE,
            stderr=self._log if stderr is None else stderr,
            text=True,
            env=environment(**variables),
        )
        self.target = ""

    def wait_ready(self) -> ServerProcess:
        """Returns when it listens."""
        assert self.process.stdout is not None
        poll = select.poll()  # a test may have more files open than select can tell apart
        poll.register(self.process.stdout, select.POLLIN)
        ready = poll.poll(PATIENCE * 1000)
        line = self.process.stdout.readline() if ready else ""
        if not line.startswith("listening on "):
            self.stop()
            raise AssertionError(f"the server printed {line!r}; its log:\n{self.final_log}")
        self.target = line.split()[-1]
        return self

    @property
    def log(self) -> str:
        """What it has logged to stderr so far."""
        return os.pread(self._log.fileno(), 1 << 24, 0).decode()

    @property
    def metrics_url(self) -> str:
        deadline = time.monotonic() + PATIENCE
        while "metrics on " not in self.log:  # is logged right after the line that we waited for
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self.log.split("metrics on ")[1].split()[0]

    def signal(self, number: int = signal.SIGTERM) -> None:
        os.kill(self.process.pid, number)

    def stop(self) -> int:
        """SIGTERM, then SIGKILL if that is not enough. The exit status; the log stays in `final_log`."""
        if self.process.poll() is None:
            self.signal()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGKILL)
        status = self.process.wait(PATIENCE)
        if not self._log.closed:
            self.final_log = self.log
            self._log.close()
            assert self.process.stdout is not None
            self.process.stdout.close()
        return status


# ---- calls


Kin = Iterable[str | pb.ParentRef]


def refs(parents: Kin) -> list[pb.ParentRef]:
    return [pb.ParentRef(id=parent) if isinstance(parent, str) else parent for parent in parents]


def seconds(value: float) -> Duration:
    nanos = round(value * 1e9)
    return Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)


def turns(*pairs: tuple[str, str]) -> pb.Prefill:
    return pb.Prefill(turns=pb.Turns(turns=[pb.Turn(role=role, text=text) for role, text in pairs]))


def prefill(id: str, text: str = "", parents: Kin = (), *, tokens: Sequence[int] = (), **fields: Any) -> pb.Call:
    """A user turn, or raw tokens."""
    content = pb.Prefill(tokens=pb.Tokens(ids=tokens)) if tokens else turns(("user", text))
    return pb.Call(id=id, prefill=content, parents=refs(parents), **fields)


def stored(id: str, count: int, parents: Kin = (), token: int = 30) -> pb.Call:
    """`count` tokens that nobody computes until they are read."""
    return prefill(id, tokens=[token] * count, parents=parents, fidelity=pb.FIDELITY_EXACT)


_CALL_FIELDS = frozenset(pb.Call.DESCRIPTOR.fields_by_name)


def decode(id: str, parents: Kin = (), prefix: str = "", *, forced: pb.Forced | None = None, **options: Any) -> pb.Call:
    """An answer of the assistant; greedy, of 4 tokens, unless told otherwise."""
    call_fields = {key: options.pop(key) for key in tuple(options) if key in _CALL_FIELDS}
    if forced is None:
        options = {"temperature": 0.0, "max_tokens": 4, "ignore_eos": True, **options}
    body = pb.Decode(header=pb.Header(turn=pb.Turn(role="assistant", text=prefix)), sampling=pb.Sampling(**options))
    if forced is not None:
        body.forced.CopyFrom(forced)
    return pb.Call(id=id, decode=body, parents=refs(parents), **call_fields)


def group(id: str, *members: str, need: int, cancel_rest: bool = False) -> pb.Group:
    return pb.Group(id=id, members=members, need=need, cancel_rest=cancel_rest)


def copied(call: pb.Call, **changes: Any) -> pb.Call:
    changed = pb.Call()
    changed.CopyFrom(call)
    changed.MergeFrom(pb.Call(**changes))
    return changed


# ---- answers


@dataclass
class Told:
    """What a stream said about one call."""

    states: list[int] = field(default_factory=list)
    deltas: list[pb.Delta] = field(default_factory=list)  # since it was restarted last
    restarts: list[pb.Restarted] = field(default_factory=list)
    ends: list[pb.Message] = field(default_factory=list)
    cursors: list[int] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def tokens(self) -> list[int]:
        return [token for delta in self.deltas for token in delta.tokens]

    @property
    def message(self) -> pb.Message:
        """The end: exactly one."""
        (message,) = self.ends
        return message


class Story:
    """What a stream said about every call."""

    def __init__(self) -> None:
        self.calls: dict[str, Told] = {}
        self.cursor = 0
        self.order: list[str] = []  # ids, as they ended

    def __getitem__(self, id: str) -> Told:
        return self.calls[id]

    def add(self, events: Iterable[pb.Event]) -> None:
        for event in events:
            self.cursor = max(self.cursor, event.cursor)
            told = self.calls.setdefault(event.id, Told())
            assert not told.ends, f"an event after the end of {event.id}"
            told.cursors.append(event.cursor)
            kind = event.WhichOneof("event")
            if kind == "state":
                told.states.append(event.state)
            elif kind == "delta":
                told.deltas.append(event.delta)
            elif kind == "restarted":
                told.restarts.append(event.restarted)
                told.deltas.clear()
            else:
                assert kind in ENDED
                told.ends.append(event.done if kind == "done" else event.failed)
                assert (kind == "done") == (told.message.state == pb.STATE_DONE)
                self.order.append(event.id)


@dataclass(frozen=True)
class Failure:
    """How an RPC failed: `error` is the pavane.v1.Error of the trailer, None if there was none."""

    code: grpc.StatusCode
    details: str
    error: pb.Error | None
    metadata: dict[str, str | bytes]

    @property
    def reason(self) -> str:
        return self.error.reason if self.error is not None else ""

    @property
    def words(self) -> str:
        return self.error.text if self.error is not None else self.details


def failure(error: grpc.aio.AioRpcError) -> Failure:
    metadata = dict(error.trailing_metadata() or ())
    data = metadata.get("pavane-error-bin")
    assert data is None or isinstance(data, bytes)
    return Failure(error.code(), error.details() or "", None if data is None else pb.Error.FromString(data), metadata)


async def refused(call: Any) -> Failure:
    """Awaits an RPC that must fail."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return failure(error)
    raise AssertionError(f"this should have been refused, but was answered {answer}")


class Wire:
    """One workflow, seen through the raw stubs."""

    def __init__(self, channel: grpc.aio.Channel, workflow: str, namespace: str = "") -> None:
        self.id = workflow
        self.namespace = namespace
        self.rpc: Any = rpc.WorkflowServiceStub(channel)
        self.models: Any = rpc.ModelServiceStub(channel)
        self._metadata = (("pavane-namespace", namespace),) if namespace else ()
        self._options: dict[str, Any] = {"timeout": PATIENCE, "metadata": self._metadata}

    def open(self, **fields: Any) -> Any:
        return self.rpc.OpenWorkflow(pb.OpenWorkflowRequest(workflow_id=self.id, **fields), **self._options)

    def close(self) -> Any:
        return self.rpc.CloseWorkflow(pb.CloseWorkflowRequest(workflow_id=self.id), **self._options)

    def submit(self, *calls: pb.Call, groups: Sequence[pb.Group] = ()) -> Any:
        return self.rpc.Submit(pb.SubmitRequest(workflow_id=self.id, calls=calls, groups=groups), **self._options)

    def watch(self, after: int = 0, ids: Sequence[str] = (), **fields: Any) -> Any:
        request = pb.WatchRequest(workflow_id=self.id, after=after, ids=ids, **fields)
        return self.rpc.Watch(request, **self._options)

    def run(self, *calls: pb.Call, groups: Sequence[pb.Group] = (), detach: bool = False) -> Any:
        submit = pb.SubmitRequest(workflow_id=self.id, calls=calls, groups=groups)
        request = pb.RunRequest(submit=submit, detach=detach)
        return self.rpc.Run(request, **self._options)

    def cancel(self, *ids: str, descendants: bool = False) -> Any:
        request = pb.CancelRequest(workflow_id=self.id, ids=ids, descendants=descendants)
        return self.rpc.Cancel(request, **self._options)

    def finish(self, *ids: str) -> Any:
        return self.rpc.Finish(pb.FinishRequest(workflow_id=self.id, ids=ids), **self._options)

    def release(self, *ids: str) -> Any:
        return self.rpc.Release(pb.ReleaseRequest(workflow_id=self.id, ids=ids), **self._options)

    async def get(self, id: str, *, wait: bool = False) -> pb.Message:
        request = pb.GetMessageRequest(workflow_id=self.id, id=id, wait=wait)
        answer: pb.GetMessageResponse = await self.rpc.GetMessage(request, **self._options)
        return answer.message

    def list(self, page_size: int = 0, page_token: str = "") -> Any:
        request = pb.ListMessagesRequest(workflow_id=self.id, page_size=page_size, page_token=page_token)
        return self.rpc.ListMessages(request, **self._options)

    async def tell(self, *calls: pb.Call, groups: Sequence[pb.Group] = ()) -> Story:
        """Runs the calls and reads to the end."""
        return await read(self.run(*calls, groups=groups))

    async def ended(self, *ids: str) -> Story:
        return await read(self.watch(0, ids))

    async def tokenize(self, content: pb.Prefill) -> list[int]:
        return list((await self.models.Tokenize(pb.TokenizeRequest(content=content), timeout=PATIENCE)).ids)

    async def detokenize(self, ids: Sequence[int]) -> str:
        return str((await self.models.Detokenize(pb.DetokenizeRequest(ids=ids), timeout=PATIENCE)).text)

    async def text(self, ids: Sequence[int]) -> str:
        """What a message of these tokens has as its text: control tokens have none."""
        words = [await self.detokenize([id]) for id in ids]
        return await self.detokenize([i for i, word in zip(ids, words, strict=True) if not _CONTROL.fullmatch(word)])

    async def info(self) -> pb.GetServerInfoResponse:
        answer = await self.models.GetServerInfo(pb.GetServerInfoRequest(), timeout=PATIENCE)
        assert isinstance(answer, pb.GetServerInfoResponse)
        return answer


async def read(stream: Any, until: Callable[[Story], bool] = lambda _: False, story: Story | None = None) -> Story:
    """Reads a stream to its end, or until the story has come so far."""
    story = story if story is not None else Story()
    async for response in frames(stream):
        story.add(response.events)
        if until(story):
            break
    return story


async def running(wire: Wire, id: str, tokens: int = 1) -> None:
    """Returns when the call has so many tokens."""
    stream = wire.watch(0, [id])
    story = await read(stream, until=lambda story: id in story.calls and len(story[id].tokens) >= tokens)
    stream.cancel()
    assert not story[id].ends


async def frames(stream: Any) -> AsyncIterator[Any]:
    """The frames of a stream, by `read`: unlike iterating, that may stop and go on."""
    while (response := await stream.read()) is not grpc.aio.EOF:
        yield response


def content(message: pb.Message) -> list[int]:
    """The sampled or forced tokens."""
    return list(message.tokens[message.content_begin : message.content_end])
