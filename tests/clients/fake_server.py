"""A server without a model: the words of every answer are scripted, and so are its troubles.

An answer is "<id>-0 <id>-1 ...", one token per word. Clients cannot tell the difference: cursors, replay after a
cursor, idempotent submissions, parents that fail their children and namespaces are as the contract says.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import grpc
import grpc.aio

from pavane.protos.v1 import pavane_pb2 as pb
from pavane.protos.v1 import pavane_pb2_grpc as stubs

WORDS = 6


@dataclass
class FakeWorkflow:
    events: list[pb.Event] = field(default_factory=list)
    calls: dict[str, pb.Call] = field(default_factory=dict)
    groups: dict[str, pb.Group] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)  # the cursor to watch after, for each call
    messages: dict[str, pb.Message] = field(default_factory=dict)
    tasks: dict[str, asyncio.Task] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False

    def emit(self, **event) -> None:
        self.events.append(pb.Event(cursor=len(self.events) + 1, **event))
        self.wake()

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class FakeServer(stubs.WorkflowServiceServicer, stubs.ModelServiceServicer):
    def __init__(self) -> None:
        self.workflows: dict[tuple[str, str], FakeWorkflow] = {}
        self.submits: list[list[str]] = []  # ids of every Submit that arrived, refused ones too
        self.groups: list[str] = []  # ids of every group that arrived
        self.watches: list[int] = []  # the cursor of every Watch
        self.lose_answers = 0  # so many Submits are accepted, then fail with UNAVAILABLE
        self.refusals: list[tuple[grpc.StatusCode, pb.Error]] = []  # the next Submits end with these
        self.cut_watch_after: int | None = None  # events after which a Watch is cut, once
        self.watch_status: grpc.StatusCode | None = None  # every Watch ends with this
        self.skip_deltas = False  # a resumed Watch gets only the ends of messages that have ended
        self.hold: dict[str, asyncio.Event] = {}  # an answer waits after its second word until its event is set
        self.fail: set[str] = set()  # calls that fail after their second word
        self.sealed: set[str] = set()
        self.opens: list[pb.OpenWorkflowRequest] = []
        self.slow: dict[str, float] = {}  # seconds that the answer to opening or closing the workflow takes
        self.restart: set[str] = set()  # calls whose first attempt is void after its second word

    async def start(self) -> str:
        self.server = grpc.aio.server()
        stubs.add_WorkflowServiceServicer_to_server(self, self.server)
        stubs.add_ModelServiceServicer_to_server(self, self.server)
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        return f"127.0.0.1:{port}"

    async def stop(self) -> None:
        tasks = [task for workflow in self.workflows.values() for task in workflow.tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.server.stop(None)

    async def refuse(self, context, status: grpc.StatusCode, error: pb.Error) -> None:
        context.set_trailing_metadata((("pavane-error-bin", error.SerializeToString()),))
        await context.abort(status, error.text)

    async def find(self, context, workflow_id: str) -> FakeWorkflow:
        workflow = self.workflows.get((namespace(context), workflow_id))
        if workflow is None or workflow.closed:
            error = pb.Error(reason="NO_WORKFLOW", text=f"no workflow {workflow_id!r}")
            await self.refuse(context, grpc.StatusCode.NOT_FOUND, error)
        assert dict(context.invocation_metadata())["pavane-workflow-id"] == workflow_id
        return workflow

    async def OpenWorkflow(self, request, context):
        key = namespace(context), request.workflow_id
        self.opens.append(request)
        existed = key in self.workflows
        workflow = self.workflows.setdefault(key, FakeWorkflow())
        await asyncio.sleep(self.slow.get(request.workflow_id, 0))
        return pb.OpenWorkflowResponse(existed=existed, cursor=len(workflow.events))

    async def Submit(self, request, context):
        workflow = await self.find(context, request.workflow_id)
        self.submits.append([call.id for call in request.calls])
        if self.refusals:
            await self.refuse(context, *self.refusals.pop(0))
        known = {*workflow.calls, *workflow.groups, *(one.id for one in (*request.calls, *request.groups))}
        self.groups += [group.id for group in request.groups]
        workflow.groups.update((group.id, group) for group in request.groups)
        for call in request.calls:
            missing = [parent.id for parent in call.parents if parent.id not in known]
            if missing:
                error = pb.Error(reason="UNKNOWN_PARENT", text=f"no message {missing[0]!r}", ids=missing)
                await self.refuse(context, grpc.StatusCode.NOT_FOUND, error)
        cursor = len(workflow.events)
        for call in request.calls:
            if call.id in workflow.calls:
                assert workflow.calls[call.id] == call
                cursor = min(cursor, workflow.before[call.id])
                continue
            workflow.calls[call.id] = call
            workflow.before[call.id] = len(workflow.events)
            workflow.tasks[call.id] = asyncio.create_task(self.execute(workflow, call))
        if self.lose_answers:
            self.lose_answers -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection is gone")
        return pb.SubmitResponse(cursor=cursor)

    async def execute(self, workflow: FakeWorkflow, call: pb.Call) -> None:
        message = pb.Message(id=call.id, seed=call.decode.sampling.seed, state=pb.STATE_RUNNING, labels=call.labels)
        workflow.messages[call.id] = message
        await asyncio.sleep(0)  # all calls of the Submit have their tasks
        parents = [i for parent in call.parents for i in await self.winners(workflow, parent.id)]
        for parent in parents:
            await asyncio.wait([workflow.tasks[parent]])
            if workflow.messages[parent].state != pb.STATE_DONE:
                message.state = pb.STATE_FAILED
                text = f"parent {parent!r} failed"
                message.error.CopyFrom(pb.Error(reason="PARENT_FAILED", text=text, ids=[parent]))
                workflow.emit(id=call.id, failed=message)
                return
        if call.HasField("prefill"):
            message.text = "".join(turn.text for turn in call.prefill.turns.turns)
            message.tokens.extend(range(len(message.text.split())))
            message.receipt.encoded = len(message.tokens)
        else:
            await self.generate(workflow, call, parents, message)
        if message.state == pb.STATE_RUNNING:
            message.state = pb.STATE_DONE
            if call.HasField("decode"):
                message.finish = pb.FINISH_REASON_LENGTH
            workflow.emit(id=call.id, done=message)

    async def winners(self, workflow: FakeWorkflow, parent: str) -> list[str]:
        """The message itself, or the first members of a group that are done, in their order."""
        group = workflow.groups.get(parent)
        if group is None:
            return [parent]
        tasks = {workflow.tasks[i]: i for i in group.members}
        done: set[str] = set()
        while len(done) < group.need:
            ended, _ = await asyncio.wait([t for t, i in tasks.items() if i not in done], return_when="FIRST_COMPLETED")
            done |= {tasks[task] for task in ended}
        chosen = [i for i in group.members if i in done][: group.need]
        if group.cancel_rest:
            self.cancel(workflow, [i for i in group.members if i not in chosen])
        return chosen

    async def generate(self, workflow: FakeWorkflow, call: pb.Call, parents: list[str], message: pb.Message) -> None:
        message.text = call.decode.header.turn.text
        message.tokens.append(9999)  # the header
        message.content_begin = message.content_end = 1
        message.receipt.reused_in_place = 10 * len(parents)
        message.receipt.encoded = 1
        message.receipt.first_token.nanos = 5_000_000
        fidelity = {parent.id: parent.fidelity for parent in call.parents}
        message.receipt.parents.extend(
            pb.ParentUse(id=i, fidelity=fidelity.get(i) or call.fidelity or 1) for i in parents
        )
        message.attempts = 1
        if call.id in self.restart:
            for n in range(2):
                delta = pb.Delta(text=f"void-{n} ", tokens=[n], first_token=n, first_char=7 * n)
                workflow.emit(id=call.id, delta=delta)
                await asyncio.sleep(0)
            if call.id in self.hold:
                await self.hold[call.id].wait()
            message.attempts = 2
            workflow.emit(id=call.id, restarted=pb.Restarted(attempt=2, error=pb.Error(reason="NAN")))
        for n in range(call.decode.sampling.max_tokens or WORDS):
            delta = pb.Delta(text=f"{call.id}-{n} ", tokens=[n], logprobs=[-n] if call.decode.sampling.logprobs else [])
            message.text += delta.text
            message.tokens.append(n)
            message.logprobs.extend(delta.logprobs)
            message.content_end += 1
            message.receipt.generated += 1
            workflow.emit(id=call.id, delta=delta)
            await asyncio.sleep(0)
            if n == 1 and call.id in self.fail:
                message.state = pb.STATE_FAILED
                message.error.CopyFrom(pb.Error(reason="NAN", text="the model gave no numbers", ids=[call.id]))
                workflow.emit(id=call.id, failed=message)
                return
            if n == 1 and call.id in self.hold:
                await self.hold[call.id].wait()
            if message.state == pb.STATE_CANCELLED:
                workflow.emit(id=call.id, failed=message)
                return
            if call.id in self.sealed:
                message.state = pb.STATE_DONE
                message.finish = pb.FINISH_REASON_SEALED
                workflow.emit(id=call.id, done=message)
                return

    async def Watch(self, request, context):
        workflow = await self.find(context, request.workflow_id)
        resumed = bool(self.watches)
        self.watches.append(request.after)
        if self.watch_status is not None:
            await context.abort(self.watch_status, "no watching here")
        cursor, sent = request.after, 0
        while True:
            for event in workflow.events[cursor:]:
                cursor += 1
                ended = workflow.messages[event.id].state != pb.STATE_RUNNING
                if resumed and self.skip_deltas and ended and event.HasField("delta"):
                    continue
                yield pb.WatchResponse(events=[event])
                sent += 1
                if self.cut_watch_after is not None and sent >= self.cut_watch_after:
                    self.cut_watch_after = None
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection is gone")
            if workflow.closed:
                return
            if cursor == len(workflow.events):
                await workflow.changed.wait()

    async def Plan(self, request, context):
        workflow = await self.find(context, request.submit.workflow_id)
        answer = pb.PlanResponse(peak_slots=1234, kv_bytes_read=5_600_000)
        for call in request.submit.calls:
            if call.id in workflow.calls:
                continue
            message = answer.planned.add(id=call.id, state=pb.STATE_DONE)
            if call.id in self.fail:
                message.state = pb.STATE_FAILED
                message.error.CopyFrom(pb.Error(reason="NEVER_FITS", text="it needs more slots than there are"))
                continue
            message.receipt.reused_in_place = 10 * len(call.parents)
            message.receipt.encoded = 1
            if call.HasField("decode"):
                message.finish = pb.FINISH_REASON_LENGTH
                message.receipt.generated = request.assumed_tokens or call.decode.sampling.max_tokens or 256
        answer.critical_path.extend([request.submit.calls[0].id, request.submit.calls[-1].id])
        for name in ("reused_in_place", "encoded", "generated"):
            setattr(answer.total, name, sum(getattr(m.receipt, name) for m in answer.planned))
        return answer

    async def Cancel(self, request, context):
        workflow = await self.find(context, request.workflow_id)
        ids = [i for named in request.ids for i in workflow.groups.get(named, pb.Group(members=[named])).members]
        return pb.CancelResponse(cancelled=self.cancel(workflow, ids))

    def cancel(self, workflow: FakeWorkflow, ids: list[str]) -> list[str]:
        ids = [i for i in ids if workflow.messages[i].state == pb.STATE_RUNNING]
        for i in ids:
            workflow.messages[i].state = pb.STATE_CANCELLED
            if i in self.hold:
                self.hold[i].set()
        return ids

    async def Finish(self, request, context):
        workflow = await self.find(context, request.workflow_id)
        for i in request.ids:
            if workflow.calls[i].HasField("prefill"):
                error = pb.Error(reason="NOT_A_DECODE", text=f"{i!r} is a Prefill", ids=[i])
                await self.refuse(context, grpc.StatusCode.FAILED_PRECONDITION, error)
        ids = [i for i in request.ids if workflow.messages[i].state == pb.STATE_RUNNING]
        self.sealed.update(ids)
        for i in ids:
            if i in self.hold:
                self.hold[i].set()
        return pb.FinishResponse(sealed=ids)

    async def Release(self, request, context):
        workflow = await self.find(context, request.workflow_id)
        for i in request.ids:
            if workflow.groups.pop(i, None) is None:
                del workflow.messages[i]
        return pb.ReleaseResponse()

    async def CloseWorkflow(self, request, context):
        workflow = await self.find(context, request.workflow_id)
        total = pb.Receipt()
        for message in workflow.messages.values():
            total.generated += message.receipt.generated
            total.encoded += message.receipt.encoded
            total.reused_in_place += message.receipt.reused_in_place
        for i, task in workflow.tasks.items():
            if not task.done():
                task.cancel()
                message = workflow.messages[i]
                message.state = pb.STATE_CANCELLED
                workflow.emit(id=i, failed=message)
        await asyncio.sleep(self.slow.get(request.workflow_id, 0))
        workflow.closed = True
        workflow.wake()
        return pb.CloseWorkflowResponse(total=total)

    async def GetMessage(self, request, context):
        workflow = await self.find(context, request.workflow_id)
        if request.id not in workflow.messages:
            error = pb.Error(reason="NO_MESSAGE", text=f"no message {request.id!r}", ids=[request.id])
            await self.refuse(context, grpc.StatusCode.NOT_FOUND, error)
        if request.wait:
            await asyncio.wait([workflow.tasks[request.id]])
        return pb.GetMessageResponse(message=workflow.messages[request.id])

    async def ListMessages(self, request, context):
        workflow = await self.find(context, request.workflow_id)
        messages = list(workflow.messages.values())
        at = int(request.page_token or 0)
        rest = str(at + 2) if at + 2 < len(messages) else ""
        return pb.ListMessagesResponse(messages=messages[at : at + 2], next_page_token=rest)

    async def GetServerInfo(self, request, context):
        return pb.GetServerInfoResponse(model="fake", max_model_len=100, vocab_size=5, trailer_ids=[3, 4])

    async def Tokenize(self, request, context):
        return pb.TokenizeResponse(ids=[len(turn.text) for turn in request.content.turns.turns])

    async def Detokenize(self, request, context):
        return pb.DetokenizeResponse(text=" ".join(map(str, request.ids)))


def namespace(context) -> str:
    return dict(context.invocation_metadata()).get("pavane-namespace", "")
