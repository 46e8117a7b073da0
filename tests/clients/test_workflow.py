import asyncio

import grpc
import pytest

from pavane.clients import (
    AlreadyExists,
    CallCancelled,
    CallFailed,
    Client,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    ResourceExhausted,
    RetryPolicy,
    Unavailable,
    WorkflowClosed,
)
from pavane.protos.v1 import pavane_pb2 as pb
from tests.clients.conftest import QUICK


def words(message_id, n=6):
    return "".join(f"{message_id}-{i} " for i in range(n))


async def test_the_example_of_the_readme(client, fake):
    async with client.workflow("debate-17", budget_tokens=200_000) as wf:
        task = wf.prefill(system="be brief", user="how many?")
        ideas = [wf.decode(task, prefix=f"Solution #{i}: ", seed=i, max_tokens=3) for i in range(4)]
        final = wf.decode(task, *ideas, fidelity="exact", logprobs=True)
        text = "".join([delta.text async for delta in final])
        result = await final
        assert (await ideas[2]).text == "Solution #2: " + words("m3", 3)
    assert text == result.text == words("m5")
    assert result.content == tuple(range(6))
    assert result.tokens == (9999, *range(6))
    assert result.logprobs == tuple(-float(i) for i in range(6))
    assert (result.state, result.finish) == ("done", "length")
    assert result.receipt.visible == 51
    assert result.receipt.first_token == pytest.approx(0.005)
    assert [use.id for use in result.receipt.parents] == ["m0", "m1", "m2", "m3", "m4"]
    assert wf.total.generated == 4 * 3 + 6


async def test_one_submit_per_tick_and_in_order(client, fake):
    async with client.workflow() as wf:
        first = wf.prefill(user="a")
        wf.decode(first)
        await asyncio.sleep(0)
        last = wf.decode(first, id="late")
        await last
    assert fake.submits == [["m0", "m1"], ["late"]]
    assert len(fake.watches) == 1


async def test_lost_answers_are_sent_again_and_count_once(client, fake):
    fake.lose_answers = 3
    async with client.workflow() as wf:
        a = wf.prefill(user="a")
        b = wf.decode(a)
        text = "".join([delta.text async for delta in b])
        assert len(await wf.list()) == 2  # asks only when all that was submitted is accepted
    assert text == words("m1")
    assert fake.submits == [["m0", "m1"]] * 4


async def test_a_full_server_is_asked_again_when_it_said(client, fake):
    later = pb.Error(reason="POOL_FULL", text="no slots")
    later.retry_after.FromMilliseconds(30)
    fake.refusals = [(grpc.StatusCode.RESOURCE_EXHAUSTED, later)] * 2
    async with client.workflow() as wf:
        begin = asyncio.get_running_loop().time()
        await wf.prefill(user="a")
        assert asyncio.get_running_loop().time() - begin >= 0.06
    assert len(fake.submits) == 3


async def test_a_full_server_that_does_not_say_when_is_not_asked_again(client, fake):
    fake.refusals = [(grpc.StatusCode.RESOURCE_EXHAUSTED, pb.Error(reason="POOL_FULL", text="no slots"))]
    async with client.workflow() as wf:
        with pytest.raises(ResourceExhausted) as caught:
            await wf.prefill(user="a")
    assert caught.value.retry_after is None


async def test_a_deadline_without_hope_is_not_tried_again(client, fake):
    hopeless = pb.Error(reason="DEADLINE_HOPELESS", text="give it more", ids=["m0"])
    hopeless.retry_after.FromMilliseconds(1)
    fake.refusals = [(grpc.StatusCode.DEADLINE_EXCEEDED, hopeless)]
    async with client.workflow() as wf:
        with pytest.raises(DeadlineExceeded) as caught:
            await wf.decode(timeout=0.1)
    assert (caught.value.reason, caught.value.refused) == ("DEADLINE_HOPELESS", True)
    assert len(fake.submits) == 1


async def test_retries_are_bounded(fake):
    later = pb.Error(reason="POOL_FULL", text="no slots")
    later.retry_after.FromSeconds(3600)
    fake.refusals = [(grpc.StatusCode.RESOURCE_EXHAUSTED, later)]
    async with Client(fake.target, retry=QUICK) as client, client.workflow() as wf:
        with pytest.raises(ResourceExhausted) as caught:
            await wf.prefill(user="a")
    assert caught.value.retry_after == 3600


async def test_a_refused_submit_fails_all_its_calls_and_no_other(client, fake):
    error = pb.Error(reason="TOO_LONG", text="message 'm1' is too long", ids=["m1"])
    fake.refusals = [(grpc.StatusCode.INVALID_ARGUMENT, error)]
    async with client.workflow() as wf:
        both = [wf.prefill(user="a"), wf.prefill(user="b")]
        await asyncio.sleep(0)
        other = wf.prefill(user="c")
        for handle in both:
            with pytest.raises(InvalidRequest) as caught:
                await handle
            assert (caught.value.reason, caught.value.ids) == ("TOO_LONG", ("m1",))
            assert str(caught.value) == "message 'm1' is too long [TOO_LONG; ids: m1]"
        assert (await other).text == "c"


@pytest.mark.parametrize("skip_deltas", [False, True])
@pytest.mark.parametrize("cut", range(1, 15))
async def test_a_cut_watch_loses_and_doubles_nothing(client, fake, cut, skip_deltas):
    fake.cut_watch_after, fake.skip_deltas = cut, skip_deltas
    async with client.workflow() as wf:
        root = wf.prefill(user="a")
        answers = [wf.decode(root, prefix="So: ", logprobs=True) for _ in range(2)]
        for answer in answers:
            deltas = [delta async for delta in answer]
            assert "".join(delta.text for delta in deltas) == words(answer.id)
            assert [token for delta in deltas for token in delta.tokens] == list(range(6))
            assert len([logprob for delta in deltas for logprob in delta.logprobs]) == 6
            assert (await answer).text == "So: " + words(answer.id)
    assert len(fake.watches) == 2


async def test_a_watch_that_never_works_ends_every_handle(fake):
    fake.watch_status = grpc.StatusCode.UNAVAILABLE
    retry = RetryPolicy(first=0.001, longest=0.01, give_up_after=0.05)
    async with Client(fake.target, retry=retry) as client, client.workflow() as wf:
        handle = wf.prefill(user="a")
        with pytest.raises(Unavailable):
            await handle
        fake.watch_status = None
        assert (await wf.prefill(user="b")).text == "b"
    assert len(fake.watches) > 2


async def test_a_watch_that_is_refused_is_not_tried_again(client, fake):
    fake.watch_status = grpc.StatusCode.INVALID_ARGUMENT
    async with client.workflow() as wf:
        with pytest.raises(InvalidRequest):
            await wf.prefill(user="a")
    assert fake.watches == [0]


async def test_a_failed_call_carries_how_far_it_came_and_fails_its_children(client, fake):
    fake.fail = {"bad"}
    async with client.workflow() as wf:
        bad = wf.decode(id="bad")
        child = wf.decode(bad, id="child")
        seen = []

        async def read():
            async for delta in bad:
                seen.append(delta.text)  # noqa: PERF401

        with pytest.raises(CallFailed) as caught:
            await read()
        with pytest.raises(CallFailed, match="parent 'bad' failed"):
            await child
    assert "".join(seen) == caught.value.result.text == words("bad", 2)
    assert (caught.value.reason, caught.value.result.state) == ("NAN", "failed")
    with pytest.raises(CallFailed):
        await bad  # asked again, told again


async def test_cancel(client, fake):
    fake.hold["m0"] = asyncio.Event()
    async with client.workflow() as wf:
        answer = wf.decode()
        assert await answer.cancel() == ("m0",)
        with pytest.raises(CallCancelled) as caught:
            await answer
        assert caught.value.result.state == "cancelled"
        assert answer.done()


async def test_closing_the_workflow_ends_what_runs(client, fake):
    fake.hold["m0"] = asyncio.Event()
    async with client.workflow() as wf:
        answer = wf.decode()
        await anext(aiter(answer))
    with pytest.raises(CallCancelled) as caught:
        await answer
    assert caught.value.result.text.startswith("m0-0 ")
    with pytest.raises(WorkflowClosed):
        wf.prefill(user="too late")


async def test_closing_the_client_ends_what_waits(fake):
    fake.hold["m0"] = asyncio.Event()
    client = await Client(fake.target, retry=QUICK).__aenter__()
    wf = await client.workflow().__aenter__()
    answer = wf.decode()
    waiting = asyncio.create_task(answer._ended())
    await anext(aiter(answer))
    await client.close()
    with pytest.raises(WorkflowClosed) as caught:
        await waiting
    assert caught.value.reason == "CLIENT_CLOSED"


async def test_a_workflow_closed_elsewhere_ends_what_waits(client, fake):
    fake.hold["m0"] = asyncio.Event()
    async with client.workflow("w") as wf:
        answer = wf.decode()
        await anext(aiter(answer))
        fake.workflows["", "w"].closed = True
        fake.workflows["", "w"].wake()
        with pytest.raises(WorkflowClosed):
            await answer
        with pytest.raises(NotFound):
            await wf.prefill(user="b")


async def test_a_workflow_can_be_left_and_taken_up_again(client, fake):
    async with client.workflow("w", close=False) as wf:
        wf.decode(id="early")
    await asyncio.wait([fake.workflows["", "w"].tasks["early"]])
    async with client.workflow("w") as wf:
        new = wf.prefill("early", user="b")
        assert new.id != "m0"
        assert (await new).text == "b"
        again = wf.decode(id="early")
        assert "".join([delta.text async for delta in again]) == words("early")
    assert fake.watches[-2:] == [7, 0]


async def test_get_list_release_and_the_services_of_the_model(client, fake):
    async with client.workflow() as wf:
        handles = [wf.prefill(user=str(i)) for i in range(5)]
        assert (await wf.get(handles[4], wait=True)).text == "4"
        assert [result.id for result in await wf.list()] == ["m0", "m1", "m2", "m3", "m4"]
        await handles[0].release()
        with pytest.raises(NotFound, match="no message 'm0'"):
            await wf.get("m0")
    info = await client.server_info()
    assert (info.model, info.bos_token_id, info.trailer_ids) == ("fake", None, (3, 4))
    assert await client.tokenize(user="four") == (4,)
    assert await client.detokenize([1, 2]) == "1 2"


async def test_the_same_id_is_the_same_call(client, fake):
    async with client.workflow() as wf:
        a = wf.prefill(user="a", id="a")
        assert wf.prefill(user="a", id="a") is a
        with pytest.raises(AlreadyExists):
            wf.prefill(user="b", id="a")


async def test_namespaces_are_sent(fake):
    async with Client(fake.target, namespace="tenant-1") as client, client.workflow("w") as wf:
        await wf.prefill(user="a")
    assert list(fake.workflows) == [("tenant-1", "w")]


async def test_handles_of_another_workflow_are_no_parents(client):
    async with client.workflow() as one, client.workflow() as other:
        with pytest.raises(ValueError, match="another workflow"):
            one.decode(other.prefill(user="a").exact())


async def test_no_server_is_said_at_once():
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(Unavailable):
            await client.server_info()
