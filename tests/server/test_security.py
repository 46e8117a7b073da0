"""TLS, client certificates and keys on a server that runs, also while their files change."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.rpcs import RPCS
from support.secured import Authority, KeyFile, served, tiny_model

from pavane.clients import (
    TLS,
    Admin,
    Client,
    PavaneError,
    PermissionDenied,
    ResourceExhausted,
    RetryPolicy,
    Unavailable,
)
from pavane.protos.v1 import pavane_pb2 as pb
from pavane.protos.v1 import pavane_pb2_grpc as rpc
from pavane.server import reload
from pavane.server.config import ConfigError, ServerConfig
from pavane.server.running import Server

ONCE = RetryPolicy(give_up_after=0.0)
PATIENCE = 20.0
ALONE = (("grpc.use_local_subchannel_pool", 1),)  # a connection of its own


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path)


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "POLL_S", 0.02)


def client(server: Server, api_key: str = "", tls: TLS | bool | None = None, **options: object) -> Client:
    target = f"localhost:{server.port}"
    return Client(target, tls=tls, api_key=api_key, retry=ONCE, timeout=PATIENCE, options=ALONE, **options)  # type: ignore[arg-type]


async def gets_in(server: Server, api_key: str = "", tls: TLS | bool | None = None) -> bool:
    async with client(server, api_key, tls) as one:
        try:
            await one.server_info()
        except (Unavailable, PermissionDenied):
            return False
        return True


async def until(true: Callable[[], bool]) -> None:
    for _ in range(round(PATIENCE / 0.01)):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"it has not come true in {PATIENCE:g} s")


# ---- TLS


async def test_tls_and_client_certificates(model: Path, authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "strange").mkdir()
    strange = Authority.make(tmp_path / "strange")
    async with served(model, **authority.flags) as server:
        assert await gets_in(server, tls=TLS(ca=authority.root))
        assert not await gets_in(server, tls=TLS(ca=strange.root))
        assert not await gets_in(server, tls=True)  # no well-known authority has signed it
        assert not await gets_in(server)  # in the clear
        authority.renew("pavane.example")
        await asyncio.sleep(0.2)
        assert not await gets_in(server, tls=TLS(ca=authority.root))
        assert await gets_in(server, tls=TLS(ca=authority.root, server_name="pavane.example"))
    authority.renew()
    async with served(model, **authority.flags, tls_client_ca=str(authority.root)) as server:
        assert await gets_in(server, tls=authority.client())
        assert not await gets_in(server, tls=TLS(ca=authority.root))
        theirs = strange.client()
        assert not await gets_in(server, tls=TLS(ca=authority.root, cert=theirs.cert, key=theirs.key))


async def test_a_client_does_not_go_on_asking_whom_it_will_never_trust(
    model: Path, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "strange").mkdir()
    strange = Authority.make(tmp_path / "strange")

    async def told(server: Server, tls: TLS) -> str:
        async with Client(f"localhost:{server.port}", tls=tls) as client:
            with pytest.raises(Unavailable) as caught:
                await asyncio.wait_for(client.server_info(), PATIENCE)
        assert caught.value.refused
        return caught.value.text

    async with served(model, **authority.flags) as server:
        assert "name who has (ca)" in await told(server, TLS(ca=strange.root))
        assert "another name" in await told(server, TLS(ca=authority.root, server_name="pavane.example"))
    async with served(model) as server:
        assert "without TLS" in await told(server, TLS(ca=authority.root))


def serial(server: Server, authority: Authority) -> str:
    """Of the certificate that is shown now. Handshakes are gRPC's threads' work, so that this may block the loop."""
    context = ssl.create_default_context(cafile=str(authority.root))
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("localhost", server.port), PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        found = wrapped.getpeercert()
        assert found is not None
        return str(found["serialNumber"])


async def test_a_new_certificate_is_taken_up_without_a_break(
    model: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pavane.server.reload")
    async with (
        served(model, **authority.flags) as server,
        client(server, tls=TLS(ca=authority.root)) as one,
        one.workflow() as workflow,
    ):
        answer = workflow.decode(workflow.prefill(user="?"), max_tokens=200, ignore_eos=True)
        deltas = aiter(answer)
        await anext(deltas)
        first = await asyncio.to_thread(serial, server, authority)
        authority.renew()
        await until(lambda: "loaded again" in caplog.text)
        second = await asyncio.to_thread(serial, server, authority)
        assert second != first
        # Broken in turn: no PEM, the key of another certificate, no file. Each is told once, and changes nothing.
        whole = authority.key.read_bytes()
        for number, spoil in enumerate(
            (
                lambda: authority.cert.write_text("nothing"),
                lambda: authority.issue(authority.cert, authority.folder / "other.pem", "localhost"),
                lambda: authority.key.unlink(),
            ),
            1,
        ):
            spoil()
            await until(lambda told=number: caplog.text.count("kept as before") == told)  # type: ignore[misc]
            assert await asyncio.to_thread(serial, server, authority) == second
        await asyncio.sleep(0.2)
        assert caplog.text.count("kept as before") == 3
        assert whole.decode().splitlines()[1] not in caplog.text
        authority.renew()
        await until(lambda: caplog.text.count("loaded again") == 2)
        assert await asyncio.to_thread(serial, server, authority) not in (first, second)
        # What was open before all this is still the same stream on the same connection.
        assert len((await answer).content) == 200


def encrypted(folder: Path) -> None:
    (folder / "key.pem").write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIBIA==\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "cert.pem").unlink(), "--tls-cert .*cert.pem: cannot be read: No such file"),
        (lambda folder: (folder / "key.pem").write_text(""), "are no certificate with its key"),
        (encrypted, "are no certificate with its key.*without a password"),
        (lambda folder: (folder / "ca.pem").write_text("no"), "--tls-client-ca .*ca.pem has no certificates"),
        (lambda folder: (folder / "keys").unlink(), "--api-keys .*keys: cannot be read: No such file"),
        (lambda folder: (folder / "keys").write_bytes(b"\xff"), "--api-keys .*keys: it is no text"),
        (lambda folder: (folder / "keys").write_text("a"), "--api-keys .*keys: line 1: it does not begin"),
    ],
)
async def test_files_that_cannot_be_used_stop_the_start(
    model: Path, authority: Authority, keys: KeyFile, spoil: Callable[[Path], object], words: str
) -> None:
    spoil(authority.folder)
    settings = {**authority.flags, "tls_client_ca": str(authority.root), "api_keys": str(keys.path)}
    with pytest.raises(ConfigError, match=words):
        async with served(model, **settings):
            pass


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": "0.0.0.0"}, "--host 0.0.0.0 .*--tls-cert.*--api-keys.*--insecure"),
        ({"host": "::"}, "--host :: is reached"),
        ({"host": "server.example", "api_keys": "k"}, "--host server.example .*read and changed"),
        ({"host": "10.0.0.1", "tls_cert": "c", "tls_key": "k"}, "whoever reaches the port"),
        ({"tls_cert": "c"}, "--tls-cert is given without --tls-key"),
        ({"tls_key": "k"}, "--tls-key is given without --tls-cert"),
        ({"tls_client_ca": "k"}, "--tls-client-ca is given without --tls-cert"),
        ({"max_streams": 0}, "--max-streams is 0"),
    ],
)
def test_nobody_listens_to_the_world_without_tls_and_keys_by_accident(settings: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ServerConfig(**settings)  # type: ignore[arg-type]


def test_who_says_so_may() -> None:
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        ServerConfig(host=host)
    ServerConfig(host="0.0.0.0", insecure=True)
    ServerConfig(host="0.0.0.0", tls_cert="c", tls_key="k", api_keys="f")


# ---- keys


async def test_keys_open_what_they_are_for(model: Path, authority: Authority, keys: KeyFile) -> None:
    user, admin = keys.add("a", shared="docs", priority="3"), keys.add("ops", role="admin")
    tls = TLS(ca=authority.root)
    async with served(model, **authority.flags, api_keys=str(keys.path)) as server:
        target = f"localhost:{server.port}"
        assert await gets_in(server, user, tls)
        assert not await gets_in(server, "", tls)
        assert not await gets_in(server, user + "x", tls)
        async with (
            client(server, user, tls) as one,
            client(server, user, tls, namespace="docs") as shared,
            Admin(target, tls=tls, api_key=admin) as watcher,
        ):
            async with one.workflow("w", priority=3), shared.workflow("w"):
                assert [w.namespace async for w in watcher.workflows()] == ["a", "docs"]
            with pytest.raises(PermissionDenied, match="may ask for 3 at most"):
                async with one.workflow(priority=4):
                    pass
        async with client(server, user, tls, namespace="b") as other:
            with pytest.raises(PermissionDenied, match="may not use the namespace 'b'"):
                await other.server_info()
        async with Admin(target, tls=tls, api_key=user) as watcher:
            with pytest.raises(PermissionDenied, match="role=admin"):
                await watcher.stats()
        # Whoever reaches the port may ask for its health; what it serves is told to those with keys.
        credentials = tls.credentials()
        async with grpc.aio.secure_channel(target, credentials) as channel:
            healthy = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert healthy.status == health_pb2.HealthCheckResponse.SERVING
            ask = reflection_pb2.ServerReflectionRequest(list_services="")
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ServerReflectionInfo(iter([ask])).read()
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            listed = stub.ServerReflectionInfo(iter([ask]), metadata=(("authorization", f"Bearer {user}"),))
            names = {service.name for service in (await listed.read()).list_services_response.service}
            assert "pavane.v1.WorkflowService" in names
            listed.cancel()


async def test_a_file_of_keys_is_followed(model: Path, keys: KeyFile, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pavane.server.reload")
    stays, goes = keys.add("stays"), keys.add("goes")
    async with served(model, api_keys=str(keys.path)) as server, client(server, goes) as one:
        async with one.workflow(close=False) as workflow:
            first = workflow.prefill(user="?")
            await first
            keys.remove("goes")
            new = keys.add("new")
            await until(lambda: "2 keys of 2 tenants" in caplog.text)
            assert [await gets_in(server, key) for key in (stays, goes, new)] == [True, False, True]
            # The stream that this workflow watches was open all the time; it brings nothing more.
            with pytest.raises(PavaneError):
                await workflow.decode(first, max_tokens=5)
        keys.path.write_text("")  # as a broken write leaves it
        await until(lambda: "kept as before" in caplog.text)
        assert await gets_in(server, stays)
        keys.path.write_text("# nobody\n")
        await until(lambda: "0 keys" in caplog.text)
        assert not await gets_in(server, stays)
    assert not any(secret in caplog.text for secret in keys.secrets.values())


async def test_a_stream_that_is_open_ends_with_its_key(
    model: Path, keys: KeyFile, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pavane.server.reload")
    user, other = keys.add("a"), keys.add("b", tenant="a")
    async with (
        served(model, api_keys=str(keys.path)) as server,
        client(server, other) as second,
        grpc.aio.insecure_channel(f"localhost:{server.port}") as channel,
        asyncio.timeout(PATIENCE),
    ):
        stub = rpc.WorkflowServiceStub(channel)
        mine = (("authorization", f"Bearer {user}"),)
        await stub.OpenWorkflow(pb.OpenWorkflowRequest(workflow_id="w"), metadata=mine)
        watching = stub.Watch(pb.WatchRequest(workflow_id="w"), metadata=mine)
        async with second.workflow("w") as workflow:  # of the same tenant: one workflow
            await workflow.prefill(user="?")
            assert (await watching.read()).events
            keys.remove("a")
            await until(lambda: "1 keys of 1 tenants" in caplog.text)
            await workflow.prefill(user="!")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read_all(watching)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "removed or changed" in str(caught.value.details())


async def read_all(stream: grpc.aio.UnaryStreamCall[pb.WatchRequest, pb.WatchResponse]) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


# ---- limits


async def test_so_many_requests_are_open_at_once(model: Path, tmp_path: Path) -> None:
    tenants = tmp_path / "tenants.json"
    tenants.write_text('{"tenants": {"small": {"max_streams": 2}}}')
    async with (
        served(model, tenants=str(tenants), max_streams=5) as server,
        grpc.aio.insecure_channel(f"localhost:{server.port}") as channel,
    ):
        stub = rpc.WorkflowServiceStub(channel)

        async def watch(namespace: str) -> grpc.aio.UnaryStreamCall[pb.WatchRequest, pb.WatchResponse]:
            mine = (("pavane-namespace", namespace),)
            await stub.OpenWorkflow(pb.OpenWorkflowRequest(workflow_id="w"), metadata=mine)
            call = stub.Watch(pb.WatchRequest(workflow_id="w"), metadata=mine)
            await asyncio.sleep(0.05)
            return call  # type: ignore[no-any-return]

        open_ones = [await watch("small"), await watch("small")]
        async with Client(f"localhost:{server.port}", namespace="small", retry=ONCE) as one:
            with pytest.raises(ResourceExhausted, match="tenant 'small' has 2 requests open") as caught:
                await one.server_info()
            assert (caught.value.reason, caught.value.retry_after) == ("TOO_MANY_STREAMS", 1.0)
        open_ones += [await watch("x"), await watch("y"), await watch("z")]
        async with Client(f"localhost:{server.port}", retry=ONCE) as one:
            with pytest.raises(ResourceExhausted, match="5 requests are open, as many as --max-streams"):
                await one.server_info()
            for call in open_ones:
                call.cancel()
            await asyncio.sleep(0.1)
            await one.server_info()


async def test_headers_that_are_too_large_are_refused(model: Path) -> None:
    async with served(model) as server, grpc.aio.insecure_channel(f"localhost:{server.port}") as channel:
        stub = rpc.ModelServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetServerInfo(pb.GetServerInfoRequest(), metadata=(("x-padding", "a" * 20_000),))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await stub.GetServerInfo(pb.GetServerInfoRequest(), metadata=(("x-padding", "a" * 8_000),))


async def test_what_is_listed_without_end_is_refused_before_it_is_read(model: Path) -> None:
    parents, ids = [pb.ParentRef(id="p")] * 100_000, ["x"] * 100_001
    requests = {
        "Submit": (
            pb.SubmitRequest(workflow_id="w", calls=[pb.Call(id="a")] * 20_000),
            pb.SubmitRequest(workflow_id="w", calls=[pb.Call(id="a", parents=parents)]),
            pb.SubmitRequest(workflow_id="w", groups=[pb.Group(id="g", members=ids)]),
        ),
        "Run": (pb.RunRequest(submit=pb.SubmitRequest(workflow_id="w", calls=[pb.Call(id="a")] * 20_000)),),
        "Plan": (pb.PlanRequest(submit=pb.SubmitRequest(workflow_id="w", calls=[pb.Call(id="a", parents=parents)])),),
        "Watch": (pb.WatchRequest(workflow_id="w", ids=ids),),
        "Cancel": (pb.CancelRequest(workflow_id="w", ids=ids),),
        "Finish": (pb.FinishRequest(workflow_id="w", ids=ids),),
        "Release": (pb.ReleaseRequest(workflow_id="w", ids=ids),),
    }
    async with served(model) as server, grpc.aio.insecure_channel(f"localhost:{server.port}") as channel:
        await rpc.WorkflowServiceStub(channel).OpenWorkflow(pb.OpenWorkflowRequest(workflow_id="w"))
        for name, several in requests.items():
            for request in several:
                one = RPCS[f"WorkflowService/{name}"]
                with pytest.raises(grpc.aio.AioRpcError, match=r"the limit is 512|at most 1\d\d?[,_]?\d{3}") as caught:
                    await one.call(channel, request.SerializeToString())
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, name
