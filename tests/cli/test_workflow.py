"""`pavane workflow` against a fake server, and what it says when something is wrong."""

import json

import pytest

from pavane.cli import main
from tests.cli.test_commands import pavane

SMALL = ("--answer-tokens", "4", "--last-tokens", "4", "--small")


def test_a_workflow_by_name(target, tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text('{"problem": "1+1?"}\n{"problem": "2+2?", "level": 1}\n')
    where = ("--server", target, "--problem", f"@{path}", "--line", "2")
    done = pavane("workflow", "debate", *where, *SMALL, "--agents", "2", "--json", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "debate  reuse, packed; agents 2, rounds 2, answer tokens 4, last tokens 4" in lines[0]
    assert lines[1] == "2+2?"
    assert "agent 1 | -- round 2" in lines
    assert "agent 2 | -- 4 tok · TTFT 0.01 s" in lines
    (total,) = [line.split() for line in lines if line.startswith("total")]
    assert total[-4:-1] == ["24", "wall", total[-2]]
    assert "with a prefix cache: 71." in lines[-1]
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["workflow"] == "debate"
    assert [edge["id"] for edge in written["parents"]["agent1-round1"]] == [
        *("start", "agent1-round0", "debate", "agent2-round0")
    ]


def test_json_on_standard_output(target):
    done = pavane("workflow", "multi-question", "--server", target, "--answer-tokens", "3", "--json", "-")
    assert json.loads(done.stdout)["final"] == "answer-0 answer-1 answer-2 "
    assert "final  answer-0 answer-1 answer-2" in done.stderr


def test_the_workflows_are_listed(capsys):
    assert main.main(["workflow", "--list"]) == 0
    assert "rag-team" in capsys.readouterr().out
    assert main.main(["workflow", "debate", "--print-prompts"]) == 0
    assert 'start = """\n{problem}"""' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "which workflow? tree-of-thoughts, "),
        (["debate", "--agents", "0"], "agents must be from 2 to 1000, not 0"),
        (["debate", "--problem", "@none.jsonl"], "cannot read none.jsonl"),
        (["debate", "--prompts", "none.toml"], "none.toml: "),
        (["debate", "--temperature", "-1"], "temperature must be from 0 to 100"),
        (["rag-team", "--problem", "Why?"], "this problem has several parts: write it as JSON"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(words, says, capsys):
    assert main.main(["workflow", *words]) == 2
    assert says in capsys.readouterr().err


def test_refusals_of_a_server(target, tmp_path):
    done = pavane("workflow", "debate", "--server", target)
    assert done.returncode == 2
    assert "the longest call reads and writes up to 3584 tokens of answers" in done.stderr
    path = tmp_path / "one.jsonl"
    path.write_text('{"problem": "1+1?"}\n')
    done = pavane("workflow", "debate", "--server", target, "--problem", f"@{path}", "--line", "2")
    assert done.returncode == 2
    assert "--line is 2, but" in done.stderr
    done = pavane("workflow", "debate", "--server", "127.0.0.1:1")
    assert done.returncode == 2
    assert "no server answers at 127.0.0.1:1" in done.stderr
