"""The commands as they are used, against a fake server in a process of its own."""

import argparse
import io
import json
import subprocess
import sys

import pytest
from rich.console import Console

from pavane.bench.server_process import ServerFailed, ServerProcess
from pavane.cli import main
from pavane.cli.board import LineBoard, LiveBoard
from pavane.cli.demo import comparison, verdict
from pavane.cli.sampling import add_sampling_arguments, sampling_options
from pavane.clients import Client
from pavane.clients.workflows import Setting
from pavane.clients.workflows.debate import DebateSizes
from pavane.clients.workflows.debate import run as run_debate
from pavane.clients.workflows.problem import TextProblem


def pavane(*words, **options):
    # gRPC's asyncio wants one loop per process: the sync client's is not pytest's.
    return subprocess.run(
        [sys.executable, "-m", "pavane.cli.main", *words], capture_output=True, text=True, timeout=30, **options
    )


def test_run_prints_texts_and_receipts(target):
    done = pavane("run", "debate.yaml", "--server", target, "--var", "problem=1+1?", "--seed", "3", "--priority", "2")
    assert done.returncode == 0, done.stderr
    assert "ann-0 | ann-0-0 ann-0-1 " in done.stdout
    assert "verdict | The right answer isverdict-0 " in done.stdout
    assert "│ total" in done.stdout


def test_run_writes_json(target):
    done = pavane("run", "branch_solve_merge.yaml", "--server", target, "--json", "-")
    graph = json.loads(done.stdout)
    assert [m["id"] for m in graph["messages"]][-1] == "story"
    assert graph["messages"][-1]["receipt"]["reused_in_place"] == 30
    assert graph["total"]["generated"] == 128 + 128 + 256
    assert "│ total" in done.stderr


def test_run_shows_what_failed(target, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("messages: [{id: bad, decode: }, {id: child, parents: [bad], decode: }]")
    done = pavane("run", str(path), "--server", target, "--json", str(tmp_path / "out.json"))
    assert done.returncode == 1
    assert "bad: the model gave no numbers [NAN; ids: bad]" in done.stdout
    assert "child: parent 'bad' failed" in done.stdout
    messages = json.loads((tmp_path / "out.json").read_text())["messages"]
    assert messages[0]["text"] == "bad-0 bad-1 "
    assert messages[1]["error"]["reason"] == "PARENT_FAILED"


def test_what_a_group_gives_up_is_no_failure(target, tmp_path):
    path = tmp_path / "first.yaml"
    path.write_text(
        "messages:\n"
        "  - {id: quick, decode: {max_tokens: 3}}\n"
        "  - {id: slow, decode: {max_tokens: 100000}}\n"
        "  - {id: final, parents: [first], decode: {max_tokens: 2}}\n"
        "groups: [{id: first, members: [slow, quick], need: 1, cancel_rest: true}]\n"
    )
    done = pavane("run", str(path), "--server", target, "--json", "-")
    assert done.returncode == 0, done.stdout
    messages = json.loads(done.stdout)["messages"]
    assert [message["state"] for message in messages] == ["done", "cancelled", "done"]
    assert [use["id"] for use in messages[2]["receipt"]["parents"]] == ["quick"]


def test_run_refuses_bad_variables(capsys):
    assert main.main(["run", "debate.yaml", "--var", "problem"]) == 2
    assert "NAME=VALUE" in capsys.readouterr().err
    assert main.main(["run", "debate.yaml", "--priority", str(2**31)]) == 2
    assert "--priority must be from -2147483648 to 2147483647" in capsys.readouterr().err
    assert main.main(["run", "debate.yaml", "--deadline", "nan"]) == 2
    assert "--deadline must be" in capsys.readouterr().err
    assert main.main(["run", "debate.yaml", "--deadline", "0"]) == 2
    assert "--deadline must be more than 0 seconds, not 0.0" in capsys.readouterr().err


def test_chat_reads_a_pipe(target):
    done = pavane(
        "chat", "--server", target, "--system", "be brief", "--max-tokens", "2", input="one\n\ntwo\n/exit\nno\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "m2-0 m2-1 \nm4-0 m4-1 \n"
    assert done.stderr.splitlines()[1].startswith("40 in place, 0 moved, 1 encoded, 2 generated")


def test_chat_reads_what_is_not_utf8(target):
    words = [sys.executable, "-m", "pavane.cli.main", "chat", "--server", target, "--max-tokens", "1"]
    done = subprocess.run(words, input=b"\xff\n", capture_output=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, b"m1-0 \n"), done.stderr


def test_options_of_sampling(tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "null"}')
    parser = argparse.ArgumentParser()
    add_sampling_arguments(parser)
    assert sampling_options(parser.parse_args([])) == {}
    told = ["--top-p", "0.5", "--repetition-penalty", "1.2", "--json-schema", str(schema)]
    expected = {"top_p": 0.5, "repetition_penalty": 1.2, "json_schema": '{"type": "null"}'}
    assert sampling_options(parser.parse_args(told)) == expected
    assert sampling_options(parser.parse_args(["--regex", "a|b"])) == {"regex": "a|b"}


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (["--top-p", "1.5"], "top_p must be from 0 to 1"),
        (["--frequency-penalty", "-3"], "frequency_penalty must be from -2 to 2"),
        (["--json-schema", "nowhere.json"], "nowhere.json"),
        (["--max-tokens", "-3"], "--max-tokens must be from 1 to 4294967295, not -3"),
        (["--namespace", "a b"], "a namespace has at most 64 of the characters"),
        (["--regex", "a", "--grammar", "b.lark"], "not allowed with argument"),
    ],
)
def test_chat_refuses_sampling_that_cannot_be(target, told, says):
    done = pavane("chat", "--server", target, *told, input="")
    assert done.returncode == 2
    assert says in done.stderr


async def test_the_debate_and_its_table(serve):
    problem, sizes = TextProblem("1+1?"), DebateSizes(agents=3, rounds=2, answer_tokens=4, last_tokens=4)
    async with ServerProcess(serve) as server, Client(server.target) as client:
        chat = await run_debate(client, problem, sizes, Setting("exact"))
        reuse = await run_debate(client, problem, sizes, Setting("reuse"))
    assert [edge.id for edge in chat.parents["agent2-round2"]] == [
        *("start", "agent2-round0", "agent2-round1", "debate"),
        *("agent1-round1", "agent3-round1"),
    ]
    assert [answer.seed for answer in chat.answers.values()] == [answer.seed for answer in reuse.answers.values()]
    assert len({answer.seed for answer in chat.answers.values()}) == 9
    assert chat.parents["agent1-round0"][0].fidelity == "exact"
    assert reuse.parents["agent1-round0"][0].fidelity == "reuse"
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(comparison(chat, reuse))
    text = console.export_text()
    assert "tokens generated                 │       36 │     36 │" in text
    assert verdict(chat, reuse).startswith("Reuse encoded ")


async def test_a_server_that_does_not_come_up_says_why():
    code = "import sys; print('no such model', file=sys.stderr); sys.exit(3)"
    with pytest.raises(ServerFailed, match=r"status 3 before it was ready.*\n  no such model"):
        await ServerProcess([sys.executable, "-c", code]).__aenter__()
    code = "import time; print('loading', flush=True); time.sleep(60)"
    with pytest.raises(ServerFailed, match="not ready after 0 s"):
        await ServerProcess([sys.executable, "-c", code], start_s=0.3).__aenter__()


async def test_a_server_that_does_not_stop_is_killed():
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('listening on h:1', flush=True)\nwhile True: time.sleep(60)"
    )
    async with ServerProcess([sys.executable, "-c", code], stop_s=0.1) as server:
        assert server.target == "h:1"
    assert server._process.returncode == -9


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_board_fits_the_terminal(width):
    console = Console(width=width, height=40, record=True, force_terminal=True, file=io.StringIO())
    board = LiveBoard(console, keep=True)
    for i in range(3):
        board.begin(f"agent {i}", "round 0/2")
        board.write(f"agent {i}", "word " * 200 + f"[b]end{i}[/b]")
    board.end("agent 1", "9 tokens")
    console.print(board.render())
    lines = console.export_text().splitlines()
    assert len(lines) == 11
    assert {len(line) for line in lines} == {width}
    assert all(f"[b]end{i}[/b]" in "\n".join(lines) for i in range(3))
    assert "agent 2 · round 0/2" in lines[0]
    assert "9 tokens" in lines[-1]


def test_the_line_board_keeps_whole_lines(capsys):
    with LineBoard(Console(highlight=False)) as board:
        board.begin("a", "")
        board.begin("b", "round 0")
        board.write("a", "one ")
        board.write("b", "two\nthr")
        board.write("a", "more\n\n[b]x")
        board.end("b", "done")
    assert capsys.readouterr().out.splitlines() == [
        *("b | -- round 0", "b | two", "a | one more", "b | thr", "b | -- done", "a | [b]x")
    ]
