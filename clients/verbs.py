"""What is asked of the server about one workflow, as the wire has it."""

from __future__ import annotations

from collections.abc import Sequence

from pavane.clients import checks
from pavane.clients.results import Receipt, Result, receipt, result
from pavane.clients.score import Score, score_result
from pavane.clients.transport import Transport
from pavane.protos.v1 import pavane_pb2 as pb


def open_request(
    workflow_id: str, budget_tokens: int, ttl: float | None, priority: int | None, deadline: float | None
) -> pb.OpenWorkflowRequest:
    """The request that opens a workflow. Raises ValueError or TypeError with what to change."""
    request = pb.OpenWorkflowRequest(
        workflow_id=workflow_id, budget_tokens=checks.integer("budget_tokens", budget_tokens, checks.UINT64)
    )
    if ttl is not None:
        request.ttl.CopyFrom(checks.duration("ttl", ttl))
    if priority is not None:
        request.priority = checks.priority("priority", priority)
    if deadline is not None:
        request.deadline.CopyFrom(checks.duration("deadline", deadline))
    return request


class Verbs:
    """One request each, but for `list`. Raises PavaneError."""

    def __init__(self, transport: Transport, workflow_id: str) -> None:
        self._transport = transport
        self._rpc = transport.workflows
        self._id = workflow_id

    async def open(self, request: pb.OpenWorkflowRequest) -> pb.OpenWorkflowResponse:
        return await self._transport.unary(self._rpc.OpenWorkflow, request, workflow=self._id)

    async def submit(self, calls: Sequence[pb.Call], groups: Sequence[pb.Group]) -> int:
        """The cursor after which the events of these calls are."""
        request = pb.SubmitRequest(workflow_id=self._id, calls=calls, groups=groups)
        return (await self._transport.unary(self._rpc.Submit, request, workflow=self._id)).cursor

    async def cancel(self, ids: Sequence[str], descendants: bool) -> tuple[str, ...]:
        request = pb.CancelRequest(workflow_id=self._id, ids=ids, descendants=descendants)
        return tuple((await self._transport.unary(self._rpc.Cancel, request, workflow=self._id)).cancelled)

    async def finish(self, ids: Sequence[str]) -> tuple[str, ...]:
        request = pb.FinishRequest(workflow_id=self._id, ids=ids)
        return tuple((await self._transport.unary(self._rpc.Finish, request, workflow=self._id)).sealed)

    async def release(self, ids: Sequence[str]) -> None:
        request = pb.ReleaseRequest(workflow_id=self._id, ids=ids)
        await self._transport.unary(self._rpc.Release, request, workflow=self._id)

    async def get(self, message_id: str, wait: bool) -> Result:
        request = pb.GetMessageRequest(workflow_id=self._id, id=message_id, wait=wait)
        limit = float("inf") if wait else None
        answer = await self._transport.unary(self._rpc.GetMessage, request, workflow=self._id, limit=limit)
        return result(answer.message)

    async def list(self) -> tuple[Result, ...]:
        found: list[Result] = []
        page = ""
        while True:
            request = pb.ListMessagesRequest(workflow_id=self._id, page_size=1000, page_token=page)
            answer = await self._transport.unary(self._rpc.ListMessages, request, workflow=self._id)
            found.extend(result(message) for message in answer.messages)
            page = answer.next_page_token
            if not page:
                return tuple(found)

    async def score(self, request: pb.ScoreRequest) -> Score:
        return score_result(
            await self._transport.unary(self._rpc.Score, request, workflow=self._id, limit=float("inf"))
        )

    async def close(self) -> Receipt:
        request = pb.CloseWorkflowRequest(workflow_id=self._id)
        answer = await self._transport.unary(self._rpc.CloseWorkflow, request, workflow=self._id)
        return receipt(answer.total)
