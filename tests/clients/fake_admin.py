"""AdminService of scripted answers."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from pavane.protos.v1 import admin_pb2 as pb
from pavane.protos.v1 import admin_pb2_grpc as stubs
from pavane.protos.v1 import pavane_pb2 as core


def duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9))


def activity(n: int) -> pb.Activity:
    counts = pb.TokenCounts(reused_in_place=60 * n, repositioned=30 * n, encoded=10 * n, generated=9 * n, reencoded=n)
    return pb.Activity(ended=counts, sampled=11 * n, steps=n, rows=12 * n, step_time=duration(0.02 * n))


def workflow(i: int, *, running: int = 0, namespace: str = "acme") -> pb.WorkflowStats:
    stats = pb.WorkflowStats(
        namespace=namespace,
        id=f"w{i:03}",
        calls=pb.CallCounts(running=running, done=2),
        tokens=1500,
        tokens_in_slots=700,
        slots=710,
        budget_tokens=50_000,
        spent_tokens=31,
        ttl=duration(60),
        idle=duration(1.5 + i),
    )
    if not running:
        stats.ttl_left.CopyFrom(duration(58.5 - i))
    return stats


class FakeAdmin(stubs.AdminServiceServicer):
    """Each look finds a second and ten steps more."""

    def __init__(self, workflows: list[pb.WorkflowStats]) -> None:
        self.workflows = workflows
        self.looks = 0
        self.requests: list[object] = []

    async def GetStats(self, request: pb.GetStatsRequest, context: object) -> pb.GetStatsResponse:
        self.looks += 1
        return pb.GetStatsResponse(
            uptime=duration(100 + self.looks),
            workflows=len(self.workflows),
            calls=pb.CallCounts(blocked=4, queued=3, running=5, done=1234),
            slots=pb.SlotStats(
                total=1000,
                free=250,
                idle=500,
                locked=250,
                tiers=[pb.TierUse(tier=pb.TIER_SLOTS, capacity=1000, used=750, bytes_per_token=23_040)],
                namespaces=[pb.NamespaceSlots(namespace=n, slots=s) for n, s in (("acme", 600), ("", 150))],
            ),
            since_start=activity(10 * self.looks),
            recent=activity(60),
            recent_window=duration(60),
            step_times=pb.StepTimes(steps=10, median=duration(0.02), p95=duration(0.03), longest=duration(0.05)),
            limits=pb.Limits(running=64, step_tokens=512, unfinished=16_384, model_len=2048),
        )

    async def ListWorkflows(self, request: pb.ListWorkflowsRequest, context: object) -> pb.ListWorkflowsResponse:
        self.requests.append(request)
        found = [
            w
            for w in self.workflows
            if w.id > request.page_token
            and (w.calls.running or not request.unfinished_only)
            and (not request.HasField("namespace") or w.namespace == request.namespace)
        ]
        page = found[: request.page_size]
        return pb.ListWorkflowsResponse(workflows=page, next_page_token=page[-1].id if len(found) > len(page) else "")

    async def ListMessages(
        self, request: pb.AdminServiceListMessagesRequest, context: object
    ) -> pb.AdminServiceListMessagesResponse:
        self.requests.append(request)
        begin = int(request.page_token or 0)
        messages = [
            pb.MessageStats(
                id=f"m{i}",
                state=core.STATE_DONE,
                tokens=9,
                tokens_in_slots=6,
                bytes=600,
                parents=["p"],
                age=duration(1),
            )
            for i in range(begin, begin + 2)
        ]
        return pb.AdminServiceListMessagesResponse(messages=messages, next_page_token="2" if begin == 0 else "")

    async def WatchCache(self, request: pb.WatchCacheRequest, context: object):
        yield pb.WatchCacheResponse()
        event = pb.CacheEvent(
            kind=pb.CACHE_EVENT_KIND_EVICTED, source=pb.TIER_HOST, namespace="acme", message_id="m",
            content_key=b"key", tokens=7, sequence=3,
        )  # fmt: skip
        yield pb.WatchCacheResponse(events=[event], dropped=2)
