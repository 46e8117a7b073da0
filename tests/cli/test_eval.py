"""`pavane eval` as it is called, on a real server."""

import subprocess
import sys

from pavane.bench.workflows.journal import read
from pavane.bench.workflows.records import Diverged, Judged


def pavane(*words):
    command = [sys.executable, "-m", "pavane.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_answers_are_judged_and_their_edges_measured(tmp_path):
    path = tmp_path / "scores.jsonl"
    words = ("--sizes", "agents=2,rounds=1,answer_tokens=8,last_tokens=8", "--threads", "1", "--json", str(path))
    done = pavane("eval", "debate", "--count", "2", *words)
    assert done.returncode == 0, done.stderr
    records = read(path)
    judged = [record for record in records if isinstance(record, Judged)]
    assert sorted((one.problem, one.mode) for one in judged) == [(i, m) for i in (1, 2) for m in ("exact", "reuse")]
    assert all(len(one.texts) == 2 and 0 <= one.score <= 1 for one in judged)
    moved = {(one.problem, one.call): one for one in records if isinstance(one, Diverged)}
    assert len(moved) == 2 * 4, "of the runs with reuse, all answers"
    for (_, call), one in moved.items():
        assert 0 <= one.top1_agreement <= 1
        if call.endswith("round0"):
            assert one.kl < 1e-3, "nothing is read but the start, at its place"
        else:
            other = call.replace("1-", "2-") if "agent1" in call else call.replace("2-", "1-")
            assert set(one.kl_by_parent) == {"start", "debate", call[:-1] + "0", other[:-1] + "0"}
            assert one.kl > 1e-3
    assert [line.split()[:3] for line in done.stdout.splitlines()[2:4]] == [
        ["debate", mode, "2"] for mode in ("exact", "reuse")
    ]
    before = path.read_text()
    again = pavane("eval", "debate", "--count", "2", *words)
    assert (again.returncode, again.stdout, path.read_text()) == (0, done.stdout, before), "nothing was left to do"


def test_wrong_words_are_told_before_a_server_starts(tmp_path):
    path = tmp_path / "math.jsonl"
    path.write_text('{"problem": "?"}\n')
    wrong = pavane("eval", "debate", "--problems", str(path))
    assert (wrong.returncode, "math.jsonl:1: a math problem needs the field 'answer'" in wrong.stderr) == (2, True)
    sizes = pavane("eval", "debate", "--sizes", "agent=2")
    assert (sizes.returncode, "debate has no 'agent'; it has agents" in sizes.stderr) == (2, True)
