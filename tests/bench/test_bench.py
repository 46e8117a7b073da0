"""All comparisons at their smallest, as they are called, on a real server."""

import json
import subprocess
import sys
import time

import psutil

BENCHES = ["decode", "prefill", "sharing", "debate", "chat", "overhead"]


def test_all_print_one_table_and_write_json(tmp_path):
    path = tmp_path / "all.json"
    command = [sys.executable, "-m", "pavane.cli.main", "bench", "all", "--quick", "--peer", "none", "--threads", "1"]
    done = subprocess.run([*command, "--json", str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert [bench["bench"] for bench in found["benches"]] == BENCHES
    figures = [figure for bench in found["benches"] for figure in bench["figures"]]
    assert all(figure["value"] > 0 for figure in figures)
    head, rows, summary = done.stdout.strip().split("\n\n")
    assert "1 thread each" in head
    assert [line.split("  ")[0] for line in rows.splitlines()[2:]] == [figure["what"] for figure in figures]
    bars = [figure["met"] for figure in figures if figure["bar"]]
    assert summary.startswith(f"{sum(bars)} of {len(bars)} bars met; measured in ")
    for debate in found["benches"][3]["modes"].values():
        assert debate["tokens"] == debate["predicted"] != {}


def test_a_benchmark_that_is_stopped_leaves_no_server(tmp_path):
    pid = tmp_path / "pid"
    child = f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(60)"
    code = (
        "import sys\n"
        "from pavane.bench import lab, server_process\n"
        "from pavane.cli.main import main\n"
        "serve = classmethod(lambda cls, *words, env: cls([sys.executable, '-c', sys.argv[1]]))\n"
        "server_process.ServerProcess.serve = serve\n"
        "sys.exit(main(['bench', 'chat', '--quick']))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, child]) as bench:
        while not (pid.exists() and pid.read_text()):
            assert bench.poll() is None
            time.sleep(0.05)
        bench.terminate()
        assert bench.wait(20) == 130
    assert not psutil.pid_exists(int(pid.read_text()))
