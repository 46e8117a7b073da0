"""pavane loadtest: what is sent when, what is counted, and what it says of a server that is wrong."""

import asyncio
import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from pavane.bench.load import capacity
from pavane.bench.load.account import Held, check, growth
from pavane.bench.load.arrivals import Room, draw, reach, select, shrink
from pavane.bench.load.generator import send
from pavane.bench.load.records import CLASSES, Records, percentile
from pavane.bench.load.report import Load, as_json, table
from pavane.bench.trace import TraceCall, TraceWorkflow, make_trace, trace_lines
from pavane.bench.trace_mix import GroupRow
from pavane.cli.main import main

ROOM = Room(positions=8192, slots=16_384, vocabulary=49_152)
HELD = Held(ended=10, unfinished=0, workflows=1, slots_locked=0, slots=100, step_s=1.0)
JOB = TraceWorkflow(0.0, "t0", "w0", "chat", (TraceCall("a", (), prefill=3),))


@pytest.fixture(scope="module")
def server():
    """A server that computes nothing; (pid, where it listens)."""
    command = [sys.executable, "-m", "pavane.bench.fake_server", "--port", "0", "--metrics-port", "-1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        yield process.pid, process.stdout.readline().split()[-1]
        process.terminate()


def loadtest(server, *words):
    return [sys.executable, "-m", "pavane.cli.main", "loadtest", "--server", server[1], "--pid", str(server[0]), *words]


def test_percentiles_are_values_of_the_sample():
    values = [float(n) for n in range(1000, 0, -1)]
    assert [percentile(values, p) for p in (0, 50, 99, 99.9, 100)] == [1, 500, 990, 999, 1000]
    assert [percentile([7.0], p) for p in (50, 99.9)] == [7.0, 7.0]
    assert math.isnan(percentile([], 50))


def test_arrivals_are_poisson_and_fit():
    arrivals = draw(5.0, 400.0, 0.25, 4, 1, ROOM)
    times = [job.at for job in arrivals.workflows]
    assert times == sorted(times)
    assert 390 < times[-1] < 400
    assert len(times) + arrivals.left_out == pytest.approx(2000, rel=0.08)
    assert arrivals.left_out < 20
    small = replace(ROOM, positions=600)
    few = draw(5.0, 400.0, 0.25, 4, 1, small)
    assert len(few.workflows) + few.left_out == len(times) + arrivals.left_out
    assert max(max(reach(job).values()) for job in few.workflows) <= 600
    assert few.left_out > 500


def test_what_a_call_reaches():
    calls = [TraceCall(name, (), prefill=n) for name, n in (("a", 5), ("b", 9), ("c", 7))]
    job = TraceWorkflow(0, "t", "w", "tree", (*calls, TraceCall("d", ("a", "g"), header=2, decode=4, max_tokens=8)),
                        (GroupRow("g", ("b", "c", "a"), 2),))  # fmt: skip
    assert reach(job)["d"] == 2 + 4 + 5 + 9 + 7
    assert reach(shrink(job, 2.0))["d"] == 2 + 8 + 10 + 18 + 14
    assert select([job, replace(job, at=9.0)], 9.0, 1.0, ROOM).workflows == [job]


async def test_workflows_are_due_at_their_time_whatever_became_of_those_before():
    records, dues = Records(), []

    class Slow:
        async def play(self, client, job, due):
            dues.append(due)
            time.sleep(0.2)  # noqa: ASYNC251 - the generator is late, and has to say so

    jobs = [replace(JOB, at=at) for at in (0.0, 0.05, 0.1)]
    await send(jobs, {"t0": None}, Slow(), records, asyncio.Event(), 0.1, 5.0)
    assert [due - dues[0] for due in dues] == pytest.approx([0.0, 0.05, 0.1])
    assert records.lag[1] > 0.1
    assert "the generator sent workflows up to" in load(records).void


async def test_what_is_open_at_the_end_is_given_up():
    ended = []

    class Endless:
        async def play(self, client, job, due):
            try:
                await asyncio.sleep(3600)
            finally:
                ended.append(job)

    seconds = await send([JOB, JOB], {"t0": None}, Endless(), Records(), asyncio.Event(), 0.1, 0.1)
    assert ended == [JOB, JOB]
    assert 0.2 <= seconds < 3


@pytest.mark.parametrize(
    ("after", "says"),
    [
        ({"slots_locked": 3}, "3 of 100 slots are still locked"),
        ({"unfinished": 2}, "2 calls have not ended"),
        ({"workflows": 5}, "4 workflows are still open"),
        ({"ended": 17}, "the server counts 7 calls, its clients know the ends of 5"),
        ({"ended": 14}, "the server counts 4 calls, its clients know the ends of 5"),
    ],
)
def test_a_server_that_tells_another_story(after, says):
    records = Records(done=4)
    records.failed["RUNNER_FAILED"] += 1
    assert not check(HELD, replace(HELD, ended=15), records)
    told = check(HELD, replace(HELD, **{"ended": 15, **after}), records)
    assert any(says in text for text in told)
    assert f"WRONG: {told[0]}" in table(load(records, wrong=told))


def test_growth_is_that_of_the_second_half():
    assert growth([1.0] * 7) is None
    assert growth([1.0] * 8 + [2.0] * 4 + [3.0] * 4) == 1.5


def load(records, **changes):
    known = {
        "records": records, "rate": 1.0, "due": 1, "left_out": 0, "sent_s": 1.0, "seconds": 1.0, "own_cpu_s": 0.1,
        "interrupted": False, "before": HELD, "after": HELD, "memory": None, "capacity": None, "wrong": (),
    }  # fmt: skip
    return Load(**{**known, **changes})


def test_a_load_of_nothing_is_still_told():
    empty = load(Records(), before=None, after=None)
    assert "it does not tell what it holds" in table(empty)
    assert as_json(empty)["latencies"]["gap"]["p99"] is None


def test_all_of_it_on_a_server(server, tmp_path):
    path, trace = tmp_path / "load.json", tmp_path / "trace.jsonl"
    workflows = make_trace(3, 8, 4.0, 2)
    trace.write_text("".join(f"{line}\n" for line in trace_lines(workflows)))
    command = loadtest(server, "--trace", str(trace), "--scale", "0.1", "--json", str(path))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = json.loads(path.read_text())
    assert found["defects"] == []
    assert done.returncode == (1 if found["generator"]["void"] else 0), done.stderr
    sent = [shrink(workflow, 0.1) for workflow in workflows]
    calls = [call for workflow in sent for call in workflow.calls]
    assert found["calls"] == {"done": len(calls), "failed": {}, "refused": {}, "withdrawn": 0}
    assert found["tokens"]["generated"] == found["tokens"]["arrived"] == sum(call.decode for call in calls)
    assert {kind: values["workflow"]["count"] for kind, values in found["by_kind"].items()} == {
        kind: sum(workflow.kind == kind for workflow in sent) for kind in {workflow.kind for workflow in sent}
    }
    assert found["latencies"]["first_token"]["count"] == sum(bool(call.decode) for call in calls)
    assert found["server"]["after"]["slots_locked"] == 0
    assert "slots leaked 0" in done.stdout
    assert all(found["tokens"][name] >= 0 for name in CLASSES)


def test_ctrl_c_prints_what_was_measured(server):
    command = loadtest(server, "--rate", "20", "--duration", "600", "--scale", "0.05")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "first token" in out
    assert "slots leaked 0" in out
    assert "WRONG" not in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rate", "0"], "--rate is 0; use 1e-06 to 100000"),
        (["--rate", "nan"], "--rate is nan; use"),
        (["--utilisation", "80"], "--utilisation is 80; use 0.01 to 10"),
        (["--server", "localhost:1", "--rate", "1"], "no server answers at localhost:1"),
        (["--server", "localhost:1", "--", "--num-slots", "64"], "--num-slots 64 is for a server of the command's own"),
        (["--trace", "no-such.jsonl"], "no-such.jsonl"),
    ],
)
def test_what_cannot_be_is_said(words, says, capsys):
    assert main(["loadtest", *words]) == 2
    assert says in capsys.readouterr().err


def test_the_capacity_is_found_first(server, monkeypatch, tmp_path):
    monkeypatch.setattr(capacity, "STAGE_S", 0.3)
    monkeypatch.setattr(capacity, "MEASURE_S", 1.0)
    path = tmp_path / "load.json"
    words = ["--server", server[1], "--utilisation", "0.2", "--duration", "1", "--scale", "0.1", "--json", str(path)]
    main(["loadtest", *words])
    found = json.loads(path.read_text())
    assert found["defects"] == []
    assert found["rate"] == pytest.approx(0.2 * found["capacity"]["workflows"])
    assert set(found["capacity"]["rates"]) >= {"4", "8"}
    assert found["calls"]["done"] > 0
    assert found["server"]["after"]["workflows"] == 0


def test_a_server_without_room(server, capsys):
    assert main(["loadtest", "--server", server[1], "--rate", "5", "--duration", "1", "--scale", "100"]) == 1
    assert "no room for any of" in capsys.readouterr().err
