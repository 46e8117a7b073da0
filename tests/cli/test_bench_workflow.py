"""`pavane bench workflow` and `pavane report` as they are called, on a real server."""

import subprocess
import sys

from pavane.bench.workflows.journal import read
from pavane.bench.workflows.records import Run


def pavane(*words):
    command = [sys.executable, "-m", "pavane.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def bench(path, *words, sizes="agents=2,rounds=1,answer_tokens=4,last_tokens=4"):
    return pavane("bench", "workflow", "debate", "--sizes", sizes, "--threads", "1", "--json", str(path), *words)


def test_runs_are_kept_gone_on_with_and_shown(tmp_path):
    path = tmp_path / "out.jsonl"
    first = bench(path, "--repeat", "1", "--peer", "http://127.0.0.1:1")
    assert first.returncode == 1
    assert "http://127.0.0.1:1: this peer is not there: /v1/models at 127.0.0.1:1: no answer" in first.stderr
    assert "could not be measured; what was measured is kept" in first.stderr
    assert "debate: wall, EXACT / REUSE" in first.stdout
    before = path.read_text()

    tokens = '"tokens":{"in_place":'
    path.write_text(before.replace(tokens, tokens + "1", 1))  # one more digit
    second = bench(path, "--repeat", "2")
    assert second.returncode == 1
    assert "WRONG COUNT: debate agents=2" in second.stderr
    path.write_text(path.read_text().replace(tokens + "1", tokens, 1))
    assert "goes on" in second.stderr
    assert path.read_text().startswith(before)
    runs = [record for record in read(path) if isinstance(record, Run)]
    assert sorted((run.arm, run.repetition) for run in runs) == [(arm, i) for arm in ("exact", "reuse") for i in (0, 1)]
    assert all(run.counted and run.predicted for run in runs)
    assert all(0 < run.kv_distinct <= run.kv_summed for run in runs)

    other = bench(path, "--serve=--dtype=float32")
    assert other.returncode == 1
    assert "was measured with serve (), and now it is ('--dtype=float32',): give another --json" in other.stderr

    page = pavane("report", str(path), "-o", str(tmp_path / "page"))
    assert page.returncode == 0, page.stderr
    assert "Workflows measured" in (tmp_path / "page" / "index.html").read_text()


def test_wrong_words_are_told_before_a_server_starts(tmp_path):
    assert pavane("bench", "workflow", "debat").returncode == 2
    wrong = bench(tmp_path / "out.jsonl", "--modes", "exact,fast")
    assert (wrong.returncode, "'fast' is none of exact, reuse, as-encoded" in wrong.stderr) == (2, True)
    text = tmp_path / "notes.jsonl"
    text.write_text("notes\n")
    assert "line 1: not JSON" in bench(text).stderr
    assert "line 1: not JSON" in pavane("report", str(text), "-o", str(tmp_path)).stderr
