"""Wiring of a server: from its settings to one that listens."""

from __future__ import annotations

import asyncio
import os
import socket
from importlib.metadata import version
from pathlib import Path
from time import monotonic

import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from pavane.cache import GraphCache
from pavane.kernels.batch import Batch
from pavane.kernels.moves import Mover
from pavane.models.loader import find_model, load_model
from pavane.protos.v1 import admin_pb2, admin_pb2_grpc
from pavane.protos.v1 import pavane_pb2 as pb
from pavane.protos.v1 import pavane_pb2_grpc as rpc
from pavane.scheduler.cache_events import CacheEvents
from pavane.scheduler.engine import Engine, StepParts
from pavane.scheduler.graph import Limits
from pavane.scheduler.introspection import Inspector
from pavane.scheduler.scheduler import Scheduler
from pavane.scheduler.spec import Event
from pavane.scheduler.tally import Tally
from pavane.scheduler.tenants import Tenants
from pavane.scheduler.text import StopMatcher
from pavane.server import memory, runners
from pavane.server.access import Access
from pavane.server.admin import AdminService, is_served
from pavane.server.aside import Aside
from pavane.server.config import ConfigError, ServerConfig
from pavane.server.convert import Converter
from pavane.server.http_port import HttpPort, Life
from pavane.server.journal import Journals
from pavane.server.listen import Listener
from pavane.server.metrics import Metrics
from pavane.server.origins import Origins
from pavane.server.pace import Pace
from pavane.server.reload import run_all
from pavane.server.runners import MakeRunner
from pavane.server.running import Server, StopSignals
from pavane.server.service import ModelService, WorkflowService
from pavane.server.tenants_file import read_tenants
from pavane.server.text.chat_choice import choose_chat_format
from pavane.server.text.constraint import Constraints
from pavane.server.text.stops import StopMatcher as TextStopMatcher
from pavane.server.text.tokenizer import Tokenizer
from pavane.server.tracing import find_export

SERVICES = ("pavane.v1.WorkflowService", "pavane.v1.ModelService")
ADMIN_SERVICE = "pavane.v1.AdminService"


class _Text:
    def __init__(self, tokenizer: Tokenizer, constraints: Constraints) -> None:
        self._tokenizer = tokenizer
        self.masks = constraints.masks

    def matcher(self, stop: tuple[str, ...], beginning: str) -> StopMatcher:
        return TextStopMatcher(self._tokenizer, stop, beginning)


async def start(
    config: ServerConfig, make_runner: MakeRunner | None = None, signals: StopSignals | None = None
) -> Server:
    """Loads the model and listens; `signals` are heeded from before it says that it serves. Raises ModelError or
    ConfigError; the text says what to change."""
    _check_address(config)
    make_spans = find_export(config)
    tenants = read_tenants(Path(config.tenants)) if config.tenants else Tenants()
    listener = Listener(config, tenants)
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    config = await asyncio.to_thread(runners.settled, config)
    path = await asyncio.to_thread(find_model, config.model, config.revision, config.load_format)
    dtype = torch.float32 if config.dtype == "float32" else torch.bfloat16
    keep_blocks = dtype is torch.bfloat16
    loaded = await asyncio.to_thread(load_model, path, dtype, config.load_format, keep_blocks=keep_blocks)
    if config.max_model_len > loaded.config.max_position:
        raise ConfigError(
            f"--max-model-len is {config.max_model_len}; the model was trained for {loaded.config.max_position}"
        )
    positions = config.max_model_len or loaded.config.max_position
    if loaded.window is not None and loaded.window.size < positions:
        raise ConfigError(
            f"{loaded.window.source} is not supported beyond its size, and {positions} positions would be served; set "
            f"--max-model-len {loaded.window.size}"
        )
    tokenizer = Tokenizer(loaded.tokenizer)
    chat = choose_chat_format(loaded.tokenizer, tokenizer, config.chat_format)
    bos_id = tokenizer.bos_id
    if bos_id is None and chat.begins_with_bos:
        bos_id = loaded.tokenizer.bos_id
    # Offsets count from after BOS, which takes one of the positions that the model was trained for.
    max_model_len = positions - (bos_id is not None)
    vocab_size = tokenizer.vocab_size
    if loaded.config.vocab_size < vocab_size:
        raise ConfigError(
            f"the model has {loaded.config.vocab_size} embeddings for {vocab_size} tokens; convert it again"
        )
    loaded = loaded.cut_vocabulary(vocab_size)
    constraints = Constraints(tokenizer, chat.end_ids, vocab_size)
    runner = (make_runner or runners.make_runner)(loaded, config, max_model_len + (bos_id is not None))
    slots = runners.slots_of(runner, config)
    cache = GraphCache(
        slots,
        bos_id=bos_id,
        identity=await asyncio.to_thread(runners.identity_of, loaded, config),
        absolute=config.batch_invariant,
        tier=runners.tier_of(runner),
    )
    scheduler = Scheduler(
        cache,
        Limits(max_model_len, slots, tokenizer.vocab_size, max_unfinished=config.max_unfinished_calls),
        _Text(tokenizer, constraints),
        max_running=config.max_num_seqs,
        token_budget=config.max_num_batched_tokens,
        share=not config.batch_invariant,
        policy=config.scheduling_policy,
        tenants=tenants,
    )
    slot_bytes = runners.slot_bytes(loaded.config, config)
    metrics = Metrics(
        scheduler,
        bytes_per_token=slot_bytes,
        flops_per_row=loaded.config.flops_per_row,
        flops_per_key=loaded.config.flops_per_key,
    )
    tally = Tally(monotonic())
    journals = Journals(tokenizer, Pace(config.stream_interval / 1000) if config.stream_interval else None)
    origins = Origins(make_spans(loaded.name, metrics.registry) if make_spans is not None else None)

    def publish(events: dict[tuple[str, str], list[Event]]) -> None:
        now = monotonic()
        for key, happened in events.items():
            metrics.record(key, happened)
            tally.record(happened, now)
            journals.record(key, happened)
            origins.record(key, happened)

    def observe(batch: Batch, times: StepParts) -> None:
        metrics.step(batch, times)
        tally.step(batch.n_rows, times.whole, times.forward, monotonic())

    engine = Engine(scheduler, runner, publish, observe, config.step_timeout)
    converter = Converter(tokenizer, chat, bos_id, constraints)
    info = pb.GetServerInfoResponse(
        model=loaded.name,
        max_model_len=max_model_len,
        bos_token_id=bos_id,
        trailer_ids=chat.trailer,
        chat_format=chat.name,
        chat_format_report=chat.report,
        version=version("pavane"),
        token_slots=slots,
        vocab_size=tokenizer.vocab_size,
        end_token_ids=sorted(chat.end_ids),
        kv_cache_dtype=config.kv_cache_dtype,
        quantization=config.quantization,
    )
    admin = None
    if is_served(config):
        limits = admin_pb2.Limits(
            running=config.max_num_seqs,
            step_tokens=config.max_num_batched_tokens,
            unfinished=config.max_unfinished_calls,
            model_len=max_model_len,
        )
        admin = AdminService(Inspector(scheduler, tally), CacheEvents(scheduler), limits, slot_bytes)
    del loaded
    memory.settle()
    aside = Aside()
    workflows = WorkflowService(engine, journals, origins, converter, tokenizer, aside, config.workflow_ttl, slot_bytes)
    models = ModelService(info, converter, tokenizer, aside)
    mover = runners.mover_of(runner)
    return await _listen(listener, config, engine, mover, metrics, origins, workflows, models, admin, signals)


def _check_address(config: ServerConfig) -> None:
    """Before the model is loaded, and in words of our own: gRPC writes its own to stderr."""
    try:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((config.host, config.port))
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {config.host}:{config.port} ({error.strerror}): choose another --port or --host (port 0 "
            "takes a free one)"
        ) from None


async def _listen(
    listener: Listener,
    config: ServerConfig,
    engine: Engine,
    mover: Mover | None,
    metrics: Metrics,
    origins: Origins,
    workflows: WorkflowService,
    models: ModelService,
    admin: AdminService | None,
    signals: StopSignals | None,
) -> Server:
    server = listener.server(Access(metrics.registry))
    rpc.add_WorkflowServiceServicer_to_server(workflows, server)
    rpc.add_ModelServiceServicer_to_server(models, server)
    services: tuple[str, ...] = SERVICES
    if admin is not None:
        admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, server)
        services = (*SERVICES, ADMIN_SERVICE)
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    port = listener.add_port(server)
    life, http = Life(), None
    if config.metrics_port >= 0:
        try:
            http = HttpPort(config.host, config.metrics_port, metrics.registry, life)
        except OSError as error:
            raise ConfigError(
                f"cannot serve metrics on {config.host}:{config.metrics_port} ({error.strerror}); choose another "
                "--metrics-port (0 takes a free port, -1 turns it off)"
            ) from None
    task = engine.start()
    await server.start()
    if signals is not None:
        signals.install()
    for service in ("", *services):
        await healthy.set(service, health_pb2.HealthCheckResponse.SERVING)
    life.why_not_ready = ""
    reloading = asyncio.create_task(run_all(listener.reloaded()))
    http_port = http.port if http is not None else -1
    return Server(config, engine, port, http_port, server, healthy, task, life, http, reloading, origins, mover)
