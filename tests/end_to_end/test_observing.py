"""Health, reflection and metrics: what proxies, tools and dashboards see."""

from __future__ import annotations

import asyncio
import urllib.request

import grpc
import pytest
from end_to_end.served import PATIENCE, ServerProcess, Wire, decode, prefill, read
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from prometheus_client.parser import text_string_to_metric_families

from pavane.protos.v1 import pavane_pb2 as pb

SERVICES = ("pavane.v1.WorkflowService", "pavane.v1.ModelService", "pavane.v1.AdminService")


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_health(channel: grpc.aio.Channel, service: str) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(database.get_services()) == {
            *SERVICES,
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        described = DescriptorPool(database).FindServiceByName("pavane.v1.WorkflowService")
        ours = pb.DESCRIPTOR.services_by_name["WorkflowService"]
        assert [m.name for m in described.methods] == [m.name for m in ours.methods]
        assert described.methods_by_name["Submit"].input_type.fields_by_name["calls"].number == 2


async def scrape(server: ServerProcess) -> dict[str, float]:
    """Samples by name, with the labels but buckets behind it."""

    def get() -> str:
        with urllib.request.urlopen(server.metrics_url, timeout=PATIENCE) as response:
            assert response.status == 200
            return str(response.read().decode())

    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(await asyncio.to_thread(get)):
        assert family.name.startswith("pavane_")
        assert family.documentation
        for sample in family.samples:
            labels = [value for key, value in sample.labels.items() if key != "le"]
            if "le" not in sample.labels:
                samples[" ".join([sample.name, *labels])] = sample.value
    return samples


async def test_metrics(server: ServerProcess, wire: Wire) -> None:
    before = await scrape(server)
    await wire.tell(prefill("q", "Count the metrics."), *(decode(f"a{i}", ["q"], max_tokens=3) for i in range(2)))
    await wire.submit(decode("long", max_tokens=2000), decode("child", ["long"]), decode("grandchild", ["child"]))
    stream = wire.watch(0, ["long"])
    await read(stream, until=lambda story: "long" in story.calls and len(story["long"].deltas) > 0)
    stream.cancel()
    during = await scrape(server)
    assert during["pavane_num_requests_running"] == 1
    assert during["pavane_num_requests_blocked"] == 2
    assert during["pavane_num_requests_waiting"] == 0
    assert during["pavane_num_workflows"] == 1
    assert during["pavane_token_slots"] == 4096
    assert 0 < during["pavane_kv_cache_usage_perc"] < 0.5
    await wire.cancel("long", descendants=True)
    after = await scrape(server)
    grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
    assert grown["pavane_calls_ended_total done"] == 3
    assert grown["pavane_calls_ended_total cancelled"] == 3
    assert grown.get("pavane_calls_ended_total failed", 0) == 0
    assert grown["pavane_request_success_total length"] == 2
    assert grown["pavane_time_to_first_token_seconds_count"] == 3  # the cancelled one had begun; the prefill has none
    assert 0 < grown["pavane_time_to_first_token_seconds_sum"] < 30
    assert grown["pavane_inter_token_latency_seconds_count"] >= 4
    assert grown["pavane_e2e_request_latency_seconds_count"] == 3
    assert grown["pavane_step_seconds_count"] == grown["pavane_forward_seconds_count"] >= 4
    assert grown["pavane_step_seconds_sum"] >= grown["pavane_forward_seconds_sum"] > 0
    assert grown["pavane_tokens_total generated"] >= 7
    assert grown["pavane_tokens_total trailer"] == 4
    assert after["pavane_num_requests_blocked"] == 0
