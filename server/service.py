"""The RPCs: requests checked and converted, verbs of the engine called, journals read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import grpc

from pavane.protos.v1 import pavane_pb2 as pb
from pavane.protos.v1 import pavane_pb2_grpc as rpc
from pavane.scheduler.engine import Engine
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.scoring import ScoreSpec
from pavane.scheduler.spec import CallSpec
from pavane.server.aside import Aside
from pavane.server.auth import caller
from pavane.server.convert import Converter, group_spec, outcome_message, plan_message, receipt_message
from pavane.server.ends import message_of
from pavane.server.fields import check_id, seconds
from pavane.server.journal import Journal, Journals, Key
from pavane.server.origins import Origins
from pavane.server.score import score_call, score_message
from pavane.server.sizes import check_ids, check_submission
from pavane.server.text.tokenizer import Tokenizer

FRAME_BYTES = 2**16  # a reader that stalls holds some frames, each several times: as events, as bytes, on its way
Context = grpc.aio.ServicerContext[Any, Any]


class WorkflowService(rpc.WorkflowServiceServicer):
    def __init__(
        self,
        engine: Engine,
        journals: Journals,
        origins: Origins,
        converter: Converter,
        tokenizer: Tokenizer,
        aside: Aside,
        default_ttl: float,
        slot_bytes: int,
    ) -> None:
        """`default_ttl` in seconds; `slot_bytes`: K and V of one token in all layers."""
        self._engine = engine
        self._aside = aside
        self._limits = engine.scheduler.graph.limits
        self._journals = journals
        self._origins = origins
        self._converter = converter
        self._tokenizer = tokenizer
        self._default_ttl = default_ttl
        self._slot_bytes = slot_bytes

    async def OpenWorkflow(self, request: pb.OpenWorkflowRequest, context: Context) -> pb.OpenWorkflowResponse:
        key = _key(request.workflow_id)
        existed = self._engine.open(
            *key,
            request.budget_tokens,
            seconds(request.ttl if request.HasField("ttl") else None, "ttl"),
            self._default_ttl,
            priority=caller().priority(request.priority if request.HasField("priority") else None),
            deadline=seconds(request.deadline if request.HasField("deadline") else None, "deadline"),
        )
        self._origins.opened(key)
        return pb.OpenWorkflowResponse(existed=existed, cursor=self._journals.open(key).cursor)

    async def CloseWorkflow(self, request: pb.CloseWorkflowRequest, context: Context) -> pb.CloseWorkflowResponse:
        key = _key(request.workflow_id)
        total = self._journals.total(key) if self._journals.get(key) is None else None
        if total is None:
            total = self._engine.close(*key)
        return pb.CloseWorkflowResponse(total=receipt_message(total))

    async def Submit(self, request: pb.SubmitRequest, context: Context) -> pb.SubmitResponse:
        cursor, _ = await self._submit(_key(request.workflow_id), request)
        return pb.SubmitResponse(cursor=cursor)

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:
        key = _key(request.workflow_id)
        check_ids(request.ids, self._limits)
        ids = frozenset(request.ids)
        journal = self._known(key, ids)
        async for events in _follow(journal, request.after, ids, deltas=not request.no_deltas):
            yield pb.WatchResponse(events=events)

    async def Run(self, request: pb.RunRequest, context: Context) -> AsyncIterator[pb.RunResponse]:
        key = _key(request.submit.workflow_id)
        ids = frozenset(call.id for call in request.submit.calls)
        cursor, accepted = await self._submit(key, request.submit)
        journal = self._journal(key)
        attached = [] if request.detach else [message_id for message_id in ids if journal.known(message_id)]
        journal.attach(attached, accepted)
        try:
            self._known(key, ids)
            async for events in _follow(journal, cursor, ids, deltas=True):
                yield pb.RunResponse(events=events)
        finally:
            orphans = journal.detach(attached)
            if orphans and not journal.closed:
                self._engine.cancel(*key, orphans, False)

    async def Cancel(self, request: pb.CancelRequest, context: Context) -> pb.CancelResponse:
        key = _key(request.workflow_id)
        check_ids(request.ids, self._limits)
        return pb.CancelResponse(cancelled=self._engine.cancel(*key, request.ids, request.descendants))

    async def Finish(self, request: pb.FinishRequest, context: Context) -> pb.FinishResponse:
        key = _key(request.workflow_id)
        check_ids(request.ids, self._limits)
        return pb.FinishResponse(sealed=self._engine.finish(*key, request.ids))

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseResponse:
        key = _key(request.workflow_id)
        check_ids(request.ids, self._limits)
        self._engine.release(*key, request.ids)
        self._journal(key).forget(request.ids)
        return pb.ReleaseResponse()

    async def GetMessage(self, request: pb.GetMessageRequest, context: Context) -> pb.GetMessageResponse:
        key = _key(request.workflow_id)
        outcome = self._engine.outcome(*key, request.id)
        if request.wait and not outcome.state.ended:
            journal = self._journal(key)
            async for _ in _follow(journal, journal.cursor, frozenset([request.id]), deltas=False):
                pass
            ended = journal.ended(request.id)  # it may be released by now
            if ended is not None:
                return pb.GetMessageResponse(message=ended.done if ended.HasField("done") else ended.failed)
            outcome = self._engine.outcome(*key, request.id)
        return pb.GetMessageResponse(message=await message_of(outcome, self._tokenizer))

    async def ListMessages(self, request: pb.ListMessagesRequest, context: Context) -> pb.ListMessagesResponse:
        key = _key(request.workflow_id)
        size = min(request.page_size or 100, 1000)
        if request.page_token and not request.page_token.isdecimal():
            raise RequestError(Reason.INVALID_REQUEST, "page_token is not one that ListMessages returned")
        found = self._engine.outcomes(*key, int(request.page_token or 0), size + 1)
        page = found[:size]
        return pb.ListMessagesResponse(
            messages=[outcome_message(outcome, self._tokenizer, brief=True) for _, outcome in page],
            next_page_token=str(page[-1][0]) if len(found) > size else "",
        )

    async def Plan(self, request: pb.PlanRequest, context: Context) -> pb.PlanResponse:
        key = _key(request.submit.workflow_id)
        assumed = request.assumed_tokens if request.HasField("assumed_tokens") else None
        if assumed == 0:
            raise RequestError(Reason.INVALID_REQUEST, "assumed_tokens is 0; an answer has at least 1, or leave it out")
        specs = await self._specs(request.submit)
        groups = [group_spec(group) for group in request.submit.groups]
        plan = self._engine.plan(*key, specs, groups, assumed)
        return plan_message(plan, self._tokenizer, self._slot_bytes)

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        key = _key(request.workflow_id)
        self._engine.check_open(*key)
        limit = self._limits.max_model_len
        call = score_call(request, limit, lambda message_id: self._engine.outcome(*key, message_id))
        (spec,) = await self._specs(pb.SubmitRequest(calls=[call]))
        against_exact = request.against != pb.FIDELITY_REUSE
        score = await self._engine.score(*key, ScoreSpec(spec, against_exact, request.per_parent))
        return score_message(score)

    async def _submit(self, key: Key, request: pb.SubmitRequest) -> tuple[int, list[str]]:
        """The cursor after which the events of these calls are, and the ids of those that are new."""
        specs = await self._specs(request)
        groups = [group_spec(group) for group in request.groups]
        self._engine.check_open(*key)
        journal = self._journals.open(key)
        unknown = {spec.id: spec for spec in specs if not journal.known(spec.id)}
        for spec in unknown.values():
            decode = spec.decode
            journal.expect(spec.id, decode)
        self._origins.expect(key, unknown.values(), groups)
        accepted: list[str] = []
        try:
            accepted = self._engine.submit(*key, specs, groups)
        finally:  # what was refused, or was released before, has no events
            journal.withdraw(unknown.keys() - accepted)
            self._origins.withdraw(key, unknown.keys() - accepted)
        return journal.before(spec.id for spec in specs), accepted

    async def _specs(self, request: pb.SubmitRequest) -> Sequence[CallSpec]:
        if not request.calls and not request.groups:
            raise RequestError(Reason.INVALID_REQUEST, "the submission has no calls")
        check_submission(request, self._limits)
        if self._converter.slow(request):
            return await self._aside.run(self._converter.calls, request)
        return self._converter.calls(request)

    def _known(self, key: Key, ids: Iterable[str]) -> Journal:
        """The journal; RequestError if one of the messages never was, or was released."""
        journal = self._journal(key)
        for message_id in ids:
            if not journal.known(message_id):
                self._engine.outcome(*key, message_id)
        return journal

    def _journal(self, key: Key) -> Journal:
        self._engine.check_open(*key)
        return self._journals.open(key)


class ModelService(rpc.ModelServiceServicer):
    def __init__(
        self, info: pb.GetServerInfoResponse, converter: Converter, tokenizer: Tokenizer, aside: Aside
    ) -> None:
        self._info = info
        self._converter = converter
        self._tokenizer = tokenizer
        self._aside = aside

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:
        return self._info

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        if request.content.WhichOneof("content") == "copy":
            raise RequestError(Reason.INVALID_REQUEST, "Tokenize knows no messages to copy; send turns or text")
        return pb.TokenizeResponse(ids=await self._aside.run(self._tokens, request.content))

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:
        return pb.DetokenizeResponse(text=await self._aside.run(self._text, request.ids))

    def _tokens(self, content: pb.Prefill) -> Sequence[int]:
        ids = self._converter.content(content, "tokenize")
        self._check_ids(ids)
        return ids

    def _text(self, ids: Sequence[int]) -> str:
        self._check_ids(ids)
        return self._tokenizer.decode(ids, special=True)

    def _check_ids(self, ids: Iterable[int]) -> None:
        size = self._tokenizer.vocab_size
        wrong = next((i for i in ids if i >= size), None)
        if wrong is not None:
            raise RequestError(Reason.INVALID_TOKENS, f"token id {wrong} is not in 0..{size - 1}")


async def _follow(journal: Journal, after: int, ids: frozenset[str], *, deltas: bool) -> AsyncIterator[list[pb.Event]]:
    """Frames of events until the workflow is closed or, if some are named, all of `ids` have ended.

    A cursor beyond the newest is one of an earlier workflow with this id: it means the beginning. Of a message that was
    released and is forgotten, nothing more is to come.
    """
    if after > journal.cursor:
        after = 0
    waiting = {message_id for message_id in ids if not journal.has_ended(message_id)}
    forgotten = journal.forgotten
    while True:
        await journal.prepare(after, ids)
        events = journal.read(after, ids, deltas=deltas)
        after = journal.cursor
        waiting.difference_update(event.id for event in events if event.WhichOneof("event") in ("done", "failed"))
        if journal.forgotten > forgotten:
            forgotten = journal.forgotten
            waiting = {message_id for message_id in waiting if journal.known(message_id)}
        done = journal.closed or (ids and not waiting)
        for frame in _frames(events):
            yield frame
        if done:
            return
        if journal.cursor == after or not journal.due(after, ids):
            await journal.changed(ids, deltas=deltas)


def _frames(events: list[pb.Event]) -> Iterator[list[pb.Event]]:
    """Cut so that no frame comes near what gRPC clients take by default. Cursors ascend, so any frame may be the last
    that a reader gets."""
    if len(events) == 1:  # a long message is not counted only to be alone
        yield events
        return
    frame: list[pb.Event] = []
    size = 0
    for event in events:
        length = event.ByteSize() + 8
        if frame and size + length > FRAME_BYTES:
            yield frame
            frame, size = [], 0
        frame.append(event)
        size += length
    if frame:
        yield frame


def _key(workflow_id: str) -> Key:
    return (caller().namespace, check_id(workflow_id, "workflow_id"))
